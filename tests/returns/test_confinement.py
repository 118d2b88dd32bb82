"""NaN and infinity stay in their column, cross no end of an episode, and are seen wherever they count."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns import reference
from returns.estimators import ESTIMATORS, Case, assert_within, on_every_isa, options
from returns.problems import problems

GARBAGE = st.sampled_from([np.nan, np.inf, -np.inf])
FLOATS = ("rewards", "values", "next_values", "final_values", "log_rhos", "gamma", "lam")
few = settings(max_examples=30)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)


@st.composite
def cases(draw, estimator, **fixed):
    """All with full coefficients, which may then hold garbage too."""
    problem = draw(problems(max_steps=40, max_columns=24, on_grid=estimator.name == "upgo"), label="problem")
    chosen = {**draw(options(estimator), label="options"), "coefficients": {"gamma": "full", "lam": "full"}}
    return Case(estimator, problem, **{**chosen, **fixed})


def soiled(case, where, garbage, names=FLOATS):
    """The same case with garbage in the named arrays at the given places, [T, N]."""
    arrays = {name: np.where(where, garbage, getattr(case.problem, name)) for name in names}
    return replace(case, problem=replace(case.problem, **arrays))


def assert_clean(case, dirty, untouched):
    """The results of `dirty` are those of `case` where `untouched`."""
    expected, bounds, arguments = case.expected(), case.error_bounds(), dirty.arguments()
    for _ in on_every_isa():
        for result, wanted, bound in zip(case.estimator(**arguments), expected, bounds, strict=True):
            assert_within(case.problem.time_major(result)[untouched], wanted[untouched], bound[untouched])


@every_estimator
@few
@given(data=st.data(), garbage=GARBAGE)
def test_it_stays_in_its_columns(estimator, data, garbage):
    case = data.draw(cases(estimator))
    columns = np.random.default_rng(data.draw(st.integers(0, 99))).random(case.problem.bootstrap.shape) < 0.3
    dirty = soiled(case, columns, garbage)
    dirty.problem.bootstrap = np.where(columns, garbage, case.problem.bootstrap)
    assert_clean(case, dirty, np.broadcast_to(~columns, case.problem.rewards.shape))


@every_estimator
@few
@given(data=st.data(), garbage=GARBAGE)
def test_it_never_crosses_an_end(estimator, data, garbage):
    # Everything is garbage behind the first end of each column.
    case = data.draw(cases(estimator, with_mask=False))
    problem = case.problem
    ends = problem.terminated | (problem.truncated & case.with_truncated)
    behind = (np.cumsum(ends, axis=0) - ends) > 0
    dirty = soiled(case, behind, garbage)
    dirty.problem.bootstrap = np.where(behind[-1:].any(0), garbage, problem.bootstrap)
    assert_clean(case, dirty, ~behind)


@every_estimator
@few
@given(data=st.data(), garbage=GARBAGE)
def test_it_never_runs_forwards_in_time(estimator, data, garbage):
    case = data.draw(cases(estimator))
    shape = case.problem.rewards.shape
    first_clean = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, shape[0] + 1, shape[1])
    past = np.arange(shape[0])[:, None] < first_clean
    assert_clean(case, soiled(case, past, garbage), ~past)


@every_estimator
@few
@given(data=st.data(), garbage=GARBAGE)
def test_what_does_not_count_is_not_read(estimator, data, garbage):
    case = data.draw(cases(estimator, with_mask=False))
    problem = case.problem
    truncated = problem.truncated & case.with_truncated
    ends = reference.ends_of(problem.terminated, truncated)
    # The successor of a terminal state has no value, and at the end of an episode there is nothing to weigh.
    dirty = soiled(case, problem.terminated, garbage, ["gamma"] + ["next_values"] * (not case.with_row))
    if estimator.name == "retrace":
        starts = np.concatenate([np.ones_like(ends[:1]), ends[:-1]])
        dirty = soiled(dirty, True, garbage, ["values"])  # the predictions themselves
        dirty = soiled(dirty, ends, garbage, ["final_values"])  # next_q
        dirty = soiled(dirty, starts, garbage, ["log_rhos", "lam"])
    else:
        dirty = soiled(dirty, problem.terminated | truncated, garbage, ["lam"])
        read = truncated & ~problem.terminated & (case.with_row or estimator.name == "discounted_returns")
        dirty = soiled(dirty, ~read, garbage, ["final_values"])
    left = problem.terminated[-1:].any(0)
    if case.with_final_values or estimator.name == "discounted_returns":
        left = left | truncated[-1:].any(0)
    dirty.problem.bootstrap = np.where(left, garbage, problem.bootstrap)
    assert_clean(case, dirty, np.ones_like(ends))


@few
@given(data=st.data(), garbage=GARBAGE)
def test_skipped_steps_are_not_read(data, garbage):
    case = data.draw(cases(ESTIMATORS["gae"], with_mask=True))
    dirty = soiled(case, ~case.problem.mask, garbage)
    dirty.problem.terminated = case.problem.terminated ^ ~case.problem.mask
    dirty.problem.truncated = case.problem.truncated ^ ~case.problem.mask
    assert_clean(case, dirty, np.ones_like(case.problem.mask))


@every_estimator
@few
@given(data=st.data(), garbage=GARBAGE, rate=st.sampled_from([0.01, 0.1]))
def test_it_is_seen_wherever_it_counts(estimator, data, garbage, rate):
    # Coefficients strictly between 0 and 1, so that every term of the sums has a weight.
    numbers = {"clip_rho": 1.0, "clip_c": 0.9, "clip_pg_rho": np.inf} if estimator.name == "vtrace" else {}
    gamma = 1.0 if estimator.name == "upgo" else 0.99
    case = data.draw(cases(estimator, coefficients={"gamma": gamma, "lam": 0.97}))
    case = replace(case, numbers={**case.numbers, **numbers})
    rng, bounds = np.random.default_rng(data.draw(st.integers(0, 99))), case.error_bounds()
    # One array at a time, so that nothing hides behind the garbage of another.
    for name in ["rewards", "values", "next_values", "final_values"] + ["log_rhos"] * bool(np.isnan(garbage)):
        dirty = soiled(case, rng.random(case.problem.rewards.shape) < rate, garbage, [name])
        expected, arguments = dirty.expected(), dirty.arguments()
        for _ in on_every_isa():
            for result, wanted, bound in zip(estimator(**arguments), expected, bounds, strict=True):
                found = case.problem.time_major(result)
                finite = np.isfinite(wanted)
                np.testing.assert_array_equal(np.isfinite(found), finite)
                assert_within(found[finite], wanted[finite], bound[finite])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_columns", [1, 3, 40])
def test_a_ratio_that_is_no_number_is_not_clipped_away(isa, dtype, num_columns):
    shape = (30, num_columns)
    ones, log_rhos = np.ones(shape, dtype), np.zeros(shape, dtype)
    log_rhos[10] = np.nan
    options = {"log_rhos": log_rhos, "rewards": ones, "terminated": np.zeros(shape, bool), "gamma": 0.9, "lam": 0.8}
    results = {
        "targets": ESTIMATORS["vtrace"](values=ones, next_values=ones, **options)[0],
        "pg_advantages": ESTIMATORS["vtrace"](values=ones, next_values=ones, **options)[1],
        "retrace": ESTIMATORS["retrace"](q=ones, next_q_expected=ones, next_q=ones, **options)[0],
    }
    for name, result in results.items():
        affected = np.broadcast_to(np.arange(30)[:, None] < (10 if name == "retrace" else 11), shape)
        np.testing.assert_array_equal(np.isnan(result), affected, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_columns", [1, 3, 40])
@pytest.mark.parametrize("log_rho", [np.inf, 1000.0, 88.8, 710.0])
def test_enormous_ratios_are_clipped(isa, dtype, num_columns, log_rho):
    rng = np.random.default_rng(0)
    shape = (50, num_columns)
    rewards, values, next_values = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    never = np.zeros(shape, bool)
    log_rhos = np.zeros((2, *shape), dtype)
    log_rhos[1, ::3] = log_rho
    options = {"gamma": 0.9, "lam": 0.8}
    on_policy, off_policy = (
        ESTIMATORS["vtrace"](log_rhos=ratios, rewards=rewards, values=values, next_values=next_values,
                             terminated=never, **options)
        + ESTIMATORS["retrace"](q=values, next_q_expected=next_values, next_q=values, log_rhos=ratios,
                                rewards=rewards, terminated=never, **options)
        for ratios in log_rhos
    )  # fmt: skip
    for result, expected in zip(off_policy, on_policy, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_columns", [1, 3, 40])
def test_an_action_that_the_policy_never_takes_cuts_the_trace(isa, dtype, num_columns):
    rng = np.random.default_rng(0)
    shape = (50, num_columns)
    rewards, values, next_values, log_rhos = (rng.standard_normal(shape).astype(dtype) for _ in range(4))
    log_rhos[20] = -np.inf
    never = np.zeros(shape, bool)
    options = {"gamma": 0.9, "lam": 0.8, "terminated": never}
    clean, pg_advantages = ESTIMATORS["vtrace"](
        log_rhos=log_rhos, rewards=rewards, values=values, next_values=next_values, **options
    )
    np.testing.assert_array_equal(clean[20], values[20])
    np.testing.assert_array_equal(pg_advantages[20], 0)
    assert np.isfinite(clean).all()
    rewards_after = rewards.copy()
    rewards_after[21:] = np.nan
    dirty, _ = ESTIMATORS["vtrace"](
        log_rhos=log_rhos, rewards=rewards_after, values=values, next_values=next_values, **options
    )
    np.testing.assert_allclose(dirty[:21], clean[:21], rtol=1e-5, atol=1e-5)
    retraced = dict(q=values, next_q_expected=next_values, next_q=values, log_rhos=log_rhos, **options)
    (targets,) = ESTIMATORS["retrace"](rewards=rewards, **retraced)
    # The trace of the action taken at step 20 is that of the target for step 19.
    np.testing.assert_allclose(targets[19], rewards[19] + dtype(0.9) * next_values[19], rtol=1e-5, atol=1e-5)
    rewards_after[20:] = np.nan
    (dirty,) = ESTIMATORS["retrace"](rewards=rewards_after, **retraced)
    np.testing.assert_allclose(dirty[:20], targets[:20], rtol=1e-5, atol=1e-5)
