"""Problems large enough to be cut, in time and in columns: every estimator against its sum."""

import numpy as np
import pytest
from returns.estimators import ESTIMATORS, Case, on_every_isa
from returns.problems import make_problem

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
NUMBERS = {"n_step_returns": {"n": 20}, "vtrace": {"clip_rho": 1.5, "clip_c": 1.1, "clip_pg_rho": 2.0}}


@every_estimator
@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize(
    ("num_steps", "num_columns"),
    [(5000, 1), (3000, 2), (3000, 3), (2500, 5), (2000, 8), (2000, 9), (40000, 1), (3, 9000), (40, 2100)],
)
def test_against_the_explicit_sum(estimator, num_steps, num_columns, time_axis):
    seed = num_steps + num_columns + time_axis
    dtype = np.float64 if num_columns in (3, 8) else np.float32
    batch = () if num_steps == 5000 and time_axis == 0 else (num_columns,)
    problem = make_problem(
        num_steps,
        batch,
        seed=seed,
        end_rate=0.01,
        on_grid=estimator.name == "upgo",
        dtype=dtype,
        time_axis=time_axis,
        layout="contiguous" if num_columns % 2 else "fortran",
    )
    coefficients = {"gamma": "full" if num_columns % 3 == 0 else 0.99, "lam": "full" if num_columns == 5 else 0.95}
    case = Case(
        estimator,
        problem,
        with_row=bool(seed % 2),
        with_mask=num_columns == 9,
        coefficients=coefficients,
        numbers=NUMBERS.get(estimator.name, {}),
    )
    arguments, expected, bounds = case.arguments(), case.expected(), case.error_bounds()
    for _ in on_every_isa():
        case.assert_agrees(estimator(**arguments), expected, bounds)
