import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns import reference
from returns.problems import problems

import metafast

fixture_is_fine = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def expect(problem, *, next_values, truncated=None, final_values=None, mask=None, gamma=None, lam=None):
    none = np.zeros_like(problem.terminated)
    full = np.ones(problem.rewards.shape)
    return reference.gae(
        problem.rewards,
        problem.values,
        next_values,
        problem.terminated,
        none if truncated is None else truncated,
        problem.dtype(0.99) * full if gamma is None else gamma,
        problem.dtype(0.95) * full if lam is None else lam,
        final_values,
        mask,
    )


def agree(problem, results, expected):
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == problem.dtype
        np.testing.assert_allclose(problem.time_major(result), wanted, **problem.tolerance())


@fixture_is_fine
@given(problem=problems(), with_truncated=st.booleans())
def test_full_successors(isa, problem, with_truncated):
    results = metafast.gae(
        problem.arrange(problem.rewards),
        problem.arrange(problem.values),
        problem.arrange(problem.next_values),
        problem.flags(problem.terminated),
        problem.flags(problem.truncated) if with_truncated else None,
        time_axis=problem.time_axis,
    )
    truncated = problem.truncated if with_truncated else None
    agree(problem, results, expect(problem, next_values=problem.next_values, truncated=truncated))


@fixture_is_fine
@given(problem=problems(), with_mask=st.booleans())
def test_bootstrap_and_final_values(isa, problem, with_mask):
    bootstrap = problem.final_values[0] if len(problem.rewards) else np.zeros(problem.rewards.shape[1])
    results = metafast.gae(
        problem.arrange(problem.rewards),
        problem.arrange(problem.values),
        problem.arrange(bootstrap),
        problem.flags(problem.terminated),
        problem.flags(problem.truncated),
        final_values=problem.arrange(problem.final_values),
        mask=problem.flags(problem.mask) if with_mask else None,
        time_axis=problem.time_axis,
    )
    expected = expect(
        problem,
        next_values=bootstrap,
        truncated=problem.truncated,
        final_values=problem.final_values,
        mask=problem.mask if with_mask else None,
    )
    agree(problem, results, expected)


@given(problem=problems())
def test_mask_with_full_successors(problem):
    results = metafast.gae(
        problem.arrange(problem.rewards),
        problem.arrange(problem.values),
        problem.arrange(problem.next_values),
        problem.flags(problem.terminated),
        mask=problem.flags(problem.mask),
        time_axis=problem.time_axis,
    )
    agree(problem, results, expect(problem, next_values=problem.next_values, mask=problem.mask))


@given(problem=problems(), shape=st.sampled_from(["full", "per_step", "per_column", "one"]))
def test_coefficient_arrays(problem, shape):
    pick = {
        "full": lambda array: array,
        "per_step": lambda array: array[:, :1],
        "per_column": lambda array: array[:1],
        "one": lambda array: array[:1, :1],
    }[shape]
    if 0 in problem.rewards.shape:
        return
    gamma, lam = pick(problem.gamma), pick(problem.lam)
    results = metafast.gae(
        problem.arrange(problem.rewards),
        problem.arrange(problem.values),
        problem.arrange(problem.next_values),
        problem.flags(problem.terminated),
        problem.flags(problem.truncated),
        gamma=problem.arrange(gamma),
        lam=problem.arrange(lam),
        time_axis=problem.time_axis,
    )
    full = problem.rewards.shape
    expected = expect(
        problem,
        next_values=problem.next_values,
        truncated=problem.truncated,
        gamma=np.broadcast_to(gamma, full),
        lam=np.broadcast_to(lam, full),
    )
    agree(problem, results, expected)


