"""Where the arrays lie: inputs that are read only or repeat themselves, results in memory that the caller gives."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns.estimators import ESTIMATORS, Case, on_every_isa, options
from returns.problems import LAYOUTS, lay_out, make_problem, problems

few = settings(max_examples=25)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
FULL = {"gamma": "full", "lam": "full"}


def numbers_of(estimator):
    return {"n": 3} if estimator.name == "n_step_returns" else {}


def small_case(
    estimator, *, num_steps=12, batch=(5,), seed=0, coefficients=FULL, time_axis=0, dtype=np.float64, **options
):
    problem = make_problem(num_steps, batch, seed=seed, end_rate=0.1, on_grid=True, time_axis=time_axis, dtype=dtype)
    return Case(estimator, problem, coefficients=coefficients, numbers=numbers_of(estimator), **options)


def pair_or_one(arrays):
    return arrays if len(arrays) == 2 else arrays[0]


@every_estimator
@few
@given(data=st.data(), out_layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2))
def test_out_receives_the_results(estimator, data, out_layouts):
    case = Case(
        estimator,
        data.draw(problems(max_steps=30, max_columns=30, on_grid=estimator.name == "upgo")),
        **data.draw(options(estimator)),
    )
    arguments, expected, bounds = case.arguments(), case.expected(), case.error_bounds()
    for _ in on_every_isa():
        made = [
            lay_out(np.full(case.problem.shape, 7.0, case.problem.dtype), layout)
            for layout in out_layouts[: estimator.num_outputs]
        ]
        surroundings = [array.base if array.base is not None else array for array in made]
        margins = [np.array(base, copy=True) for base in surroundings]
        results = estimator(**arguments, out=pair_or_one(tuple(made)))
        assert all(result is array for result, array in zip(results, made, strict=True))
        case.assert_agrees(results, expected, bounds)
        # Nothing but the results was written.
        for base, margin, array in zip(surroundings, margins, made, strict=True):
            array[...] = 7
            np.testing.assert_array_equal(base, margin)


@every_estimator
def test_out_of_two_may_be_a_list(estimator):
    case = small_case(estimator)
    out = [np.empty(case.problem.shape) for _ in range(estimator.num_outputs)]
    results = case.call(out=pair_or_one(out))
    for result, array, wanted in zip(results, out, case.call(), strict=True):
        assert result is array
        np.testing.assert_array_equal(result, wanted)


@every_estimator
@pytest.mark.parametrize("with_row", [False, True])
def test_out_may_share_memory_with_no_input(estimator, with_row):
    case = small_case(estimator, with_row=with_row)
    arguments = case.arguments()
    floats = [name for name, value in arguments.items() if isinstance(value, np.ndarray) and value.dtype == float]
    assert len(floats) > len(estimator.arrays)
    for name in floats:
        for position in range(estimator.num_outputs):
            memory = np.zeros(2 * max(arguments[name].size, case.problem.rewards.size))
            taken = memory[: arguments[name].size].reshape(arguments[name].shape)
            taken[...] = arguments[name]
            out = [np.empty(case.problem.shape) for _ in range(estimator.num_outputs)]
            # One element in common.
            first = taken.size - 1
            out[position] = memory[first : first + out[position].size].reshape(case.problem.shape)
            with pytest.raises(ValueError, match=rf"out.*shares memory with {name}"):
                estimator(**{**arguments, name: taken}, out=pair_or_one(tuple(out)))
            np.testing.assert_array_equal(taken, arguments[name])


@every_estimator
@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_out_may_share_memory_with_no_flag(estimator, flag):
    case = small_case(estimator)
    arguments = case.arguments()
    out = [np.zeros(case.problem.shape) for _ in range(estimator.num_outputs)]
    bytes_of_out = out[0].view(np.uint8).reshape(-1)[: case.problem.rewards.size].reshape(case.problem.shape)
    with pytest.raises(ValueError, match=rf"out.*shares memory with {flag}"):
        estimator(**{**arguments, flag: bytes_of_out}, out=pair_or_one(tuple(out)))


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS.values() if e.num_outputs == 2], ids=str)
def test_the_results_may_not_share_memory(estimator):
    case = small_case(estimator)
    array = np.empty(case.problem.shape)
    with pytest.raises(ValueError, match=r"out\[0\].*out\[1\]"):
        case.call(out=(array, array[::-1]))


@every_estimator
@pytest.mark.parametrize("kind", ["every second element", "halves of rows", "halves of columns"])
def test_out_may_interleave_with_an_input(estimator, kind):
    # The byte ranges overlap or touch, the elements do not.
    case = small_case(estimator)
    arguments, (num_steps, num_columns) = case.arguments(), case.problem.shape
    both = np.zeros((num_steps, num_columns, 2))
    if kind == "every second element":
        one, other = both[..., 0], both[..., 1]
    elif kind == "halves of rows":
        one, other = both.reshape(num_steps, 2, num_columns).swapaxes(0, 1)
    else:
        one, other = both.reshape(2, num_steps, num_columns)
    one[...] = arguments["rewards"]
    arguments["rewards"] = one
    out = (other, np.empty(case.problem.shape))[: estimator.num_outputs]
    for result, wanted in zip(estimator(**arguments, out=pair_or_one(out)), case.call(), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(one, case.arguments()["rewards"])


@every_estimator
@pytest.mark.parametrize("layout", ["contiguous", "every_second", "fortran"])
def test_inputs_may_be_read_only_and_are_not_written(estimator, layout):
    case = small_case(estimator, with_row=True, with_mask=True)
    case.problem.layout = layout
    arguments = case.arguments()
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    before = {name: value.copy() for name, value in arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    for _ in on_every_isa():
        for result in estimator(**arguments):
            assert result.flags.writeable
            assert not any(np.shares_memory(result, array) for array in arrays.values())
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


def in_memory_order(array, order):
    """The same array, its axes lying in memory in the given order."""
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


@every_estimator
@few
@given(data=st.data(), time_axis=st.integers(0, 1), with_row=st.booleans(), with_mask=st.booleans())
def test_every_array_may_lie_in_memory_in_its_own_order(estimator, data, time_axis, with_row, with_mask):
    num_steps, *batch = data.draw(st.tuples(*[st.integers(1, 4)] * 4))
    case = small_case(
        estimator,
        num_steps=num_steps,
        batch=tuple(batch),
        seed=data.draw(st.integers(0, 99)),
        time_axis=time_axis,
        with_row=with_row,
        with_mask=with_mask,
    )
    expected, arguments = case.call(), case.arguments()
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            arguments[name] = in_memory_order(value, data.draw(st.permutations(range(value.ndim))))
    for result, wanted in zip(estimator(**arguments), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-13, atol=1e-13)


@every_estimator
@pytest.mark.parametrize("axis", [0, 1])
def test_inputs_may_repeat_themselves(estimator, axis):
    # Strides of zero, as np.broadcast_to makes them: one value for all steps, or for all columns.
    case = small_case(estimator, with_row=True)
    problem = case.problem
    repeated = {
        name: np.broadcast_to(getattr(problem, name)[(slice(1),) if axis == 0 else np.s_[:, :1]], problem.rewards.shape)
        for name in ("rewards", "values", "next_values", "final_values", "log_rhos", "terminated", "truncated")
    }
    expected = replace(
        case, problem=replace(problem, **{name: array.copy() for name, array in repeated.items()})
    ).call()
    arguments = case.arguments()
    for name, field in {**estimator.arrays, "terminated": "terminated", "truncated": "truncated"}.items():
        if name != estimator.row:
            arguments[name] = repeated[field]
    if case.with_final_values:
        arguments["final_values"] = repeated["final_values"]
    for _ in on_every_isa():
        for result, wanted in zip(estimator(**arguments), expected, strict=True):
            np.testing.assert_allclose(result, wanted, rtol=1e-13, atol=1e-13)
            assert result.flags.writeable


@every_estimator
def test_repeating_rewards_do_not_decide_the_memory_order(estimator):
    case = small_case(estimator)
    arguments = case.arguments()
    arguments["rewards"] = np.broadcast_to(arguments["rewards"][:, :1], case.problem.shape)
    for result, wanted in zip(
        estimator(**arguments), estimator(**{**arguments, "rewards": arguments["rewards"].copy()}), strict=True
    ):
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, wanted)


@every_estimator
@pytest.mark.parametrize("time_axis", [0, 1])
def test_results_lie_in_memory_as_the_rewards_do(estimator, time_axis):
    # So that nothing is copied on the way in or out.
    for layout in ("contiguous", "fortran"):
        case = small_case(estimator, time_axis=time_axis)
        case.problem.layout = layout
        for result in case.call():
            assert result.flags.f_contiguous if layout == "fortran" else result.flags.c_contiguous


@every_estimator
@pytest.mark.parametrize("layout", LAYOUTS)
def test_float16_is_computed_in_float32(estimator, layout):
    half = small_case(estimator, dtype=np.float16, with_row=True)
    half.problem.layout = layout
    single = replace(half, problem=replace(half.problem, dtype=np.float32))
    for result, wanted in zip(half.call(), single.call(), strict=True):
        assert result.dtype == np.float16
        np.testing.assert_array_equal(result, wanted.astype(np.float16))


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS.values() if e.row], ids=str)
def test_a_numpy_number_is_a_row_without_axes(estimator):
    case = small_case(estimator, batch=(), with_row=True)
    row = case.arguments()[estimator.row]
    for result, wanted in zip(case.call(**{estimator.row: row[()]}), case.call(), strict=True):
        np.testing.assert_array_equal(result, wanted)
