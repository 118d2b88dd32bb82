"""What an exact environment has of gymnasium's own: NumPy's functions and its streams of random numbers."""

import struct

import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random

from metafast import _core

__all__ = ["numpy_streams", "ufunc_loops"]


def ufunc_loops() -> bytes:
    """Return the loops that np.sin and np.cos end in, in the order of NumpyMath (csrc/envs/numpy_math.hpp).

    These are addresses, which are this process's own: they belong in no pickle.
    """
    pairs = [
        _core.ufunc_loop(function, np.dtype(dtype))
        for dtype in (np.float64, np.float32)
        for function in (np.sin, np.cos)
    ]
    return struct.pack("8P", *(address for pair in pairs for address in pair))


def numpy_streams(seeds: npt.NDArray[np.uint64], seeded: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the generators that gymnasium makes of the seeds marked, uint64 [N, 4].

    A row holds the state of PCG64, its high and low word, and then its increment's.
    """
    streams = np.zeros((len(seeds), 4), dtype=np.uint64)
    for index in np.flatnonzero(seeded):
        state = np_random(int(seeds[index]))[0].bit_generator.state["state"]
        streams[index] = (*divmod(state["state"], 2**64), *divmod(state["inc"], 2**64))
    return streams