@pytest.mark.parametrize(
    ("terminated", "truncated", "final_values", "advantages"),
    [
        ([0, 0, 0], None, None, [1.3203125, 2.78125, 3.875]),
        ([0, 1, 0], None, None, [1.0625, 1.75, 3.875]),
        ([0, 0, 0], [0, 1, 0], [np.nan, 4.0, np.nan], [1.5625, 3.75, 3.875]),
    ],
    ids=["no end", "terminated", "truncated"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_worked_examples(dtype, terminated, truncated, final_values, advantages):
    # gamma = lambda = 1/2, all numbers exact in binary.
    result, returns = metafast.gae(
        np.array([1, 2, 3], dtype),
        np.array([1 / 2, 1 / 4, 1 / 8], dtype),
        np.array(2, dtype),
        np.array(terminated, bool),
        None if truncated is None else np.array(truncated, bool),
        gamma=0.5,
        lam=0.5,
        final_values=None if final_values is None else np.array(final_values, dtype),
    )
    np.testing.assert_array_equal(result, np.array(advantages, dtype))
    np.testing.assert_array_equal(returns, result + np.array([1 / 2, 1 / 4, 1 / 8], dtype))


def test_token_mask_holds_the_carry():
    advantages, returns = metafast.gae(
        np.array([0.0, 1.0, 0.0]),
        np.array([0.0, 0.0, 100.0]),
        np.array(0.0),
        np.zeros(3, bool),
        gamma=1.0,
        lam=0.95,
        mask=np.array([1, 1, 0]),
    )
    np.testing.assert_array_equal(advantages, [0.95, 1.0, 0.0])
    np.testing.assert_array_equal(returns, [0.95, 1.0, 0.0])


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_garbage_never_crosses_an_end(isa, time_axis, garbage):
    rng = np.random.default_rng(0)
    shape = (40, 37)
    rewards, values, next_values = (rng.standard_normal(shape) for _ in range(3))
    terminated, truncated = np.zeros(shape, bool), np.zeros(shape, bool)
    terminated[20, ::2] = True
    truncated[20, 1::2] = True
    clean, _ = metafast.gae(rewards, values, next_values, terminated, truncated)
    rewards[21:] = values[21:] = garbage
    next_values[20, ::2] = garbage  # the successor of a terminal state has no value to read
    swap = (lambda array: array.T.copy()) if time_axis else (lambda array: array)
    arrays = (swap(array) for array in (rewards, values, next_values, terminated, truncated))
    dirty = swap(metafast.gae(*arrays, time_axis=time_axis)[0])
    np.testing.assert_allclose(dirty[:21], clean[:21], rtol=1e-12)
    assert not np.isfinite(dirty[21:]).any()


@given(problem=problems())
def test_out_receives_the_results(problem):
    arguments = (
        problem.arrange(problem.rewards),
        problem.arrange(problem.values),
        problem.arrange(problem.next_values),
        problem.flags(problem.terminated),
    )
    expected = metafast.gae(*arguments, time_axis=problem.time_axis)
    out = tuple(problem.arrange(np.full(problem.rewards.shape, 7.0)) for _ in range(2))
    results = metafast.gae(*arguments, time_axis=problem.time_axis, out=out)
    for result, given_array, wanted in zip(results, out, expected, strict=True):
        assert result is given_array
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 5000), (3000, 70), (100000, 2), (1, 200000)])
@pytest.mark.usefixtures("restore_num_threads")
def test_same_bits_for_any_number_of_threads(isa, shape, time_axis):
    rng = np.random.default_rng(1)
    floats = [rng.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    flags = [rng.random(shape) < 0.01 for _ in range(2)]
    results = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        results.append(metafast.gae(*floats, *flags, time_axis=time_axis))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("shape", [(1500, 4100), (1500, 4099), (5, 2, 3), (4, 1, 0, 2), (6,)])
def test_large_odd_and_many_dimensional_shapes(isa, shape):
    rng = np.random.default_rng(2)
    rewards, values = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    final_values = rng.standard_normal(shape, dtype=np.float32)
    bootstrap = rng.standard_normal(shape[1:], dtype=np.float32)
    terminated, truncated = (rng.random(shape) < 0.01 for _ in range(2))
    advantages, _ = metafast.gae(rewards, values, bootstrap, terminated, truncated, final_values=final_values)
    columns = (shape[0], int(np.prod(shape[1:])))
    picked = slice(None, None, 97) if columns[1] > 1000 else slice(None)
    flat = [array.reshape(columns)[:, picked] for array in (rewards, values, terminated, truncated, final_values)]
    full = np.ones_like(flat[0], dtype=np.float64)
    expected, _ = reference.gae(
        flat[0], flat[1], bootstrap.reshape(-1)[picked], flat[2], flat[3],
        np.float32(0.99) * full, np.float32(0.95) * full, flat[4],
    )  # fmt: skip
    assert advantages.shape == shape
    np.testing.assert_allclose(advantages.reshape(columns)[:, picked], expected, rtol=1e-3, atol=1e-3)


def in_memory_order(array, order):
    """The same array, its axes lying in memory in the given order."""
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


@given(st.data(), st.integers(0, 1), st.booleans())
def test_every_array_may_lie_in_memory_in_its_own_order(data, time_axis, with_mask):
    shape = data.draw(st.tuples(*[st.integers(1, 4)] * 4))
    row_shape = shape[:time_axis] + shape[time_axis + 1 :]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    floats = {name: rng.standard_normal(shape) for name in ("rewards", "values", "final_values")}
    floats["next_values"] = rng.standard_normal(row_shape)
    flags = {name: rng.random(shape) < 0.3 for name in ("terminated", "truncated")}
    if with_mask:
        flags["mask"] = rng.random(shape) < 0.7
    arrays = floats | flags
    expected = metafast.gae(**arrays, time_axis=time_axis)
    moved = {
        name: in_memory_order(array, data.draw(st.permutations(range(array.ndim)))) for name, array in arrays.items()
    }
    for result, wanted in zip(metafast.gae(**moved, time_axis=time_axis), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-13, atol=1e-13)


def test_broadcast_rewards_do_not_decide_the_memory_order():
    values = np.random.default_rng(0).standard_normal((6, 5))
    rewards = np.broadcast_to(np.arange(6.0)[:, None], (6, 5))
    advantages, _ = metafast.gae(rewards, values, values[-1], np.zeros((6, 5), bool))
    assert advantages.flags.c_contiguous
    expected, _ = metafast.gae(rewards.copy(), values, values[-1], np.zeros((6, 5), bool))
    np.testing.assert_array_equal(advantages, expected)


def test_a_numpy_number_is_a_row_without_axes():
    values = np.array([0.5, 0.25, 2.0])
    arguments = (np.ones(2), values[:2]), np.zeros(2, bool)
    expected, _ = metafast.gae(*arguments[0], np.array(2.0), arguments[1])
    np.testing.assert_array_equal(metafast.gae(*arguments[0], values[-1], arguments[1])[0], expected)


def test_a_right_padded_mask_ends_in_the_bootstrap():
    arguments = {"rewards": np.ones(3), "values": np.zeros(3), "next_values": np.array(10.0), "gamma": 0.5}
    advantages, _ = metafast.gae(
        **arguments,
        terminated=np.zeros(3, bool),
        truncated=np.array([False, True, False]),
        mask=np.array([True, True, False]),
    )
    np.testing.assert_allclose(advantages, [1 + 0.475 * 6, 6.0, 0.0])
