"""What policy-gradient training learns from a rollout: advantages, the native update, and the same in torch."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import metafast
from metafast.envs import Rollout
from metafast.nn import objectives
from metafast.nn.objectives import Samples, Terms
from metafast.trainers._learner import Learner
from metafast.trainers._options import Config
from metafast.trainers._replay import Replay


def estimate(
    config: Config, rewards: Tensor, values: Tensor, final_values: Tensor, rollout: Rollout, log_rhos: Tensor | None
) -> tuple[Tensor, Tensor, float]:
    """Advantages and value targets [T, N], and the units of the policy loss per step that counts: steps or episodes.

    A cut episode counts on the value of its true last observation.
    """
    ends = rollout.terminated, rollout.truncated
    units = 1.0
    if config.algorithm in ("ppo", "a2c"):
        advantages, returns = metafast.gae(
            rewards, values[:-1], values[-1], *ends, gamma=config.gamma, lam=config.lam, final_values=final_values
        )
    elif config.algorithm == "vtrace":
        returns, advantages = metafast.vtrace(
            log_rhos, rewards, values[:-1], values[-1], *ends,
            gamma=config.gamma, lam=config.lam, final_values=final_values,
        )  # fmt: skip
    else:
        # Without a baseline no value is trusted: a cut episode's return is what was seen of it (plain Monte Carlo).
        with_baseline = config.algorithm == "reinforce-baseline"
        returns = metafast.discounted_returns(
            rewards, *ends, gamma=config.gamma, final_values=final_values if with_baseline else None
        )
        advantages = returns - values[:-1] if with_baseline else returns
        assert rollout.mask is not None
        units = rewards.shape[1] / float(rollout.mask.sum())
    if config.normalize_advantages and log_rhos is not None:
        # A baseline carries the weights of what it is subtracted from; bare, it would favour what old policies did.
        weights = log_rhos.exp().clamp(max=1.0)
        advantages = advantages - weights * (advantages.sum() / weights.sum())
    elif config.normalize_advantages:
        chosen = advantages if rollout.mask is None else advantages[rollout.mask]
        advantages = (advantages - chosen.mean()) / (chosen.std(correction=0) + 1e-8)
    return advantages, returns, units


def update_natively(
    config: Config, learner: Learner, rollout: Rollout, rewards: Tensor, learning_rate: float
) -> dict[str, float]:
    """Learn from a rollout in one call of a kernel; return the parts of the loss."""
    advantages, returns, _ = estimate(config, rewards, rollout.values, rollout.final_values, rollout, None)
    optimizer = learner.native_optimizer(config.optimizer)
    common: dict[str, Any] = {
        "lr": learning_rate, "value_coef": config.value_coef, "entropy_coef": config.entropy_coef,
        "normalize_advantages": False, "max_grad_norm": config.max_grad_norm or None,
        "advantages": advantages, "returns": returns,
    }  # fmt: skip
    if config.algorithm == "ppo":
        figures = metafast.nn.ppo_update(
            learner.policy, optimizer, rollout, epochs=config.epochs, minibatches=config.minibatches,
            clip=config.clip, value_clip=config.value_clip, target_kl=config.target_kl, generator=learner.generator,
            **common,
        )  # fmt: skip
    elif config.algorithm == "a2c":
        figures = metafast.nn.a2c_update(learner.policy, optimizer, rollout, **common)
    else:
        baseline = config.algorithm == "reinforce-baseline"
        figures = metafast.nn.reinforce_update(learner.policy, optimizer, rollout, baseline=baseline, **common)
    learner.moments["count"].fill_(optimizer.step_count)
    return {f"losses/{name}": value for name, value in figures.items()}


@dataclass
class Batch:
    """Steps to learn from, in any order; `units` is what the policy loss counts for each: steps or episodes.

    A recurrent policy's columns are [T, N], its minibatches environments, and `mask` tells which steps count.
    """

    units: float
    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    starts: Tensor | None = None
    hidden: Tensor | None = None
    mask: Tensor | None = None

    def shuffled(self, minibatches: int, epochs: int, generator: torch.Generator) -> "Iterator[list[Batch]]":
        """Cut into `minibatches` parts at random, once for each epoch."""
        recurrent = self.hidden is not None
        rows = self.returns.shape[1] if recurrent else len(self.returns)
        # All are drawn at once, so that epochs which are left out change nothing later.
        orders = [torch.randperm(rows, generator=generator) for _ in range(epochs if minibatches > 1 else 0)]
        for epoch in range(epochs):
            if minibatches == 1:
                yield [self]
            else:
                parts = orders[epoch].to(self.returns.device).chunk(minibatches)
                yield [self._select(part, recurrent) for part in parts]

    def _select(self, rows: Tensor, recurrent: bool) -> "Batch":
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, column in columns.items():
            if isinstance(column, Tensor):
                columns[name] = column[:, rows] if recurrent and name != "hidden" else column[rows]
        return Batch(**columns)


@torch.no_grad()
def make_batch(config: Config, learner: Learner, rollout: Rollout, rewards: Tensor | None = None) -> Batch:
    """Estimate advantages and value targets, of V-trace by the present policy; `rewards` are the rollout's, scaled."""
    if rewards is None:
        rewards = rollout.rewards * config.reward_scale
    observations, actions = rollout.observations.to(learner.device), rollout.actions.to(learner.device)
    values, final_values, log_rhos = rollout.values, rollout.final_values, None
    if config.algorithm == "vtrace":
        steps, num_envs = rollout.rewards.shape
        outputs, flat_values = learner.policy(observations.flatten(0, 1))
        values = flat_values.cpu().view(steps + 1, num_envs)
        final_values = torch.zeros_like(rewards)
        if rollout.truncated.any():
            final_rows = rollout.final_observations[rollout.truncated]
            final_values[rollout.truncated] = learner.policy(final_rows.to(learner.device))[1].cpu()
        log_probs = learner.distribution.log_prob(outputs.view(steps + 1, num_envs, -1)[:-1], actions)
        log_rhos = log_probs.cpu() - rollout.log_probs
    advantages, returns, units = estimate(config, rewards, values, final_values, rollout, log_rhos)
    columns = [
        column.to(learner.device)
        for column in (observations[:-1], actions, rollout.log_probs, values[:-1], advantages, returns)
    ]
    if learner.policy.recurrent:
        assert rollout.initial_hidden is not None
        mask = torch.ones_like(rollout.terminated) if rollout.mask is None else rollout.mask
        kept = (rollout.starts, rollout.initial_hidden, mask)
        return Batch(units, *columns, *(column.to(learner.device) for column in kept))
    if rollout.mask is None:
        return Batch(units, *(column.flatten(0, 1) for column in columns))
    mask = rollout.mask.to(learner.device)
    return Batch(units, *(column[mask] for column in columns))


