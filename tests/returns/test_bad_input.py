"""Every wrong argument is an error that names it, raised before anything is written."""

import numpy as np
import pytest
from returns.estimators import ESTIMATORS

T, N = 5, 3


def misaligned(array):
    data = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    data[...] = array
    return data


def read_only(array):
    array.flags.writeable = False
    return array


def arguments_of(estimator):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((T, N)) for name in estimator.arrays}
    coefficients = dict.fromkeys(estimator.coefficients, 0.9)
    numbers = {"n": 2} if "n" in estimator.numbers else {}
    return {**arrays, "terminated": np.zeros((T, N), bool), **coefficients, **numbers}


NO_FLOATS = [
    [[1.0]],
    None,
    1.0,
    "rewards",
    np.zeros((T, N), int),
    np.zeros((T, N), bool),
    np.zeros((T, N), complex),
    np.zeros((T, N), object),
    np.zeros((T, N), np.longdouble),
    np.ma.zeros((T, N)),
    np.zeros((T, N), ">f8"),
    misaligned(np.zeros((T, N))),
]
WRONG_SHAPES = [np.zeros(shape) for shape in ((N, T), (T, N, 1), (1, T, N), (T,), (T + 1, N), (T, 1), (1, N), ())]
WRONG_FLAGS = [
    (ValueError, np.zeros(T, bool)),
    (ValueError, np.zeros((N, T), bool)),
    (ValueError, np.zeros(N, bool)),
    (TypeError, np.zeros((T, N), complex)),
    (TypeError, np.zeros((T, N), "U1")),
    (TypeError, np.zeros((T, N), object)),
    (TypeError, np.ma.zeros((T, N), bool)),
    (TypeError, [[0] * N] * T),
    (TypeError, False),
]
WRONG_COEFFICIENTS = [
    (TypeError, "0.99"),
    (TypeError, None),
    (TypeError, True),
    (TypeError, 1j),
    (TypeError, [0.95]),
    (TypeError, np.zeros((T, N), np.float32)),
    (TypeError, np.zeros((T, N), int)),
    (TypeError, np.ma.zeros((T, N))),
    (ValueError, np.zeros((T, N + 1))),
    (ValueError, np.zeros((1, T, N))),
    (ValueError, np.zeros(T)),
    (ValueError, np.zeros((N, T))),
]


def cases():
    for estimator in ESTIMATORS.values():
        for name in estimator.arrays:
            for value in NO_FLOATS:
                yield estimator, name, TypeError, {name: value}
            if name == "rewards":
                continue
            yield estimator, name, TypeError, {name: np.zeros((T, N), np.float32)}
            for value in WRONG_SHAPES:
                yield estimator, name, ValueError, {name: value}
        yield estimator, "rewards", ValueError, {"rewards": np.array(1.0)}
        yield estimator, "rewards", ValueError, {"rewards": np.zeros(T), "time_axis": 1}
        yield estimator, "rewards", ValueError, {"rewards": np.zeros((1,) * 9)}
        for name in ("terminated", "truncated"):
            for error, value in WRONG_FLAGS:
                yield estimator, name, error, {name: value}
        yield estimator, "terminated", TypeError, {"terminated": None}
        for name in estimator.coefficients:
            for error, value in WRONG_COEFFICIENTS:
                yield estimator, name, error, {name: value}
        if estimator.row is not None:
            for value in (np.zeros(N + 1), np.zeros(T), np.zeros((N, 1))):
                yield estimator, estimator.row, ValueError, {estimator.row: value}
            yield estimator, estimator.row, TypeError, {estimator.row: 0.0}
            yield estimator, estimator.row, TypeError, {estimator.row: np.zeros(N, np.float32)}
            yield estimator, estimator.row, TypeError, {estimator.row: np.zeros(N, int)}
        if estimator.takes_final_values:
            for value in (np.zeros(N), np.zeros((N, T)), np.array(0.0)):
                yield estimator, "final_values", ValueError, {"final_values": value}
            yield estimator, "final_values", TypeError, {"final_values": np.zeros((T, N), np.float32)}
            yield estimator, "final_values", TypeError, {"final_values": 0.0}
        if estimator.row == "next_values":
            missing = {"next_values": np.zeros(N), "truncated": np.eye(T, N, dtype=bool)}
            yield estimator, "final_values", ValueError, missing
        if estimator.takes_mask:
            for error, value in WRONG_FLAGS:
                yield estimator, "mask", error, {"mask": value}
        for value in (2, -1, 10**6):
            yield estimator, "time_axis", ValueError, {"time_axis": value}


def named(value):
    if isinstance(value, dict):
        return "-".join(f"{type(v).__name__}{getattr(v, 'shape', '')}{getattr(v, 'dtype', '')}" for v in value.values())
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("estimator", "match", "error", "change"), list(cases()), ids=named)
def test_inputs(estimator, match, error, change):
    arguments = {**arguments_of(estimator), **change}
    before = {name: np.array(array, copy=True) for name, array in arguments.items() if isinstance(array, np.ndarray)}
    with pytest.raises(error, match=match):
        estimator(**arguments)
    for name, array in before.items():
        np.testing.assert_array_equal(arguments[name], array)


