"""Cloning and distillation: the gradients are autograd's in float64, for every head, with and without memory."""

import numpy as np
import pytest
import torch
from nn.gradients import NETWORKS
from nn.losses import divergence_loss, log_prob_loss
from nn.problems import HEADS, answers, assert_gradient, gradient_taken, make_policy, make_rollout, targets

from metafast.nn import Demonstrations, clone_update

every_head = pytest.mark.parametrize("head", HEADS)


@every_head
@pytest.mark.parametrize("network", ["default", "two_towers", "gru"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cloning(head, network, weighted):
    policy = make_policy(head, **NETWORKS[network])
    rollout = make_rollout(policy, 6, 11, with_mask=network == "gru")
    weights = targets(rollout)[0] if weighted else None
    gradients, figures = gradient_taken(policy, clone_update, rollout, weights=weights, entropy_coef=0.01)
    used = np.ones(rollout.rewards.shape) if weights is None else weights
    assert_gradient(policy, gradients, log_prob_loss(policy, rollout, used, entropy_coef=0.01))
    assert figures["policy_loss"] == pytest.approx(log_prob_loss(policy, rollout, used).item(), rel=1e-9, abs=1e-12)
    # The same rows as demonstrations, with and without the axis of time where the policy allows both.
    if rollout.mask is not None:
        return
    data = Demonstrations(rollout.observations[:-1], rollout.actions, rollout.starts, rollout.initial_hidden)
    again, _ = gradient_taken(policy, clone_update, data, weights=weights, entropy_coef=0.01)
    assert all(torch.equal(mine, other) for mine, other in zip(again, gradients, strict=True))
    if not policy.recurrent:
        flat = Demonstrations(*(array.reshape(-1, *array.shape[2:]) for array in data[:2]))
        weights = None if weights is None else weights.ravel()
        again, _ = gradient_taken(policy, clone_update, flat, weights=weights, entropy_coef=0.01)
        assert all(torch.equal(mine, other) for mine, other in zip(again, gradients, strict=True))


@every_head
@pytest.mark.parametrize("network", ["default", "two_towers", "gru"])
@pytest.mark.parametrize("by_array", [False, True])
def test_distillation(head, network, by_array):
    policy = make_policy(head, **NETWORKS[network])
    teacher = make_policy(head, seed=9, **NETWORKS[network])
    rollout = make_rollout(policy, 6, 11)
    if policy.recurrent:
        rollout.initial_hidden[:] = 0
    with torch.no_grad():
        wanted, _ = answers(teacher, rollout)
    weights = targets(rollout)[0]
    given = wanted.numpy() if by_array else teacher
    gradients, figures = gradient_taken(policy, clone_update, rollout, teacher=given, weights=weights)
    loss, mean = divergence_loss(policy, rollout, wanted, weights)
    assert_gradient(policy, gradients, loss)
    assert figures["divergence"] == pytest.approx(mean.item(), rel=1e-9)


@every_head
def test_distillation_with_entropy(head):
    policy, teacher = make_policy(head), make_policy(head, seed=9)
    rollout = make_rollout(policy)
    gradients, _ = gradient_taken(policy, clone_update, rollout, teacher=teacher, entropy_coef=0.1)
    with torch.no_grad():
        wanted, _ = answers(teacher, rollout)
    assert_gradient(policy, gradients, divergence_loss(policy, rollout, wanted, entropy_coef=0.1)[0])


@pytest.mark.parametrize("network", ["odd", "gru"])
def test_distillation_of_rows_that_count(network):
    policy, teacher = make_policy(**NETWORKS[network]), make_policy(seed=9)
    rollout = make_rollout(policy, 8, 30, with_mask=True)
    with torch.no_grad():
        wanted, _ = answers(teacher, rollout)
    gradients, figures = gradient_taken(policy, clone_update, rollout, teacher=wanted.numpy())
    loss, mean = divergence_loss(policy, rollout, wanted)
    assert_gradient(policy, gradients, loss)
    assert figures["divergence"] == pytest.approx(mean.item(), rel=1e-9)
    assert figures["policy_loss"] == pytest.approx(mean.item(), rel=1e-9)


@pytest.mark.parametrize("teacher_network", ["default", "gru"])
@pytest.mark.parametrize("network", ["default", "gru"])
def test_distillation_between_networks_with_and_without_memory(network, teacher_network):
    """A teacher's state is zeroed where episodes of the demonstrations begin."""
    policy = make_policy("discrete", **NETWORKS[network])
    teacher = make_policy("discrete", seed=9, **NETWORKS[teacher_network])
    rollout = make_rollout(teacher, 6, 11)
    if teacher.recurrent:
        rollout.initial_hidden[:] = 0
    if policy.recurrent:
        rollout.initial_hidden = np.zeros((11, policy.hidden_size))
    data = Demonstrations(rollout.observations[:-1], None, rollout.starts)
    if not policy.recurrent and not teacher.recurrent:
        data = Demonstrations(rollout.observations[:-1].reshape(66, -1))
    with torch.no_grad():
        wanted, _ = answers(teacher, rollout)
    gradients, _ = gradient_taken(policy, clone_update, data, teacher=teacher)
    if policy.recurrent and not teacher.recurrent:
        rollout.initial_hidden = np.zeros((11, policy.hidden_size))
    assert_gradient(policy, gradients, divergence_loss(policy, rollout, wanted)[0])