def compute_loss(config: Config, learner: Learner, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss whose gradient is minus the policy gradient, plus value error, minus entropy."""
    if batch.hidden is None:
        outputs, values = learner.policy(batch.observations)
    else:
        outputs, values, _ = learner.policy(batch.observations, batch.hidden, batch.starts)
    columns = "actions", "log_probs", "values", "advantages", "returns", "mask"
    terms = Terms(
        "clipped" if config.algorithm == "ppo" else "log_prob",
        clip=config.clip,
        value_clip=config.value_clip,
        value_coef=None if config.algorithm == "reinforce" else config.value_coef,
        entropy_coef=config.entropy_coef or None,
        units=batch.units,
    )
    samples = Samples(**{name: getattr(batch, name) for name in columns})
    return objectives.compute_loss(learner.distribution, outputs, values, samples, terms)


def _cut(config: Config, learner: Learner, rollout: Rollout, rewards: Tensor, replay: Replay) -> Iterator[list[Batch]]:
    """The minibatches of each epoch; V-trace makes a batch anew for each."""
    if config.algorithm != "vtrace":
        batch = make_batch(config, learner, rollout, rewards)
        yield from batch.shuffled(config.minibatches, config.epochs, learner.generator)
        return
    for _ in range(config.epochs):
        batch = make_batch(config, learner, replay.mix(rollout, config.replay_ratio, learner.generator))
        yield from batch.shuffled(config.minibatches, 1, learner.generator)


def update_in_torch(
    config: Config, learner: Learner, rollout: Rollout, rewards: Tensor, replay: Replay, learning_rate: float
) -> dict[str, float]:
    """Learn from a rollout, and from replayed ones; return the parts of the loss, averaged over the last epoch."""
    for minibatches in _cut(config, learner, rollout, rewards, replay):
        history = []
        for minibatch in minibatches:
            loss, parts = compute_loss(config, learner, minibatch)
            loss.backward()
            learner.step(learning_rate, config.max_grad_norm, config.optimizer)
            history.append({name: float(part.detach()) for name, part in parts.items()})
        figures = {name: sum(parts[name] for parts in history) / len(history) for name in history[0]}
        if config.target_kl is not None and figures.get("approx_kl", 0.0) > config.target_kl:
            break
    return {f"losses/{name}": value for name, value in figures.items()}