def outputs_of_one():
    yield TypeError, [1.0]
    yield TypeError, np.empty((T, N), np.float32)
    yield TypeError, np.empty((T, N), int)
    yield TypeError, np.ma.zeros((T, N))
    yield ValueError, np.empty((N, T))
    yield ValueError, np.empty(T)
    yield ValueError, read_only(np.empty((T, N)))
    yield TypeError, misaligned(np.empty((T, N)))


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
def test_out(estimator):
    arguments = arguments_of(estimator)
    for position in range(estimator.num_outputs):
        for error, value in outputs_of_one():
            good = np.full((T, N), 7.0)
            if estimator.num_outputs == 1:
                out, match = value, "out"
            else:
                out, match = ((value, good), r"out\[0\]") if position == 0 else ((good, value), r"out\[1\]")
            with pytest.raises(error, match=match):
                estimator(**arguments, out=out)
            np.testing.assert_array_equal(good, 7)
    if estimator.num_outputs == 2:
        for error, out in (
            (TypeError, np.empty((T, N))),
            (ValueError, (np.empty((T, N)),)),
            (ValueError, [np.empty((T, N))] * 3),
            (TypeError, (np.empty((T, N)), None)),
        ):
            with pytest.raises(error, match="out"):
                estimator(**arguments, out=out)
    else:
        for out in ((np.empty((T, N)),), [np.empty((T, N))]):
            with pytest.raises((TypeError, ValueError), match="out"):
                estimator(**arguments, out=out)


@pytest.mark.parametrize(
    ("error", "n"),
    [(ValueError, 0), (ValueError, -1), (ValueError, -(10**30)), (ValueError, np.int64(0))]
    + [(TypeError, n) for n in (True, 2.0, np.float64(2), "2", None, np.array([2]), [2], 1j)],
)
def test_n(error, n):
    estimator = ESTIMATORS["n_step_returns"]
    with pytest.raises(error, match=r"\bn\b"):
        estimator(**{**arguments_of(estimator), "n": n})


@pytest.mark.parametrize("n", [1, 2, 10**9, 2**62, 10**30, np.int64(2), np.uint8(2)])
def test_any_positive_integer_is_an_n(n):
    estimator = ESTIMATORS["n_step_returns"]
    arguments = arguments_of(estimator)
    expected = estimator(**{**arguments, "n": min(int(n), T)})
    np.testing.assert_array_equal(estimator(**{**arguments, "n": n})[0], expected[0])


@pytest.mark.parametrize("name", ["clip_rho", "clip_c", "clip_pg_rho"])
@pytest.mark.parametrize(
    ("error", "value"),
    [(ValueError, 0), (ValueError, 0.0), (ValueError, -1.0), (ValueError, np.nan), (ValueError, -np.inf)]
    + [(TypeError, value) for value in ("1", None, True, 1j, [1.0], np.ones((T, N)))],
)
def test_clips(name, error, value):
    estimator = ESTIMATORS["vtrace"]
    with pytest.raises(error, match=name):
        estimator(**arguments_of(estimator), **{name: value})


@pytest.mark.parametrize("value", [1, np.float32(1), np.float64(1), np.int32(1)])
def test_any_number_is_a_clip(value):
    estimator = ESTIMATORS["vtrace"]
    arguments = arguments_of(estimator)
    for result, expected in zip(estimator(**arguments, clip_rho=value), estimator(**arguments), strict=True):
        np.testing.assert_array_equal(result, expected)


BOOTSTRAPPED = [estimator for estimator in ESTIMATORS.values() if estimator.row == "next_values"]


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("estimator", BOOTSTRAPPED, ids=str)
def test_a_truncated_step_before_the_last_needs_final_values(estimator, time_axis):
    for step in range(T):
        arguments = {**arguments_of(estimator), "next_values": np.ones(N), "truncated": np.zeros((T, N), bool)}
        arguments["truncated"][step, 1] = True
        for name, value in arguments.items():
            if isinstance(value, np.ndarray) and value.ndim == 2 and time_axis == 1:
                arguments[name] = np.ascontiguousarray(value.T)
        if step == T - 1:
            assert all(np.isfinite(result).all() for result in estimator(**arguments, time_axis=time_axis))
            continue
        with pytest.raises(ValueError, match="final_values"):
            estimator(**arguments, time_axis=time_axis)
        terminated = {**arguments, "terminated": arguments["truncated"]}
        assert all(np.isfinite(result).all() for result in estimator(**terminated, time_axis=time_axis))


def test_a_truncated_step_that_the_mask_skips_needs_no_final_values():
    estimator = ESTIMATORS["gae"]
    arguments = {**arguments_of(estimator), "next_values": np.ones(N), "truncated": np.zeros((T, N), bool)}
    arguments["mask"] = np.ones((T, N), bool)
    arguments["truncated"][1, 0] = True
    arguments["mask"][1, 0] = False
    # The last step that counts is followed by the bootstrap.
    arguments["truncated"][2, 1] = True
    arguments["mask"][3:, 1] = False
    assert np.isfinite(estimator(**arguments)).all()
