"""The recurrence that gradients run through, both ways in time, against a float64 loop."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns.problems import problems

from metafast import _core


def solve(offsets, decays, forwards):
    result = np.zeros(offsets.shape)
    steps = range(len(offsets)) if forwards else reversed(range(len(offsets)))
    previous = None
    for step in steps:
        result[step] = offsets[step]
        if previous is not None:
            joined = decays[step] != 0
            result[step][joined] += decays[step][joined] * result[previous][joined]
        previous = step
    return result


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems(), forwards=st.booleans())
def test_against_the_loop(isa, problem, forwards):
    decays = np.where(problem.terminated, 0, problem.gamma)
    result = _core.affine_scan(problem.arrange(problem.rewards), problem.arrange(decays), problem.time_axis, forwards)
    assert result.dtype == problem.dtype
    expected = solve(problem.rewards, decays, forwards)
    np.testing.assert_allclose(problem.time_major(result), expected, **problem.tolerance())


@given(problem=problems(), forwards=st.booleans())
def test_garbage_never_crosses_a_zero_decay(problem, forwards):
    if len(problem.rewards) < 3:
        return
    offsets, decays = problem.rewards.copy(), problem.gamma.copy()
    middle = len(offsets) // 2
    offsets[middle] = np.nan
    decays[middle + 1 if forwards else middle - 1] = 0
    result = problem.time_major(
        _core.affine_scan(problem.arrange(offsets), problem.arrange(decays), problem.time_axis, forwards)
    )
    beyond = result[middle + 1 :] if forwards else result[:middle]
    assert np.isfinite(beyond).all()
