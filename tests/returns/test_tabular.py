"""What the estimators are for: the expectation over all trajectories of a small process is what theory says.

Expectations are exact, over every trajectory weighted by its probability, and theory is matrices and linear equations.
"""

import numpy as np
import pytest
from returns.tabular import TabularMDP, Trajectories, softmax

import metafast

NUM_STEPS = 5
LAMBDAS = [0.0, 0.4, 1.0]
exact = {"rtol": 1e-10, "atol": 1e-10}


class World:
    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.mdp = TabularMDP(seed)
        self.trajectories = Trajectories(self.mdp, NUM_STEPS)
        shape = (self.mdp.num_states, self.mdp.num_actions)
        self.logits = rng.standard_normal(shape)
        self.policy, self.behaviour = softmax(self.logits), softmax(rng.standard_normal(shape))
        self.true_values = self.mdp.values_of(self.policy)
        self.true_q = self.mdp.q_backup(self.true_values)
        self.wrong_values = rng.standard_normal(shape[0])
        self.wrong_q = rng.standard_normal(shape)
        self.ratios = self.policy / self.behaviour

    def values(self, table, form):
        """`values` and the successors' in one of the two forms, and the keywords shared by all calls."""
        trajectories = self.trajectories
        successors = trajectories.of_successors(table)
        shared = {"values": trajectories.of_states(table), **self.shared()}
        if form == "full":
            return {"next_values": successors, **shared}
        # The successors that only final_values may tell of, and a bootstrap that nobody may read.
        final_values = np.where(trajectories.truncated, successors, np.nan)
        return {"next_values": np.full(successors.shape[1], np.nan), "final_values": final_values, **shared}

    def shared(self):
        return {"rewards": self.trajectories.rewards, **self.trajectories.ends, "gamma": self.mdp.gamma}

    def log_rhos(self):
        return self.trajectories.of_actions(np.log(self.ratios))

    def assert_given_state(self, policy, result, expected_of_steps_left):
        for t in range(NUM_STEPS):
            found = self.trajectories.given_state(policy, result, t)
            np.testing.assert_allclose(found, expected_of_steps_left(NUM_STEPS - t), **exact)

    def assert_given_action(self, policy, result, expected_of_steps_left):
        for t in range(NUM_STEPS):
            found = self.trajectories.given_action(policy, result, t)
            seen = ~np.isnan(found)
            assert seen.any()
            np.testing.assert_allclose(found[seen], expected_of_steps_left(NUM_STEPS - t)[seen], **exact)


@pytest.fixture(scope="module", params=[0, 1, 2])
def world(request):
    return World(request.param)


def test_the_trajectories_are_all_there_are(world):
    for policy in (world.policy, world.behaviour):
        np.testing.assert_allclose(world.trajectories.probabilities(policy).sum(), 1, rtol=1e-12)


def test_discounted_returns(world):
    rest = world.trajectories.of_successors(world.wrong_values)
    result = metafast.discounted_returns(**world.shared(), final_values=rest)
    world.assert_given_state(
        world.policy, result, lambda left: world.mdp.backups(world.policy, world.wrong_values, left)
    )
    result = metafast.discounted_returns(**world.shared())
    world.assert_given_state(world.policy, result, lambda left: world.mdp.backups(world.policy, np.zeros(3), left))


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("form", ["full", "row"])
def test_gae(world, lam, form):
    _, returns = metafast.gae(**world.values(world.true_values, form), lam=lam)
    world.assert_given_state(world.policy, returns, lambda left: world.true_values)
    world.assert_given_action(world.policy, returns, lambda left: world.true_q)
    advantages, _ = metafast.gae(**world.values(world.wrong_values, form), lam=lam)
    world.assert_given_state(
        world.policy,
        advantages,
        lambda left: world.mdp.lambda_backup(world.policy, world.wrong_values, lam, left) - world.wrong_values,
    )


@pytest.mark.parametrize("lam", LAMBDAS)
def test_lambda_returns(world, lam):
    for values in (world.true_values, world.wrong_values):
        successors = world.trajectories.of_successors(values)
        result = metafast.lambda_returns(next_values=successors, **world.shared(), lam=lam)
        world.assert_given_state(
            world.policy, result, lambda left, v=values: world.mdp.lambda_backup(world.policy, v, lam, left)
        )


