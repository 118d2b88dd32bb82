"""Random problems for the return estimators, in every memory layout a caller may have."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

LAYOUTS = ("contiguous", "fortran", "every_second", "reversed", "offset")
FLAG_DTYPES = (np.bool_, np.uint8, np.int64, np.float32)


def lay_out(array, layout):
    """The same elements elsewhere in memory: with gaps, backwards, transposed or misaligned to vectors."""
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "every_second":
        wide = np.full([2 * size for size in array.shape], np.array(99, array.dtype))
        view = wide[tuple(slice(0, 2 * size, 2) for size in array.shape)]
    elif layout == "reversed":
        view = np.empty_like(array)[tuple(slice(None, None, -1) for _ in array.shape)]
    elif layout == "offset":
        view = np.empty([size + 1 for size in array.shape], array.dtype)[tuple(slice(1, None) for _ in array.shape)]
    else:
        return np.ascontiguousarray(array)
    view[...] = array
    return view


@dataclass(repr=False)
class Problem:
    """Time-major float64 and bool arrays [T, N], and how the call under test should see them."""

    rewards: np.ndarray
    values: np.ndarray
    next_values: np.ndarray
    final_values: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    gamma: np.ndarray
    lam: np.ndarray
    dtype: type
    flag_dtype: type
    layout: str
    time_axis: int

    def __repr__(self):
        called = f"dtype={self.dtype.__name__}, flags={self.flag_dtype.__name__}, {self.layout}, axis {self.time_axis}"
        return f"Problem({self.rewards.shape}, {called}, ends={int(self.terminated.sum() + self.truncated.sum())})"

    def arrange(self, array, dtype=None):
        """Give an array [T, N] the axes, the dtype and the memory layout of the call."""
        array = array.astype(dtype or self.dtype)
        return lay_out(array.T if self.time_axis == 1 and array.ndim == 2 else array, self.layout)

    def flags(self, array):
        return self.arrange(array, self.flag_dtype)

    def time_major(self, result):
        return result.T if self.time_axis == 1 else result

    def tolerance(self):
        return {"rtol": 1e-4, "atol": 1e-4} if self.dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}


@st.composite
def problems(draw, max_steps=70, max_columns=70):
    num_steps = draw(st.integers(0, max_steps))
    num_columns = draw(st.integers(0, max_columns))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (num_steps, num_columns)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    end_rate = draw(st.sampled_from([0.0, 0.05, 0.5]))
    # Rounded to the dtype at once, so that the reference computes from the very same numbers.
    floats = lambda *size: rng.standard_normal(size).astype(dtype).astype(np.float64)  # noqa: E731
    return Problem(
        rewards=floats(*shape),
        values=floats(*shape),
        next_values=floats(*shape),
        final_values=floats(*shape),
        terminated=rng.random(shape) < end_rate,
        truncated=rng.random(shape) < end_rate,
        mask=rng.random(shape) < draw(st.sampled_from([0.2, 0.8, 1.0])),
        gamma=rng.uniform(0.5, 1.0, shape).astype(dtype).astype(np.float64),
        lam=rng.uniform(0.0, 1.0, shape).astype(dtype).astype(np.float64),
        dtype=dtype,
        flag_dtype=draw(st.sampled_from(FLAG_DTYPES)),
        layout=draw(st.sampled_from(LAYOUTS)),
        time_axis=draw(st.integers(0, 1)),
    )
