"""How exact float32 is where it is used: typical horizons, long horizons, importance ratios of any size."""

import numpy as np
import pytest
from returns.estimators import ESTIMATORS, Case, on_every_isa
from returns.problems import make_problem

import metafast

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
ROUNDING = 2.0**-24


def errors(case):
    """The largest error of each result, in units of its root mean square."""
    expected = case.expected()
    for _ in on_every_isa():
        for result, wanted in zip(case.call(), expected, strict=True):
            yield np.abs(case.problem.time_major(result) - wanted).max() / np.sqrt(np.mean(wanted**2))


@every_estimator
@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("num_columns", [1, 40])
def test_a_typical_rollout(estimator, num_columns, time_axis):
    # gamma lam = .94 forgets within some 17 steps, gamma alone within 100: so many times some four roundings.
    problem = make_problem(
        1024, (num_columns,), rho_scale=0.1, on_grid=estimator.name == "upgo", dtype=np.float32, time_axis=time_axis
    )
    case = Case(estimator, problem, numbers={"n": 5} if estimator.name == "n_step_returns" else {})
    horizon = 100 if estimator.name in ("discounted_returns", "upgo") else 17
    assert max(errors(case)) < 4 * horizon * ROUNDING


@pytest.mark.parametrize("num_columns", [1, 2, 16])
def test_a_horizon_without_end(isa, num_columns):
    # Every rounding of a sum of 131,072 terms stays in it; they mostly cancel.
    rng = np.random.default_rng(0)
    shape = (131_072, num_columns)
    rewards = rng.standard_normal(shape, dtype=np.float32)
    result = metafast.discounted_returns(rewards, np.zeros(shape, bool), gamma=1.0)
    expected = np.cumsum(rewards[::-1].astype(np.float64), axis=0)[::-1]
    scale = np.abs(expected).max(axis=0)
    assert (np.abs(result - expected) < 10 * np.sqrt(len(rewards)) * ROUNDING * scale).all()


@pytest.mark.parametrize(("dtype", "smallest", "largest"), [(np.float32, -87, 88), (np.float64, -708, 709)])
@pytest.mark.parametrize("shape", [(4001,), (4001, 3), (11, 397)])
def test_importance_ratios(isa, dtype, smallest, largest, shape):
    # One step from 0 to 0 with reward 1: the advantage is the ratio itself.
    log_rhos = np.linspace(smallest, largest, int(np.prod(shape))).astype(dtype).reshape(shape)
    ones, zeros = np.ones(shape, dtype), np.zeros(shape, dtype)
    targets, pg_advantages = metafast.vtrace(
        log_rhos, ones, zeros, zeros, np.ones(shape, bool), gamma=0.9, clip_rho=np.inf, clip_pg_rho=np.inf
    )
    expected = np.exp(log_rhos.astype(np.longdouble))
    precision = {"rtol": 4 * np.finfo(dtype).eps, "atol": 0}
    np.testing.assert_allclose(targets, expected.astype(dtype), **precision)
    np.testing.assert_allclose(pg_advantages, expected.astype(dtype), **precision)
    for clip in (0.5, 1.0, 3.0):
        targets, pg_advantages = metafast.vtrace(
            log_rhos, ones, zeros, zeros, np.ones(shape, bool), gamma=0.9, clip_rho=clip, clip_pg_rho=2 * clip
        )
        np.testing.assert_allclose(targets, np.minimum(clip, expected).astype(dtype), **precision)
        np.testing.assert_allclose(pg_advantages, np.minimum(2 * clip, expected).astype(dtype), **precision)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ratios_beyond_the_range_of_floats(isa, dtype):
    log_rhos = np.array([-1e30, -1e4, -800, 800, 1e4, 1e30, np.inf, -np.inf, np.nan], dtype)
    shape = log_rhos.shape
    ones, zeros = np.ones(shape, dtype), np.zeros(shape, dtype)
    _, pg_advantages = metafast.vtrace(
        log_rhos, ones, zeros, zeros, np.ones(shape, bool), gamma=0.9, clip_pg_rho=np.inf
    )
    np.testing.assert_array_equal(pg_advantages, [0, 0, 0, np.inf, np.inf, np.inf, np.inf, 0, np.nan])
    targets, _ = metafast.vtrace(log_rhos, ones, zeros, zeros, np.ones(shape, bool), gamma=0.9)
    np.testing.assert_array_equal(targets, [0, 0, 0, 1, 1, 1, 1, 0, np.nan])