@pytest.mark.parametrize("n", [1, 2, 3, NUM_STEPS, NUM_STEPS + 3])
def test_n_step_returns(world, n):
    successors = world.trajectories.of_successors(world.wrong_values)
    result = metafast.n_step_returns(next_values=successors, **world.shared(), n=n)
    world.assert_given_state(
        world.policy, result, lambda left: world.mdp.backups(world.policy, world.wrong_values, min(n, left))
    )


@pytest.mark.parametrize("lam", LAMBDAS)
def test_policy_gradient_of_true_values_is_exact_for_any_lambda(world, lam):
    advantages, _ = metafast.gae(**world.values(world.true_values, "row"), lam=lam)
    gradient = world.trajectories.score_sum(world.policy, world.policy, advantages)
    np.testing.assert_allclose(gradient, world.mdp.policy_gradient(world.logits, world.true_values, NUM_STEPS), **exact)


@pytest.mark.parametrize("form", ["full", "row"])
def test_policy_gradient_of_wrong_values_is_exact_for_lambda_1_alone(world, form):
    true_gradient = world.mdp.policy_gradient(world.logits, world.wrong_values, NUM_STEPS)

    def gradient(lam):
        advantages, _ = metafast.gae(**world.values(world.wrong_values, form), lam=lam)
        return world.trajectories.score_sum(world.policy, world.policy, advantages)

    np.testing.assert_allclose(gradient(1.0), true_gradient, **exact)
    assert np.abs(gradient(0.0) - true_gradient).max() > 1e-3


@pytest.mark.parametrize(("clip_rho", "clip_c", "lam"), [(1.0, 1.0, 1.0), (1.2, 0.7, 0.5), (0.6, np.inf, 1.0)])
@pytest.mark.parametrize("form", ["full", "row"])
def test_vtrace_with_clipping(world, clip_rho, clip_c, lam, form):
    # E[v_t] = V + sum_k K^k B V, with B the clipped temporal difference and K the weight of the next state's.
    mdp, clips = world.mdp, {"clip_rho": clip_rho, "clip_c": clip_c, "lam": lam}
    weights, traces = (world.behaviour * np.minimum(clip, world.ratios) for clip in (clip_rho, clip_c))
    difference = (weights * (mdp.q_backup(world.wrong_values) - world.wrong_values[:, None])).sum(axis=1)
    carried = mdp.gamma * lam * np.einsum("sa,san->sn", traces, mdp.transitions)[:, :-1]

    def targets_of(left):
        terms = [np.linalg.matrix_power(carried, k) @ difference for k in range(left)]
        return world.wrong_values + sum(terms)

    targets, pg_advantages = metafast.vtrace(
        log_rhos=world.log_rhos(), **world.values(world.wrong_values, form), **clips, clip_pg_rho=0.9
    )
    world.assert_given_state(world.behaviour, targets, targets_of)
    world.assert_given_action(
        world.behaviour,
        pg_advantages,
        lambda left: (
            np.minimum(0.9, world.ratios)
            * (mdp.q_backup(targets_of(left - 1) if left > 1 else world.wrong_values) - world.wrong_values[:, None])
        ),
    )


@pytest.mark.parametrize("clip_rho", [0.5, 1.0, 1.5, np.inf])
@pytest.mark.parametrize("clip_c", [0.5, 1.0])
def test_vtrace_has_the_values_of_the_clipped_policy_for_a_fixed_point(world, clip_rho, clip_c):
    # Espeholt et al. 2018, equation 3.
    clipped = np.minimum(clip_rho * world.behaviour, world.policy)
    values = world.mdp.values_of(clipped / clipped.sum(axis=1, keepdims=True))
    targets, _ = metafast.vtrace(
        log_rhos=world.log_rhos(), **world.values(values, "row"), clip_rho=clip_rho, clip_c=clip_c
    )
    world.assert_given_state(world.behaviour, targets, lambda left: values)
    if clip_rho == np.inf:
        np.testing.assert_allclose(values, world.true_values, **exact)


def test_vtrace_without_clipping_is_importance_sampling(world):
    unclipped = dict.fromkeys(("clip_rho", "clip_c", "clip_pg_rho"), np.inf)
    targets, pg_advantages = metafast.vtrace(
        log_rhos=world.log_rhos(), **world.values(world.wrong_values, "row"), **unclipped
    )
    world.assert_given_state(
        world.behaviour, targets, lambda left: world.mdp.backups(world.policy, world.wrong_values, left)
    )
    ratios = np.exp(world.log_rhos())
    true_gradient = world.mdp.policy_gradient(world.logits, world.wrong_values, NUM_STEPS)
    gradient = world.trajectories.score_sum(world.policy, world.behaviour, pg_advantages, ratios)
    np.testing.assert_allclose(gradient, true_gradient, **exact)
    _, clipped = metafast.vtrace(log_rhos=world.log_rhos(), **world.values(world.wrong_values, "row"))
    biased = world.trajectories.score_sum(world.policy, world.behaviour, clipped, ratios)
    assert np.abs(biased - true_gradient).max() > 1e-3


