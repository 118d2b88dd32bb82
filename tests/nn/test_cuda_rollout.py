"""Rollouts of environments on a CUDA device: the loop by hand on the CPU, with the same noise."""

import numpy as np
import pytest
import torch
from nn.problems import scatter
from nn.unfused import UnfusedLoop, assert_same_rollouts, generator

import metafast
from metafast.envs import rollout

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
        np.testing.assert_allclose(array, theirs[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_the_loop_by_hand(device, name, mode, network):
    options = {"autoreset_mode": mode, "max_episode_steps": 7}
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
