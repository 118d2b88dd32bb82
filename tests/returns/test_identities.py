"""What must hold between the estimators, and for any of them, whatever the numbers are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from returns import reference
from returns.estimators import ESTIMATORS, Case, options
from returns.problems import make_problem, problems

import metafast

few = settings(max_examples=30)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
exact = {"rtol": 1e-12, "atol": 1e-12}


class Batch:
    """Time-major float64 arrays with ends of both kinds, and the keywords that most calls share."""

    def __init__(self, seed, shape):
        problem = make_problem(shape[0], shape[1:], seed=seed, end_rate=0.1)
        self.rewards, self.values, self.log_rhos = problem.rewards, problem.values, problem.log_rhos
        self.final_values, self.bootstrap = problem.final_values, problem.bootstrap
        self.gamma, self.lam = problem.gamma, problem.lam
        self.terminated, self.truncated = problem.terminated, problem.truncated
        self.next_values = reference.successor_values(self.values, self.bootstrap, self.truncated, self.final_values)
        self.ends = {"terminated": self.terminated, "truncated": self.truncated}
        self.in_rows = {"next_values": self.bootstrap, "final_values": self.final_values, **self.ends}
        self.zeros = np.zeros_like(self.rewards)

    def one_step(self):
        return self.rewards + np.where(self.terminated, 0, self.gamma * self.next_values)

    def lambda_returns(self, lam):
        return metafast.lambda_returns(self.rewards, self.next_values, **self.ends, gamma=self.gamma, lam=lam)


@pytest.fixture(params=[(1, 1), (50, 1), (60, 7), (33, 40), (1, 30)], ids=str)
def batch(request):
    return Batch(sum(request.param), request.param)


def test_lambda_1_is_monte_carlo(batch):
    monte_carlo = metafast.discounted_returns(
        batch.rewards, **batch.ends, gamma=batch.gamma, bootstrap=batch.bootstrap, final_values=batch.final_values
    )
    length = len(batch.rewards)
    shared = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma}
    for result in (
        batch.lambda_returns(1.0),
        metafast.gae(**shared, lam=1.0)[1],
        metafast.vtrace(batch.zeros, **shared)[0],
        metafast.n_step_returns(batch.rewards, batch.next_values, **batch.ends, gamma=batch.gamma, n=length),
        metafast.n_step_returns(batch.rewards, batch.next_values, **batch.ends, gamma=batch.gamma, n=length + 1),
        metafast.q_lambda(batch.next_values, batch.rewards, **batch.ends, gamma=batch.gamma, lam=1.0),
    ):
        np.testing.assert_allclose(result, monte_carlo, **exact)


def test_lambda_0_is_one_step_of_temporal_difference(batch):
    shared = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma}
    for result in (
        batch.lambda_returns(0.0),
        metafast.gae(**shared, lam=0.0)[1],
        metafast.vtrace(batch.zeros, **shared, lam=0.0)[0],
        metafast.n_step_returns(batch.rewards, batch.next_values, **batch.ends, gamma=batch.gamma, n=1),
        metafast.q_lambda(batch.next_values, batch.rewards, **batch.ends, gamma=batch.gamma, lam=0.0),
        metafast.retrace(
            batch.zeros, batch.next_values, batch.values, batch.log_rhos, batch.rewards,
            **batch.ends, gamma=batch.gamma, lam=0.0,
        ),
    ):  # fmt: skip
        np.testing.assert_allclose(result, batch.one_step(), **exact)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0, "array"])
def test_one_target_under_many_names(batch, lam):
    lam = batch.lam if lam == "array" else lam
    targets = batch.lambda_returns(lam)
    in_rows = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma, "lam": lam}
    in_full = {**in_rows, "next_values": batch.next_values}
    del in_full["final_values"]
    peng = metafast.q_lambda(batch.next_values, batch.rewards, **batch.ends, gamma=batch.gamma, lam=lam)
    np.testing.assert_array_equal(peng, targets)
    after = np.where(
        reference.ends_of(**batch.ends), np.where(batch.terminated, 0, batch.next_values), reference.following(targets)
    )
    policy_gradient = batch.rewards + np.where(batch.terminated, 0, batch.gamma * after) - batch.values
    for arguments in (in_rows, in_full):
        advantages, returns = metafast.gae(**arguments)
        np.testing.assert_allclose(returns, targets, **exact)
        np.testing.assert_allclose(advantages, targets - batch.values, **exact)
        on_policy, pg_advantages = metafast.vtrace(batch.zeros, **arguments)
        np.testing.assert_allclose(on_policy, targets, **exact)
        np.testing.assert_allclose(pg_advantages, policy_gradient, **exact)


@pytest.mark.parametrize("lam", [0.3, 1.0, "array"])
def test_retrace_on_policy_is_the_lambda_return_of_the_expected_values(batch, lam):
    # With Q(s, a) = E Q(s, .) nothing is off; its lambda is that of the action to come.
    lam = np.broadcast_to(batch.lam if lam == "array" else lam, batch.rewards.shape)
    result = metafast.retrace(
        batch.zeros, batch.next_values, batch.next_values, batch.zeros, batch.rewards,
        **batch.ends, gamma=batch.gamma, lam=lam,
    )  # fmt: skip
    np.testing.assert_allclose(result, batch.lambda_returns(reference.following(lam)), **exact)


def test_ratios_above_the_thresholds_are_as_good_as_the_thresholds(batch):
    above = np.abs(batch.log_rhos)
    shared = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma, "lam": batch.lam}
    for result, expected in zip(metafast.vtrace(above, **shared), metafast.vtrace(batch.zeros, **shared), strict=True):
        np.testing.assert_allclose(result, expected, **exact)
    arguments = {"gamma": batch.gamma, "lam": batch.lam, **batch.ends}
    result, expected = (
        metafast.retrace(batch.zeros, batch.next_values, batch.values, ratios, batch.rewards, **arguments)
        for ratios in (above, batch.zeros)
    )
    np.testing.assert_allclose(result, expected, **exact)


def test_thresholds_beyond_all_ratios_do_nothing(batch):
    shared = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma, "lam": batch.lam}
    clips = ("clip_rho", "clip_c", "clip_pg_rho")
    largest = float(np.exp(batch.log_rhos.max())) * 1.001
    finite = metafast.vtrace(batch.log_rhos, **shared, **dict.fromkeys(clips, largest))
    infinite = metafast.vtrace(batch.log_rhos, **shared, **dict.fromkeys(clips, np.inf))
    for result, expected in zip(finite, infinite, strict=True):
        np.testing.assert_array_equal(result, expected)


def test_upgo_lies_between_one_step_and_the_best_of_all_horizons(batch):
    shared = {"rewards": batch.rewards, **batch.in_rows, "gamma": batch.gamma}
    targets = metafast.upgo(**shared, values=batch.values) + batch.values
    horizons = [
        metafast.n_step_returns(batch.rewards, batch.next_values, **batch.ends, gamma=batch.gamma, n=n)
        for n in range(1, len(batch.rewards) + 1)
    ]
    assert (targets >= batch.one_step() - 1e-12).all()
    assert (targets <= np.max(horizons, axis=0) + 1e-12).all()
    # It is one of them.
    np.testing.assert_allclose(np.min(np.abs(np.array(horizons) - targets), axis=0), 0, atol=1e-12)


def test_upgo_of_a_critic_that_expects_nothing_or_everything(batch):
    monte_carlo = batch.lambda_returns(1.0)
    for value, expected in ((-1e6, monte_carlo), (1e6, batch.one_step())):
        ends = reference.ends_of(**batch.ends)
        values = np.full_like(batch.values, value)
        next_values = np.where(ends, batch.next_values, value)
        result = metafast.upgo(batch.rewards, values, next_values, **batch.ends, gamma=batch.gamma) + values
        if value > 0:
            expected = batch.rewards + np.where(batch.terminated, 0, batch.gamma * next_values)
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)


def test_a_return_may_be_the_bootstrap_of_the_steps_before(batch):
    arguments = {"gamma": batch.gamma, "final_values": batch.final_values, **batch.ends}
    whole = metafast.discounted_returns(batch.rewards, **arguments, bootstrap=batch.bootstrap)
    cut = len(whole) // 2
    first = {name: array[:cut] for name, array in {"rewards": batch.rewards, **arguments}.items()}
    np.testing.assert_allclose(metafast.discounted_returns(**first, bootstrap=whole[cut]), whole[:cut], **exact)


@every_estimator
@few
@given(data=st.data(), scale=st.sampled_from([0.5, 4.0, -2.0]))
def test_results_scale_with_rewards_and_values(estimator, data, scale):
    # Powers of two: bit for bit. A critic turned upside down follows the worst actions, so UPGO takes positive ones.
    problem = data.draw(problems(on_grid=estimator.name == "upgo"))
    case = Case(estimator, problem, **data.draw(options(estimator)))
    scale = abs(scale) if estimator.name == "upgo" else scale
    names = ("rewards", "values", "next_values", "final_values", "bootstrap")
    scaled = replace(case, problem=replace(problem, **{name: scale * getattr(case.problem, name) for name in names}))
    problem.arranged = scaled.problem.arranged = 0
    for result, expected in zip(scaled.call(), case.call(), strict=True):
        np.testing.assert_array_equal(result, scale * expected)


@every_estimator
@few
@given(data=st.data(), end=st.sampled_from(["terminated", "truncated"]))
def test_episodes_one_after_the_other_are_episodes_apart(estimator, data, end):
    problem = data.draw(problems(on_grid=estimator.name == "upgo"))
    num_steps = len(problem.rewards)
    cut = data.draw(st.integers(0, num_steps))
    if cut:
        getattr(problem, end)[cut - 1] = True
    fixed = {"with_truncated": True, "with_row": False, "with_mask": False}
    case = Case(estimator, problem, **{**data.draw(options(estimator)), **fixed})
    case.coefficients = {name: "full" if form == "full" else 0.5 for name, form in case.coefficients.items()}
    parts = []
    for steps in (slice(cut), slice(cut, None)):
        arrays = {name: array[steps] for name, array in vars(case.problem).items() if np.ndim(array) == 2}
        parts.append(replace(case, problem=replace(case.problem, **arrays)).call())
    bounds = case.error_bounds()
    for result, first, second, bound in zip(case.call(), *parts, bounds, strict=True):
        whole = problem.time_major(result)
        apart = np.concatenate([np.moveaxis(part, problem.time_axis, 0) for part in (first, second)])
        assert (np.abs(whole - apart.reshape(whole.shape)) <= bound).all()


@every_estimator
@few
@given(data=st.data())
def test_columns_know_nothing_of_each_other(estimator, data):
    problem = data.draw(problems(on_grid=estimator.name == "upgo"))
    problem.batch = (problem.rewards.shape[1],)
    case = Case(estimator, problem, **data.draw(options(estimator)))
    case.coefficients = {name: "full" if form == "full" else 0.5 for name, form in case.coefficients.items()}
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(problem.rewards.shape[1])
    arrays = {name: array[..., order] for name, array in vars(case.problem).items() if isinstance(array, np.ndarray)}
    shuffled = replace(case, problem=replace(case.problem, **arrays))
    for result, expected, bound in zip(shuffled.call(), case.call(), case.error_bounds(), strict=True):
        apart = np.abs(problem.time_major(result) - problem.time_major(expected)[:, order])
        assert (apart <= bound[:, order]).all()


def test_a_mask_of_ones_is_no_mask(batch):
    arguments = {"rewards": batch.rewards, "values": batch.values, **batch.in_rows, "gamma": batch.gamma}
    masked = metafast.gae(**arguments, mask=np.ones_like(batch.terminated))
    for result, expected in zip(masked, metafast.gae(**arguments), strict=True):
        np.testing.assert_allclose(result, expected, **exact)
