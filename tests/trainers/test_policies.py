"""The trainer's networks by the names of their presets."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import metafast
from metafast.nn._distributions import SIGMA_FLOOR
from metafast.trainers import UsageError
from metafast.trainers._policies import make_policy


def env(action_space, observations=4):
    vector = metafast.envs.make_vec("CartPole-v1", 1)
    vector.single_action_space = action_space
    vector.single_observation_space = gymnasium.spaces.Box(-1.0, 1.0, (observations,))
    return vector


BOX = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))
DISCRETE = gymnasium.spaces.Discrete(2)


def test_a_policy_that_does_not_fit_the_actions_is_refused():
    with pytest.raises(UsageError, match="no gaussian policy for the action space"):
        make_policy(env(DISCRETE), policy="gaussian")


def widths(network):
    return [(layer.in_features, layer.out_features) for layer in network.modules() if isinstance(layer, nn.Linear)]


def test_presets_have_the_stated_widths():
    keras = make_policy(env(DISCRETE), "keras")
    assert widths(keras.policy) == [(4, 64), (64, 2)]
    assert widths(keras.value) == [(4, 32), (32, 1)]
    assert widths(keras.trunk) == []
    assert sum(isinstance(layer, nn.ReLU) for layer in keras.modules()) == 2
    with_sigma = make_policy(env(BOX, 3), "torch")
    assert widths(with_sigma.trunk) == [(3, 128), (128, 128)]
    assert widths(with_sigma.policy) == [(128, 4)]
    assert widths(with_sigma.value) == [(128, 1)]
    assert widths(make_policy(env(DISCRETE))) == [(4, 64), (64, 64), (64, 2), (64, 1)]
    assert widths(make_policy(env(DISCRETE), hidden_sizes=())) == [(4, 2), (4, 1)]
    assert make_policy(env(DISCRETE), gru_size=8).hidden_size == 8


def test_torch_preset_bounds_the_mean_and_floors_sigma():
    network = make_policy(env(BOX, 3), "torch")
    with torch.no_grad():
        network.policy.bias.copy_(torch.tensor([50.0, -50.0, -500.0, 1.0]))
        mean, sigma = network.act(torch.zeros(1, 3)).chunk(2, -1)
    assert mean.tolist() == [[1.0, -1.0]]
    assert sigma[0, 0] == pytest.approx(SIGMA_FLOOR)
    assert sigma[0, 1] > SIGMA_FLOOR
