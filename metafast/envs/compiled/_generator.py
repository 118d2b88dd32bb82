"""The random numbers of a user's environment, in plain Python: csrc/envs/randomness.hpp's, number for number."""

import math
from typing import Any

import numpy as np

from metafast.envs import math as vector_math

__all__ = ["Generator"]

_MASK = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: csrc/common/philox.hpp."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & _MASK, (product0 >> 32) ^ c3 ^ k1, product0 & _MASK
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _uniform(high: int, low: int) -> float:
    return ((high >> 5) * 67108864.0 + (low >> 6)) * 2.0**-53


class Generator:
    """Random numbers for one call of a user's ``reset`` or ``step``.

    They depend on the environment's seed, its episode and its step alone, so that a run can be repeated whatever the
    number of environments or threads. Each draw takes one block of Philox4x32-10. They are NumPy's numbers, which as in
    compiled code may be divided by zero.
    """

    def __init__(self, seed: int, episode: int, step: int) -> None:
        self._key = (seed & _MASK, seed >> 32)
        self._episode = (episode & _MASK, episode >> 32)
        self._step = step
        self._block = 0

    def _draw(self) -> tuple[float, float]:
        w0, w1, w2, w3 = philox((*self._episode, self._block, self._step), self._key)
        self._block += 1
        return _uniform(w0, w1), _uniform(w2, w3)

    def random(self) -> Any:
        """A float64 uniform on [0, 1), a multiple of 2^-53."""
        return np.float64(self._draw()[0])

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Any:
        """A float64 uniform on [low, high)."""
        return np.float64(low + (high - low) * self._draw()[0])

    def normal(self, mean: float = 0.0, std: float = 1.0) -> Any:
        """A normally distributed float64, by Box and Muller's transformation (1958)."""
        first, second = self._draw()
        radius = math.sqrt(-2.0 * vector_math.log(1.0 - first))
        return np.float64(mean + std * (radius * vector_math.cos(6.283185307179586 * second)))

    def integers(self, low: int, high: int) -> Any:
        """An integer from low to high - 1: low + floor(u * (high - low)), u a uniform of 53 bits.

        Each has its due probability to within 2^-53. Raises ValueError unless low < high.
        """
        if high <= low:
            raise ValueError("rng.integers(low, high) needs low < high")
        return np.int64(low + int((high - low) * self._draw()[0]))
