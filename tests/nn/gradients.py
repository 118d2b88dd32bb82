"""Gradients that an update took, against autograd's of the loss as torch has it."""

import pytest
from nn.losses import ppo_loss
from nn.problems import assert_gradient, gradient_taken, targets

from metafast.nn import ppo_update

NETWORKS = {
    "default": {},
    "linear": {"hidden_sizes": ()},
    "one_wide": {"hidden_sizes": (1,)},
    "odd": {"hidden_sizes": (5, 17, 40), "activation": "silu"},
    "wide": {"hidden_sizes": (150,), "activation": "relu"},
    "two_towers": {"hidden_sizes": (20,), "value_hidden_sizes": (7, 33), "activation": "relu"},
    "linear_value": {"hidden_sizes": (19, 4), "value_hidden_sizes": ()},
    "linear_policy": {"hidden_sizes": (), "value_hidden_sizes": (9,), "activation": "silu"},
    "gru": {"hidden_sizes": (9,), "gru_size": 12},
    "gru_alone": {"hidden_sizes": (), "gru_size": 33},
    "gru_of_one": {"hidden_sizes": (6, 3), "gru_size": 1, "activation": "relu"},
}
PPO = {"clip": 0.2, "value_coef": 0.7, "value_clip": 0.2, "entropy_coef": 0.05, "normalize_advantages": True}
WHOLE = {"epochs": 1, "minibatches": 1, "max_grad_norm": None}


def check_ppo(policy, rollout, tolerance=1e-9, **changes):
    options = PPO | changes
    advantages, returns = targets(rollout)
    gradients, figures = gradient_taken(
        policy, ppo_update, rollout, advantages=advantages, returns=returns, **WHOLE, **options
    )
    loss, expected = ppo_loss(policy, rollout, advantages, returns, **options)
    assert_gradient(policy, gradients, loss, tolerance)
    if not options["value_coef"]:
        expected.pop("value_loss")
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, rel=1e-8, abs=max(1e-10, tolerance)), name
