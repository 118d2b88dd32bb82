"""Series long enough to be cut in time, rows wide enough to be cut in columns."""

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


def sums_ahead(rewards, after):
    return np.cumsum(rewards[::-1], axis=0)[::-1] + after


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("num_columns", [1, 2, 7])
@pytest.mark.parametrize("num_steps", [4095, 4097, 20_000, 131_072])
def test_whole_numbers_are_carried_exactly_over_any_horizon(isa, num_steps, num_columns, time_axis):
    # With gamma = lambda = 1 every estimator is a sum of whole numbers, exact in float32 in whatever order it is taken.
    rng = np.random.default_rng(num_steps)
    rewards, values = (rng.integers(-2, 3, (num_steps, num_columns)).astype(np.float32) for _ in range(2))
    row = np.arange(1, num_columns + 1, dtype=np.float32)
    next_values = np.concatenate([values[1:], row[None]])
    arrange = lambda array: np.ascontiguousarray(array.T) if time_axis else array  # noqa: E731
    r, v, nv, zeros = (arrange(array) for array in (rewards, values, next_values, np.zeros_like(rewards)))
    common = {"gamma": 1.0, "time_axis": time_axis, "terminated": zeros != 0}
    monte_carlo = sums_ahead(rewards, row)
    call = lambda name, **arguments: ESTIMATORS[name](**arguments, **common)  # noqa: E731
    found = {
        "gae": call("gae", rewards=r, values=v, next_values=row, lam=1.0)[1],
        "gae, full": call("gae", rewards=r, values=v, next_values=nv, lam=1.0)[1],
        "discounted": call("discounted_returns", rewards=r, bootstrap=row)[0],
        "lambda": call("lambda_returns", rewards=r, next_values=nv, lam=1.0)[0],
        "n-step": call("n_step_returns", rewards=r, next_values=nv, n=num_steps)[0],
        "vtrace": call("vtrace", log_rhos=zeros, rewards=r, values=v, next_values=row)[0],
        "vtrace, full": call("vtrace", log_rhos=zeros, rewards=r, values=v, next_values=nv, lam=1.0)[0],
        "retrace": call("retrace", q=v, next_q_expected=nv, next_q=nv, log_rhos=zeros, rewards=r, lam=1.0)[0],
        "q_lambda": call("q_lambda", next_q_max=nv, rewards=r, lam=1.0)[0],
    }
    for name, result in found.items():
        np.testing.assert_array_equal(arrange(result), monte_carlo, err_msg=name)
    (upwards,) = call("upgo", rewards=np.abs(r), values=zeros, next_values=row)
    np.testing.assert_array_equal(arrange(upwards), sums_ahead(np.abs(rewards), row))
    for steps in (1, 2, 1000, num_steps - 1):
        (found_n,) = call("n_step_returns", rewards=r, next_values=nv, n=steps)
        window = monte_carlo.copy()
        window[:-steps] += next_values[steps - 1 : -1] - monte_carlo[steps:]
        np.testing.assert_array_equal(arrange(found_n), window, err_msg=f"n = {steps}")
