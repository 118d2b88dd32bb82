"""A user's environment acts by a policy on a CUDA device as on the CPU."""

import pytest
import torch
from envs.compiled import ptx_on_host
from nn.problems import scatter
from nn.unfused import UnfusedLoop, assert_same_rollouts, generator
from trainers.users_track import Track

import metafast
from metafast.envs import rollout


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_a_users_environment(device, monkeypatch, mode):
    make = ptx_on_host.maker(device, monkeypatch)
    env = make(Track, 5, autoreset_mode=mode, max_episode_steps=6)
    other = Track.make_vec(5, autoreset_mode=mode, max_episode_steps=6)
    policies = []
    for place in (device, "cpu"):
        torch.manual_seed(3)
        policy = metafast.nn.ActorCritic(env.single_observation_space, env.single_action_space, hidden_sizes=(6,))
        policies.append(scatter(policy.double(), 0.2).to(place))
    env.reset(seed=5)
    mine = rollout(env, policies[0], 10, generator=generator(0))
    expected = UnfusedLoop(other, policies[1], other.reset(seed=5)[0]).run(10, 0)
    assert_same_rollouts(mine.numpy(), expected, policies[0], 1e-6)
