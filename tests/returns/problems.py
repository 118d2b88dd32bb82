"""Random problems for the return estimators, in every shape and memory layout a caller may have."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

LAYOUTS = ("contiguous", "fortran", "every_second", "reversed", "offset")
FLAG_DTYPES = (np.bool_, np.uint8, np.int64, np.float32)
# The last: every array in a layout of its own.
PROBLEM_LAYOUTS = (*LAYOUTS, "mixed")


def lay_out(array, layout):
    """The same elements elsewhere in memory: with gaps, backwards, transposed or misaligned to vectors."""
    if array.ndim == 0:
        return array.copy()
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

    batch: tuple[int, ...]
    rewards: np.ndarray
    values: np.ndarray
    next_values: np.ndarray
    final_values: np.ndarray
    log_rhos: np.ndarray
    bootstrap: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    mask: np.ndarray
    gamma: np.ndarray
    lam: np.ndarray
    dtype: type
    flag_dtype: type
    layout: str
    time_axis: int
    arranged: int = field(default=0)

    def __repr__(self):
        called = f"dtype={self.dtype.__name__}, flags={self.flag_dtype.__name__}, {self.layout}, axis {self.time_axis}"
        ends = int(self.terminated.sum() + self.truncated.sum())
        return f"Problem({len(self.rewards)} steps of {self.batch}, {called}, ends={ends})"

    def _repr_pretty_(self, printer, cycle):  # how hypothesis shows a falsifying example
        printer.text(repr(self))

    @property
    def shape(self):
        """The shape of the arrays that the call sees."""
        return (*self.batch[: self.time_axis], len(self.rewards), *self.batch[self.time_axis :])

    def arrange(self, array, dtype=None):
        """Give an array [T, N], or a row [N], the axes, the dtype and the memory layout of the call."""
        array = array.astype(dtype or self.dtype)
        if array.ndim == 2:
            array = np.moveaxis(array.reshape(len(array), *self.batch), 0, self.time_axis)
        else:
            array = array.reshape(self.batch)
        self.arranged += 1
        return lay_out(array, LAYOUTS[self.arranged % len(LAYOUTS)] if self.layout == "mixed" else self.layout)

    def flags(self, array):
        return self.arrange(array, self.flag_dtype)

    def time_major(self, result):
        return np.moveaxis(result, self.time_axis, 0).reshape(self.rewards.shape)

    def tolerance(self):
        return {"rtol": 1e-4, "atol": 1e-4} if self.dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}


def make_problem(num_steps, batch=(), *, seed=0, end_rate=0.05, mask_rate=0.8, rho_scale=1.0, on_grid=False, **called):
    """A problem from a seed. `on_grid`: of eighths and powers of 1/2, so that comparing is exact in any precision."""
    rng = np.random.default_rng(seed)
    shape = (num_steps, int(np.prod(batch, dtype=int)))
    called = {"dtype": np.float64, "flag_dtype": np.bool_, "layout": "contiguous", "time_axis": 0, **called}
    # Rounded to the dtype at once, so that the reference computes from the very same numbers.
    rounded = lambda array: array.astype(called["dtype"]).astype(np.float64)  # noqa: E731

    def floats(*size):
        return rng.integers(-16, 17, size) / 8 if on_grid else rounded(rng.standard_normal(size))

    def coefficients(low):
        some = rng.choice([0.25, 0.5, 1.0], shape) if on_grid else rng.uniform(low, 1.0, shape)
        return rounded(np.where(rng.random(shape) < 0.02, 0, some))

    return Problem(
        batch=batch,
        rewards=floats(*shape),
        values=floats(*shape),
        next_values=floats(*shape),
        final_values=floats(*shape),
        log_rhos=rounded(rng.normal(-0.2, rho_scale, shape)),
        bootstrap=floats(shape[1]),
        terminated=rng.random(shape) < end_rate,
        truncated=rng.random(shape) < end_rate,
        mask=rng.random(shape) < mask_rate,
        gamma=coefficients(0.5),
        lam=coefficients(0.0),
        **called,
    )


@st.composite
def problems(draw, max_steps=70, max_columns=70, on_grid=False):
    few, columns = st.integers(1, 9), st.one_of(st.integers(0, 1), st.integers(2, max_columns))
    batch = draw(
        st.one_of(
            st.just(()),
            st.tuples(few),
            st.tuples(columns),
            st.tuples(columns),
            st.tuples(few, few),
            st.tuples(st.integers(0, 2), columns),
        )
    )
    long = 6 * max_steps if np.prod(batch) < 10 else max_steps
    num_steps = draw(st.one_of(st.integers(0, 1), st.integers(2, max_steps), st.integers(2, long)))
    return make_problem(
        num_steps,
        batch,
        seed=draw(st.integers(0, 2**32 - 1)),
        end_rate=draw(st.sampled_from([0.0, 0.05, 0.5])),
        mask_rate=draw(st.sampled_from([0.2, 0.8, 1.0])),
        rho_scale=draw(st.sampled_from([0.3, 1.0])),
        on_grid=on_grid,
        dtype=draw(st.sampled_from([np.float32, np.float64])),
        flag_dtype=draw(st.sampled_from(FLAG_DTYPES)),
        layout=draw(st.sampled_from(PROBLEM_LAYOUTS)),
        time_axis=draw(st.integers(0, 1)) if batch else 0,
    )
