import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns import reference
from returns.problems import problems

import metafast


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems(), options=st.sets(st.sampled_from(["truncated", "bootstrap", "final_values", "gamma"])))
def test_against_the_loop(isa, problem, options):
    bootstrap = problem.values[0] if len(problem.rewards) else np.zeros(problem.rewards.shape[1])
    result = metafast.discounted_returns(
        problem.arrange(problem.rewards),
        problem.flags(problem.terminated),
        problem.flags(problem.truncated) if "truncated" in options else None,
        gamma=problem.arrange(problem.gamma) if "gamma" in options else 0.9,
        bootstrap=problem.arrange(bootstrap) if "bootstrap" in options else None,
        final_values=problem.arrange(problem.final_values) if "final_values" in options else None,
        time_axis=problem.time_axis,
    )
    expected = reference.discounted_returns(
        problem.rewards,
        problem.terminated,
        problem.truncated if "truncated" in options else np.zeros_like(problem.terminated),
        problem.gamma if "gamma" in options else np.full(problem.rewards.shape, problem.dtype(0.9), np.float64),
        bootstrap if "bootstrap" in options else None,
        problem.final_values if "final_values" in options else None,
    )
    assert result.dtype == problem.dtype
    np.testing.assert_allclose(problem.time_major(result), expected, **problem.tolerance())


def test_default_gamma_and_plain_monte_carlo():
    result = metafast.discounted_returns(np.ones(3), np.zeros(3, bool), np.array([False, True, False]))
    np.testing.assert_allclose(result, [1.99, 1.0, 1.0])


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_bootstrap_is_not_read_after_an_end(end):
    ends = {"terminated": np.zeros(2, bool), "truncated": np.zeros(2, bool)}
    ends[end][1] = True
    result = metafast.discounted_returns(np.ones(2), **ends, bootstrap=np.array(np.nan), gamma=0.5)
    np.testing.assert_array_equal(result, [1.5, 1.0])


def test_is_the_lambda_1_limit_of_gae():
    rng = np.random.default_rng(0)
    shape = (50, 9)
    rewards, values, final_values = (rng.standard_normal(shape) for _ in range(3))
    bootstrap = rng.standard_normal(9)
    terminated, truncated = (rng.random(shape) < 0.1 for _ in range(2))
    _, targets = metafast.gae(rewards, values, bootstrap, terminated, truncated, lam=1.0, final_values=final_values)
    # After a truncated last step gae takes final_values too, so both see the same successors.
    returns = metafast.discounted_returns(
        rewards, terminated, truncated, bootstrap=bootstrap, final_values=final_values
    )
    np.testing.assert_allclose(returns, targets, rtol=1e-12, atol=1e-12)
