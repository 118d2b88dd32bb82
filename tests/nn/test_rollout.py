"""A rollout is the unfused loop's: the same actions, observations and flags, and the same reals up to rounding."""

import numpy as np
import pytest
import torch
from nn.problems import scatter
from nn.unfused import UnfusedLoop, assert_same_rollouts, generator
from nn.worlds import SPACES, world

import metafast
from metafast.envs import rollout

MODES = ("same_step", "next_step")
NETWORKS = {
    "default": {},
    "two_towers": {"hidden_sizes": (5,), "value_hidden_sizes": (17, 3), "activation": "relu"},
    "linear": {"hidden_sizes": ()},
    "gru": {"hidden_sizes": (6,), "gru_size": 9, "activation": "silu"},
}
every_mode = pytest.mark.parametrize("mode", MODES)
every_network = pytest.mark.parametrize("network", NETWORKS)
# Limits, so that episodes are cut as well as ended.
ENVIRONMENTS = {
    "CartPole-v1": {"max_episode_steps": 23},
    "Pendulum-v1": {"max_episode_steps": 7},
    "Acrobot-v1": {"max_episode_steps": 11},
    "MountainCarContinuous-v0": {"max_episode_steps": 5},
    "Bandit-v0": {},
    "TabularMDP-v0": {"states": 3, "actions": 4, "horizon": 4, "episodes": 3},
}


def make_policy(env, dtype=torch.float64, **options):
    torch.manual_seed(3)
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space, **options)
    return scatter(policy.to(dtype), 0.2)


def check(makes, num_steps=40, *, dtype=torch.float64, tolerance=1e-6, deterministic=False, calls=2, **options):
    """Two equal environments, one for each way; several calls in a row."""
    env, other = makes(), makes()
    policy = make_policy(env, dtype, **options)
    env.reset(seed=5)
    loop = UnfusedLoop(other, policy, other.reset(seed=5)[0])
    hidden, ends = None, 0
    for call in range(calls):
        mine = rollout(env, policy, num_steps, hidden=hidden, generator=generator(call), deterministic=deterministic)
        assert_same_rollouts(mine, loop.run(num_steps, call, deterministic=deterministic), policy, tolerance)
        hidden = mine.hidden
        ends += mine.ended.sum()
    return mine, ends


@every_mode
@every_network
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_native_environments(name, network, mode):
    def makes():
        return metafast.envs.make_vec(name, 9, autoreset_mode=mode, **ENVIRONMENTS[name])

    mine, ends = check(makes, **NETWORKS[network])
    assert ends > 0 or name == "Bandit-v0"
    assert mine.mask is None if mode == "same_step" else not mine.mask.all() or name == "Bandit-v0"


@every_mode
@pytest.mark.parametrize("network", ["default", "gru"])
def test_every_instruction_set(mode, network, isa):
    def makes():
        return metafast.envs.make_vec("CartPole-v1", 70, autoreset_mode=mode, max_episode_steps=20)

    check(makes, 30, **NETWORKS[network])
    check(makes, 30, dtype=torch.float32, tolerance=2e-5, **NETWORKS[network])


@every_mode
@pytest.mark.parametrize("num_envs", [1, 16, 63, 64, 65, 255, 256, 257, 600])
def test_numbers_of_environments(num_envs, mode):
    """Blocks are of 64 environments, tiles of 256."""

    def makes():
        return metafast.envs.make_vec("CartPole-v1", num_envs, autoreset_mode=mode, max_episode_steps=8)

    for network in ("default", "gru"):
        check(makes, 12, **NETWORKS[network])


def test_more_truncations_at_once_than_a_block_holds():
    def makes():
        return metafast.envs.make_vec("Pendulum-v1", 300, autoreset_mode="same_step", max_episode_steps=3)

    mine, _ = check(makes, 7, **NETWORKS["gru"])
    assert mine.truncated.any(1).sum() == 2
    assert (mine.final_values[mine.truncated] != 0).all()


@every_mode
@every_network
@pytest.mark.parametrize("name", SPACES)
def test_users_environments(name, network, mode):
    options = dict(NETWORKS[network])
    _, ends = check(lambda: world(name).make_vec(11, autoreset_mode=mode), **options)
    assert ends > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPACES)
def test_deterministic(name, dtype):
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    check(
        lambda: world(name).make_vec(70, autoreset_mode="same_step"),
        12, dtype=dtype, tolerance=tolerance, deterministic=True,
    )  # fmt: skip


@every_mode
@pytest.mark.parametrize(("name", "squash"), [("Pendulum-v1", True), ("Pendulum-v1", False), ("CartPole-v1", False)])
def test_exact_environments(name, squash, mode):
    def makes():
        return metafast.envs.make_vec(name, 5, autoreset_mode=mode, max_episode_steps=9, exact=True)

    mine, _ = check(makes, 20, squash=squash)
    assert mine.rewards.dtype == np.float64


