"""Every estimator, option and memory layout against the papers' explicit sums."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.estimators import ESTIMATORS, Case, on_every_isa, options
from returns.problems import problems


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
@given(data=st.data())
def test_against_the_explicit_sum(estimator, data):
    problem = data.draw(problems(on_grid=estimator.name == "upgo"), label="problem")
    case = Case(estimator, problem, **data.draw(options(estimator), label="options"))
    arguments, expected, bounds = case.arguments(), case.expected(), case.error_bounds()
    for _ in on_every_isa():
        case.assert_agrees(estimator(**arguments), expected, bounds)
