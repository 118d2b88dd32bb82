"""Running statistics of observations and of returns, against NumPy's of all at once."""

import numpy as np
import pytest
import torch
from nn.losses import ppo_loss
from nn.problems import assert_gradient, gradient_taken, make_policy, make_rollout, targets

import metafast
from metafast.nn import ReturnNormalizer, ppo_update


def normalizing(**options):
    policy = make_policy(normalize_observations=True, **options)
    # Deviations so small that some observations meet the limit of 10 of them.
    policy.update_statistics(np.random.default_rng(4).normal([0.5, -0.2, 0.1], [0.1, 3.0, 1.0], (40, 3)))
    return policy


def test_statistics_are_numpys():
    rng = np.random.default_rng(0)
    policy = make_policy(normalize_observations=True)
    parts = [rng.normal(5, 3, shape) for shape in [(7, 3), (1, 3), (4, 6, 3), (2, 3)]]
    for count in range(1, 5):
        policy.update_statistics(parts[count - 1].astype(np.float32) if count == 2 else parts[count - 1])
        rows = np.concatenate([part.reshape(-1, 3) for part in parts[:count]])
        np.testing.assert_allclose(policy.observation_mean, rows.mean(0), rtol=1e-6)
        np.testing.assert_allclose(policy.observation_variance, rows.var(0), rtol=1e-6)
        assert policy.observation_count == len(rows)


def test_statistics_are_saved():
    policy = normalizing()
    names = {"observation_mean", "observation_variance", "observation_count"}
    assert names <= set(policy.state_dict())
    other = make_policy(normalize_observations=True)
    other.load_state_dict(policy.state_dict())
    rows = torch.randn(5, 3)
    assert torch.equal(policy(rows)[0], other(rows)[0])
    assert not names & set(make_policy().state_dict())


def test_observations_are_standardized():
    policy = normalizing(hidden_sizes=())
    rows = np.random.default_rng(1).normal(0, 5, (30, 3))
    deviations = np.sqrt(policy.observation_variance.numpy() + 1e-8)
    expected = np.clip((rows - policy.observation_mean.numpy()) / deviations, -10, 10)
    assert (np.abs(expected) == 10).any()
    weight, bias = policy.policy.weight.detach().numpy(), policy.policy.bias.detach().numpy()
    np.testing.assert_allclose(policy(torch.from_numpy(rows))[0].detach(), expected @ weight.T + bias, rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"gru_size": 5}, {"value_hidden_sizes": (4,)}], ids=str)
def test_updates_use_them(options):
    policy = normalizing(**options)
    rollout = make_rollout(policy)
    advantages, returns = targets(rollout)
    given = {"advantages": advantages, "returns": returns, "epochs": 1, "minibatches": 1, "max_grad_norm": None}
    assert_gradient(
        policy, gradient_taken(policy, ppo_update, rollout, **given)[0],
        ppo_loss(policy, rollout, advantages, returns)[0],
    )  # fmt: skip
    # Extended between updates, they count in the next.
    policy.update_statistics(rollout.observations)
    assert_gradient(
        policy, gradient_taken(policy, ppo_update, rollout, **given)[0],
        ppo_loss(policy, rollout, advantages, returns)[0],
    )  # fmt: skip


def test_only_where_wanted():
    with pytest.raises(ValueError, match="normalize_observations=False"):
        make_policy().update_statistics(np.zeros((2, 3)))


def test_nothing_observed_changes_nothing():
    policy = normalizing()
    before = policy.observation_variance.clone()
    policy.update_statistics(np.zeros((0, 3)))
    assert torch.equal(policy.observation_variance, before)


def plain_normalizer(parts, gamma, num_envs):
    """Welford's recurrence over the running returns, each block of rewards scaled after it was seen."""
    seen, running, scaled = [], np.zeros(num_envs), []
    for rewards, ended in parts:
        for row, ends in zip(rewards, ended, strict=True):
            running = row + gamma * running
            seen.append(running.copy())
            running = np.where(ends, 0.0, running)
        scaled.append(rewards / np.sqrt(np.var(seen) + 1e-8))
    return scaled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rewards_are_divided_by_the_deviation_of_returns(dtype):
    rng = np.random.default_rng(3)
    parts = [(rng.normal(1, 4, (steps, 6)).astype(dtype), rng.random((steps, 6)) < 0.2) for steps in (9, 1, 5, 20)]
    ours = ReturnNormalizer(6, gamma=0.9)
    for (rewards, ended), expected in zip(parts, plain_normalizer(parts, 0.9, 6), strict=True):
        before = rewards.copy()
        scaled = ours(rewards, ended)
        assert scaled.dtype == dtype
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)
        np.testing.assert_array_equal(rewards, before)


def test_return_normalizer_continues_from_its_state():
    rng = np.random.default_rng(3)
    rewards, ended = rng.normal(size=(2, 8, 3)), rng.random((2, 8, 3)) < 0.2
    ours, other = ReturnNormalizer(3), ReturnNormalizer(3)
    ours(rewards[0], ended[0])
    state = ours.get_state()
    expected = ours(rewards[1], ended[1])
    other.set_state(state)
    np.testing.assert_array_equal(other(rewards[1], ended[1]), expected)


def test_return_normalizer_names_wrong_shapes():
    normalizer = metafast.nn.ReturnNormalizer(3)
    with pytest.raises(ValueError, match=r"shape \(T, 3\), not \(4, 2\) and \(4, 2\)"):
        normalizer(np.zeros((4, 2)), np.zeros((4, 2), bool))
    with pytest.raises(ValueError, match=r"shape \(T, 3\), not \(4, 3\) and \(5, 3\)"):
        normalizer(np.zeros((4, 3)), np.zeros((5, 3), bool))