def retrace_of(world, q, lam, behaviour):
    trajectories = world.trajectories
    ratios = np.log(world.policy / behaviour)
    return metafast.retrace(
        q=trajectories.of_actions(q),
        next_q_expected=trajectories.of_successors((world.policy * q).sum(axis=1)),
        next_q=trajectories.of_next_actions(q),
        log_rhos=trajectories.of_actions(ratios),
        **world.shared(),
        lam=lam,
    )


@pytest.mark.parametrize("lam", LAMBDAS)
def test_retrace_keeps_the_true_values_under_any_behaviour(world, lam):
    result = retrace_of(world, world.true_q, lam, world.behaviour)
    world.assert_given_action(world.behaviour, result, lambda left: world.true_q)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_retrace_of_wrong_values(world, lam):
    mdp, q = world.mdp, world.wrong_q
    expected_q = (world.policy * q).sum(axis=1)
    traces = world.behaviour * lam * np.minimum(1, world.ratios)

    def targets_of(left):
        if left == 1:
            return mdp.q_backup(expected_q)
        return mdp.q_backup(expected_q + (traces * (targets_of(left - 1) - q)).sum(axis=1))

    result = retrace_of(world, q, lam, world.behaviour)
    world.assert_given_action(world.behaviour, result, targets_of)
    # Munos et al. 2016, theorem 1: a contraction towards the true values.
    for t in range(NUM_STEPS):
        found = world.trajectories.given_action(world.behaviour, result, t)
        assert np.abs(found - world.true_q).max() <= mdp.gamma * np.abs(q - world.true_q).max()


def test_retrace_on_policy_with_lambda_1_forgets_what_q_says_inside(world):
    result = retrace_of(world, world.wrong_q, 1.0, world.policy)
    after = (world.policy * world.wrong_q).sum(axis=1)
    world.assert_given_action(
        world.policy, result, lambda left: world.mdp.q_backup(world.mdp.backups(world.policy, after, left - 1))
    )


@pytest.mark.parametrize("lam", LAMBDAS)
def test_q_lambda(world, lam):
    mdp, q = world.mdp, world.wrong_q
    result = metafast.q_lambda(world.trajectories.of_successors(q.max(axis=1)), **world.shared(), lam=lam)

    def targets_of(left):
        greedy = q.max(axis=1)
        if left == 1:
            return mdp.q_backup(greedy)
        return mdp.q_backup((1 - lam) * greedy + lam * (world.behaviour * targets_of(left - 1)).sum(axis=1))

    world.assert_given_action(world.behaviour, result, targets_of)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_q_lambda_keeps_the_optimal_values_under_greedy_behaviour(world, lam):
    values = np.zeros(world.mdp.num_states)
    for _ in range(400):
        values = world.mdp.q_backup(values).max(axis=1)
    optimal = world.mdp.q_backup(values)
    greedy = np.eye(world.mdp.num_actions)[optimal.argmax(axis=1)]
    result = metafast.q_lambda(world.trajectories.of_successors(values), **world.shared(), lam=lam)
    world.assert_given_action(greedy, result, lambda left: optimal)


@pytest.mark.parametrize("form", ["full", "row"])
def test_upgo(world, form):
    mdp, values = world.mdp, world.true_values
    result = metafast.upgo(**world.values(values, form)) + world.trajectories.of_states(values)
    # [state, action, next state]: what a transition promises, and whether it is followed there.
    promised = mdp.rewards + mdp.gamma * np.append(values, 0)
    followed = promised >= values[:, None, None]

    def rest(left):
        if left == 0:
            return values
        steps = mdp.rewards + mdp.gamma * np.append(rest(left - 1), 0)
        targets = np.where(followed, steps, values[:, None, None])
        return np.einsum("sa,san,san->s", world.policy, mdp.transitions, targets)

    world.assert_given_action(
        world.policy,
        result,
        lambda left: mdp.q_backup(rest(left - 1)),
    )
    # It is optimistic: no action seems worse than it is, some seem better.
    found = world.trajectories.given_action(world.policy, result, 0)
    assert (found >= world.true_q - 1e-12).all()
    assert (found > world.true_q + 1e-2).any()
