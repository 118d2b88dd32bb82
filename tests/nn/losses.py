"""The updates' objectives, in torch as they are usually written."""

import numpy as np
import torch
from nn.problems import answers


def rows_of(policy, rollout, chosen=None):
    """Flat indices t * N + n of the rows that count: of `chosen` rows or, of a recurrent policy, environments."""
    num_steps, num_envs = rollout.rewards.shape
    rows = np.arange(num_steps * num_envs).reshape(num_steps, num_envs)
    counts = np.ones_like(rows, dtype=bool) if rollout.mask is None else rollout.mask
    if chosen is None:
        return rows[counts]
    return rows[:, chosen][counts[:, chosen]] if policy.recurrent else np.asarray(chosen)


def of_rows(policy, rollout, rows):
    """Log-probabilities of the actions, entropies and values of some rows."""
    outputs, values = answers(policy, rollout)
    distribution = policy.distribution
    log_probs = distribution.log_prob(outputs, torch.from_numpy(rollout.actions))
    return [each.flatten()[rows] for each in (log_probs, distribution.entropy(outputs), values)]


def pick(values, rows):
    return torch.from_numpy(np.asarray(values)).flatten()[rows]


def standardized(advantages):
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


def ppo_loss(
    policy,
    rollout,
    advantages,
    returns,
    *,
    rows=None,
    clip=0.2,
    value_coef=0.5,
    value_clip=None,
    entropy_coef=0.0,
    normalize_advantages=True,
):
    """The loss of a minibatch, and the figures that ppo_update gives of it."""
    rows = rows_of(policy, rollout) if rows is None else rows
    log_probs, entropies, values = of_rows(policy, rollout, rows)
    advantages, returns = pick(advantages, rows), pick(returns, rows)
    if normalize_advantages:
        advantages = standardized(advantages)
    log_ratios = log_probs - pick(rollout.log_probs, rows)
    ratios = log_ratios.exp()
    policy_loss = -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages).mean()
    errors = (values - returns).square()
    if value_clip is not None:
        old = pick(rollout.values[:-1], rows)
        moved = old + (values - old).clamp(-value_clip, value_clip)
        errors = torch.maximum(errors, (moved - returns).square())
    loss = policy_loss + value_coef * errors.mean() - entropy_coef * entropies.mean()
    figures = {
        "policy_loss": policy_loss,
        "value_loss": errors.mean(),
        "entropy": entropies.mean(),
        "approx_kl": (ratios - 1 - log_ratios).mean(),
        "clip_fraction": ((ratios - 1).abs() > clip).to(ratios.dtype).mean(),
    }
    return loss, {name: float(value.detach()) for name, value in figures.items()}


def log_prob_loss(
    policy,
    rollout,
    advantages,
    returns=None,
    *,
    rows=None,
    value_coef=0.0,
    entropy_coef=0.0,
    normalize_advantages=False,
    num_units=None,
):
    """A2C's, REINFORCE's (a sum over rows, averaged over `num_units` episodes) and weighted cloning's."""
    rows = rows_of(policy, rollout) if rows is None else rows
    log_probs, entropies, values = of_rows(policy, rollout, rows)
    weights = pick(advantages, rows)
    if normalize_advantages:
        weights = standardized(weights)
    loss = -(log_probs * weights).sum() / (num_units or len(rows)) - entropy_coef * entropies.mean()
    if value_coef:
        loss = loss + value_coef * (values - pick(returns, rows)).square().mean()
    return loss


def divergence_loss(policy, rollout, teacher, weights=None, entropy_coef=0.0):
    """Mean weighted KL(teacher || policy), by torch.distributions; and the mean of the unweighted one."""
    rows = rows_of(policy, rollout)
    outputs, _ = answers(policy, rollout)
    divergences = divergence(policy.distribution, teacher, outputs).flatten()[rows]
    entropies = policy.distribution.entropy(outputs).flatten()[rows]
    weights = torch.ones_like(divergences) if weights is None else pick(weights, rows)
    return (weights * divergences).mean() - entropy_coef * entropies.mean(), divergences.mean()


def divergence(distribution, teacher, outputs):
    from torch import distributions

    kl = distributions.kl_divergence
    if distribution.choices:
        parts = zip(teacher.split(distribution.choices, -1), outputs.split(distribution.choices, -1), strict=True)
        return sum(
            kl(distributions.Categorical(logits=mine), distributions.Categorical(logits=other)) for mine, other in parts
        )
    if distribution.native_head == "bernoulli":
        return kl(distributions.Bernoulli(logits=teacher), distributions.Bernoulli(logits=outputs)).sum(-1)
    return kl(distributions.Normal(*teacher.chunk(2, -1)), distributions.Normal(*outputs.chunk(2, -1))).sum(-1)
