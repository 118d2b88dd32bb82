"""The CUDA kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

def devices() -> list[dict[str, Any]]: ...

# (address, outer stride, time stride, inner stride), the strides in elements.
_ReturnsArray = tuple[int, int, int, int]

# Where the arguments of a return estimator stand in the lists of `solve_returns`: by kind and name.
RETURNS_SLOTS: dict[str, dict[str, int]]

def solve_returns(
    kernel: str,
    floats: str,
    extents: tuple[int, int, int],
    inputs: list[_ReturnsArray | None],
    flags: list[_ReturnsArray | None],
    factors: list[_ReturnsArray | None],
    numbers: list[float],
    clips: list[float],
    bootstrapped: bool,
    results: list[_ReturnsArray | None],
    n: int,
    scratch: int,
    stream: tuple[int, int],
) -> int: ...