def test_squashed_gaussian_in_float32():
    def makes():
        return metafast.envs.make_vec("MountainCarContinuous-v0", 20, autoreset_mode="same_step", max_episode_steps=9)

    check(makes, 15, dtype=torch.float32, tolerance=1e-4, squash=True)
    check(makes, 15, squash=True, gru_size=4)


def test_bernoulli_over_two_choices():
    def makes():
        return metafast.envs.make_vec("CartPole-v1", 20, autoreset_mode="same_step")

    mine, _ = check(makes, policy="bernoulli")
    assert mine.actions.shape == (40, 20, 1)


@pytest.mark.parametrize("network", ["default", "gru"])
def test_normalized_observations(network):
    def makes():
        return metafast.envs.make_vec("CartPole-v1", 9, autoreset_mode="same_step", max_episode_steps=15)

    env, other = makes(), makes()
    policy = make_policy(env, normalize_observations=True, **NETWORKS[network])
    # Deviations so small that some observations meet the limit of 10 of them.
    policy.update_statistics(np.random.default_rng(0).normal(0.02, 0.005, (50, 4)))
    env.reset(seed=5)
    mine = rollout(env, policy, 30, generator=generator(1))
    theirs = UnfusedLoop(other, policy, other.reset(seed=5)[0]).run(30, 1)
    assert_same_rollouts(mine, theirs, policy)


@every_mode
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_environments_go_on_from_where_they_are(name, mode):
    """Rollouts and steps in turn; a deterministic policy's short rollouts are a long one."""

    def makes():
        return metafast.envs.make_vec(name, 70, autoreset_mode=mode, max_episode_steps=13)

    env, other = makes(), makes()
    policy = make_policy(env)
    for each in (env, other):
        each.reset(seed=7)
    long = rollout(env, policy, 30, deterministic=True)
    short = [rollout(other, policy, num_steps, deterministic=True) for num_steps in (1, 12, 2, 15)]
    for name in ("actions", "rewards", "log_probs", "final_values", "final_observations", "starts", "terminated"):
        np.testing.assert_array_equal(np.concatenate([getattr(each, name) for each in short]), getattr(long, name))
    np.testing.assert_array_equal(short[-1].observations[-1], long.observations[-1])
    np.testing.assert_array_equal(short[0].observations[-1], short[1].observations[0])
    mine, theirs = env.get_state(), other.get_state()
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key])
    # And a step goes on from there.
    action = policy.distribution.to_environment(long.actions[-1])
    for ours, expected in zip(env.step(action)[:4], other.step(action)[:4], strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_the_actions_randomness_is_the_generators():
    env = metafast.envs.make_vec("CartPole-v1", 40, autoreset_mode="same_step")
    policy = make_policy(env)

    def actions(seed=None):
        env.reset(seed=1)
        return rollout(env, policy, 10, generator=None if seed is None else generator(seed)).actions

    np.testing.assert_array_equal(actions(3), actions(3))
    assert (actions(3) != actions(4)).any()
    torch.manual_seed(3)
    np.testing.assert_array_equal(actions(), actions(3))
    assert (actions() != actions(3)).any()
    shared = generator(3)
    env.reset(seed=1)
    first = rollout(env, policy, 10, generator=shared).actions
    assert (rollout(env, policy, 10, generator=shared).actions != first).any()


def test_the_hidden_state_that_is_given_stays_as_it_was():
    env = metafast.envs.make_vec("CartPole-v1", 3, autoreset_mode="same_step")
    policy = make_policy(env, gru_size=4)
    env.reset(seed=0)
    first = rollout(env, policy, 3)
    given = first.hidden.copy()
    second = rollout(env, policy, 3, hidden=first.hidden)
    np.testing.assert_array_equal(first.hidden, given)
    np.testing.assert_array_equal(second.initial_hidden, given)


def test_as_torch_tensors_that_share_the_memory():
    env = metafast.envs.make_vec("CartPole-v1", 3, autoreset_mode="same_step")
    env.reset(seed=0)
    mine = rollout(env, make_policy(env), 3)
    tensors = mine.torch()
    tensors.rewards[0, 0] = 17
    assert mine.rewards[0, 0] == 17
    assert tensors.mask is None
    torch.testing.assert_close(tensors.ended, torch.from_numpy(mine.ended))


def test_a_policy_changed_by_hand_acts_as_changed():
    env = metafast.envs.make_vec("CartPole-v1", 9, autoreset_mode="same_step")
    policy = make_policy(env)
    env.reset(seed=0)
    before = rollout(env, policy, 5, deterministic=True)
    with torch.no_grad():
        policy.value.bias += 1
        policy.policy.bias[:] = torch.tensor([-100.0, 100.0])
    env.reset(seed=0)
    after = rollout(env, policy, 5, deterministic=True)
    assert (after.actions == 1).all()
    np.testing.assert_allclose(after.values[0], before.values[0] + 1)
