"""Rollouts of environments on a CUDA device: the loop by hand on the CPU, with the same noise."""

import gc
import weakref

import gymnasium
import numpy as np
import pytest
import torch
from nn.problems import scatter
from nn.unfused import UnfusedLoop, assert_same_rollouts, generator

import metafast
from metafast import _device
from metafast.envs import _device_rollout, rollout

NETWORKS = {
    "default": {"hidden_sizes": (7,)},
    "two_towers": {"hidden_sizes": (5,), "value_hidden_sizes": (6, 3), "activation": "relu"},
    "gru": {"hidden_sizes": (6,), "gru_size": 5, "activation": "silu"},
}
MODES = ("same_step", "next_step")


def make_policy(env, device, dtype=torch.float64, **options):
    torch.manual_seed(3)
    policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space, **options)
    return scatter(policy.to(dtype), 0.2).to(device)


def same_state(env, other):
    mine, theirs = env.get_state(), other.get_state()
    for name, array in mine.items():
        for field in array.dtype.names or [...]:
            np.testing.assert_allclose(array[field], theirs[name][field], rtol=1e-9, err_msg=f"{name} {field}")


# With limits, so that episodes are cut as well as ended; the last has none.
ENVIRONMENTS = {
    "CartPole-v1": {"max_episode_steps": 7},
    "Pendulum-v1": {"max_episode_steps": 7},
    "TabularMDP-v0": {"states": 3, "actions": 4, "horizon": 4, "episodes": 3},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_loop_by_hand(device, name, mode, network):
    options = {"autoreset_mode": mode, **ENVIRONMENTS[name]}
    env = metafast.envs.make_vec(name, 5, device="cuda", **options)
    other = metafast.envs.make_vec(name, 5, **options)
    policy = make_policy(env, device, **NETWORKS[network])
    env.reset(seed=5)
    loop = UnfusedLoop(other, make_policy(env, "cpu", **NETWORKS[network]), other.reset(seed=5)[0])
    hidden, kept, ends = None, [], 0
    for call in range(3):
        mine = rollout(env, policy, 12, hidden=hidden, generator=generator(call), deterministic=call == 1)
        assert mine.rewards.device == env.device
        expected = loop.run(12, call, deterministic=call == 1)
        assert_same_rollouts(mine.numpy(), expected, policy, 1e-6)
        same_state(env, other)
        hidden = mine.hidden
        ends += int(mine.ended.sum())
        kept.append((mine, expected))
    assert ends > 0
    # What a call gave is its own.
    for mine, expected in kept:
        assert_same_rollouts(mine.numpy(), expected, policy, 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_ends_at_the_limit_by_falling_have_no_value(device, mode):
    """Who always pushes left falls in 8 to 10 steps."""
    env = metafast.envs.make_vec("CartPole-v1", 20, device="cuda", autoreset_mode=mode, max_episode_steps=9)
    policy = make_policy(env, device)
    with torch.no_grad():
        policy.policy.bias[0] = 100
    env.reset(seed=5)
    mine = rollout(env, policy, 9)
    both = mine.terminated & mine.truncated
    assert both.any()
    assert (mine.final_values[both] == 0).all()
    assert (mine.final_values[mine.truncated & ~mine.terminated] != 0).all()


def make(name="CartPole-v1", num_envs=5, **options):
    env = metafast.envs.make_vec(name, num_envs, device="cuda", autoreset_mode="same_step", **options)
    env.reset(seed=5)
    return env


@pytest.mark.parametrize("options", [{"squash": True}, {"normalize_observations": True}], ids=str)
def test_float32(device, options):
    env, other = make("Pendulum-v1"), metafast.envs.make_vec("Pendulum-v1", 5, autoreset_mode="same_step")
    policies = [make_policy(env, place, torch.float32, **options) for place in (device, "cpu")]
    if "normalize_observations" in options:
        seen = np.random.default_rng(0).normal(0.1, 0.5, (50, 3))
        policies[0].update_statistics(torch.from_numpy(seen).to(device))
        policies[0].update_statistics(torch.from_numpy(seen).to(device) + 1)
        policies[1].update_statistics(np.concatenate([seen, seen + 1]))
    mine = rollout(env, policies[0], 9, generator=generator(0))
    expected = UnfusedLoop(other, policies[1], other.reset(seed=5)[0]).run(9, 0)
    assert_same_rollouts(mine.numpy(), expected, policies[0], 1e-4)


def test_modules_that_the_kernels_lack(device):
    env = make()
    body = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.GELU()).to(device)
    policy = metafast.nn.ActorCritic.from_modules(
        env.single_observation_space, env.single_action_space, trunk=body, policy=torch.nn.Linear(6, 2).to(device),
        value=torch.nn.Linear(6, 1).to(device), normalize_observations=True,
    )  # fmt: skip
    assert policy.observation_mean.device == policy.device
    experience = rollout(env, policy, 4)
    with torch.no_grad():
        torch.testing.assert_close(policy(experience.observations)[1], experience.values)
    metafast.nn.a2c_update(policy, metafast.nn.Adam(policy), experience)


def test_what_an_update_changes_is_seen(device):
    """The parameters are read where they are; another policy, number of steps or place has its own recording."""
    env = make()
    policy = make_policy(env, device)
    loops = _device_rollout._LOOPS
    values = []
    for call in range(3):
        experience = rollout(env, policy, 4)
        values.append(experience.values)
        with torch.no_grad():
            torch.testing.assert_close(policy(experience.observations)[1], experience.values)
        metafast.nn.a2c_update(policy, metafast.nn.Adam(policy, lr=0.1), experience)
        # The first update lays the parameters end to end, which moves them.
        assert len(loops[env]._made) == min(call + 1, 2)
    policy.value.weight.data = policy.value.weight.data + 1
    experience = rollout(env, policy, 4)
    with torch.no_grad():
        torch.testing.assert_close(policy(experience.observations)[1], experience.values)


def test_recordings_go_with_the_environment(device):
    env = make()
    rollout(env, make_policy(env, device), 2)
    batch = weakref.ref(env._batch)
    del env
    gc.collect()
    assert batch() is None


def test_a_recording_that_goes_frees_its_memory_at_once(device):
    env = make()
    policy = make_policy(env, device)
    gc.disable()
    try:
        rollout(env, policy, 2)
        loop = weakref.ref(next(iter(_device_rollout._LOOPS[env]._made.values())))
        for num_steps in (3, 4):
            assert loop() is not None
            rollout(env, policy, num_steps)
        assert loop() is None
    finally:
        gc.enable()


def test_bad_input(device, monkeypatch):
    env = make()
    policy, memory = make_policy(env, device), make_policy(env, device, gru_size=3)

    def refused(error, message, *arguments, **options):
        state = env.get_state()
        with pytest.raises(error, match=message):
            rollout(*arguments, **options)
        for name, array in env.get_state().items():
            np.testing.assert_array_equal(array, state[name])

    elsewhere = torch.device("meta") if device.type == "cpu" else torch.device("cpu")
    moved = make_policy(env, elsewhere)
    refused(TypeError, f"env is on {env.device}, but policy is on {elsewhere}", env, moved, 2)
    refused(ValueError, "the policy takes 3 numbers", env, make_policy(make("Pendulum-v1"), device), 2)
    space = env.single_observation_space
    other = metafast.nn.ActorCritic(space, gymnasium.spaces.Discrete(3)).to(device)
    refused(ValueError, "another action space", env, other, 2)
    refused(ValueError, "hidden must be None", env, policy, 2, hidden=torch.zeros(5, 3, device=device))
    refused(TypeError, "hidden must be a tensor on", env, memory, 2, hidden=np.zeros((5, 3)))
    refused(
        ValueError,
        r"hidden must have shape \(5, 3\), not \(3, 5\)",
        env,
        memory,
        2,
        hidden=torch.zeros(3, 5, device=device),
    )
    refused(ValueError, "num_steps must be", env, policy, 0)
    refused(TypeError, "without wrappers", metafast, policy, 2)
    disabled = metafast.envs.make_vec("CartPole-v1", 5, device="cuda", autoreset_mode="disabled")
    refused(ValueError, "same_step", disabled, policy, 2)
    fresh = metafast.envs.make_vec("CartPole-v1", 5, device="cuda")
    with pytest.raises(Exception, match="call reset before rollout"):
        rollout(fresh, policy, 2)
    fresh.close()
    with pytest.raises(Exception, match="is closed"):
        rollout(fresh, policy, 2)
    monkeypatch.setattr(_device, "is_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"outside of torch\.cuda\.graph"):
        rollout(env, policy, 2)


def test_actions_that_are_none_are_told_of_later(device):
    env = make("Pendulum-v1")
    policy = make_policy(env, device)
    with torch.no_grad():
        policy.policy.bias.fill_(torch.nan)
    rollout(env, policy, 2)
    with pytest.raises(ValueError, match="actions must be finite"):
        env.check_faults()
