"""Networks of users' own modules: the gradients are autograd's in float64, however the modules are put together."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from nn.gradients import check_ppo
from nn.losses import log_prob_loss
from nn.problems import assert_gradient, gradient_taken, make_rollout, scatter
from torch import nn

from metafast.nn import ActorCritic, clone_update

NUM = 3


def modules(policy, value, trunk=None, **options):
    return scatter(
        ActorCritic.from_modules(
            Box(-1, 1, (NUM,)), options.pop("space", Discrete(2)), policy=policy, value=value, trunk=trunk, **options
        ).double()
    )


BUILT = {
    "no_biases": lambda: modules(
        nn.Linear(7, 2, bias=False), nn.Linear(7, 1), nn.Sequential(nn.Linear(NUM, 7, bias=False), nn.Tanh())
    ),
    "activations_at_the_ends": lambda: modules(
        nn.Sequential(nn.Linear(7, 2), nn.Tanh()), nn.Sequential(nn.Linear(7, 1), nn.SiLU()), nn.Linear(NUM, 7)
    ),
    "linear_layers_in_a_row": lambda: modules(
        nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 2)), nn.Linear(7, 1), nn.Sequential(nn.Linear(NUM, 7), nn.ReLU())
    ),
    "nested": lambda: modules(
        nn.Sequential(nn.Sequential(nn.Linear(NUM, 7), nn.Identity(), nn.Tanh()), nn.Linear(7, 2)),
        nn.Sequential(nn.Flatten(), nn.Linear(NUM, 1)),
    ),
    "policy_without_layers": lambda: modules(nn.Identity(), nn.Linear(2, 1), nn.Linear(NUM, 2)),
    "gru_below_towers": lambda: modules(
        nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 2)),
        nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1)),
        nn.Sequential(nn.Linear(NUM, 7), nn.SiLU()),
        gru=nn.GRU(7, 8),
    ),
    "deep_towers_on_a_gru": lambda: modules(
        nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)),
        nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)),
        gru=nn.GRU(NUM, 8),
    ),
    "deep_towers": lambda: modules(
        nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.SiLU())), nn.Linear(64, 2)),
        nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.SiLU())), nn.Linear(64, 1)),
        nn.Linear(NUM, 64),
    ),
    "thirty_layers": lambda: modules(
        nn.Linear(3, 2), nn.Linear(3, 1), nn.Sequential(*(nn.Linear(NUM, NUM) for _ in range(30)))
    ),
    "value_without_layers": lambda: modules(nn.Linear(1, 2), nn.Identity(), nn.Linear(NUM, 1)),
    "sigma_of_two_dimensions": lambda: modules(
        nn.Linear(NUM, 2), nn.Linear(NUM, 1), space=Box(-1, 1, (2,)), log_sigma=nn.Parameter(torch.zeros(1, 2))
    ),
}


def shared_activation():
    tanh = nn.Tanh()
    trunk = nn.Sequential(nn.Linear(NUM, 7), tanh, nn.Linear(7, 6), tanh)
    return modules(nn.Linear(6, 2), nn.Linear(6, 1), trunk)


def shared_layer():
    layer = nn.Linear(7, 7)
    trunk = nn.Sequential(nn.Linear(NUM, 7), nn.Tanh(), layer, nn.Tanh(), layer, nn.Tanh())
    return modules(nn.Linear(7, 2), nn.Linear(7, 1), trunk)


@pytest.mark.parametrize(
    "build", [*BUILT.values(), shared_activation, shared_layer], ids=[*BUILT, "activation", "layer"]
)
def test_networks_of_given_modules(build):
    policy = build()
    rollout = make_rollout(policy, 6, 30)
    check_ppo(policy, rollout)
    gradients, _ = gradient_taken(policy, clone_update, rollout)
    assert_gradient(policy, gradients, log_prob_loss(policy, rollout, np.ones(rollout.rewards.shape)))
