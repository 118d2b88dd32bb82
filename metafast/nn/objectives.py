"""What the updates in torch minimise, on any device; the kernels' formulas are in csrc/nn/block_loss.hpp."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from metafast.nn._distributions import Distribution

__all__ = ["Samples", "Surrogate", "Terms", "compute_loss", "mean", "standardize"]

Surrogate = Literal["clipped", "log_prob", "divergence"]
Number = float | Tensor


@dataclass
class Samples:
    """Columns of steps to learn from; None where an objective does not need one.

    `mask` is False where a row is no step.
    """

    actions: Any = None
    log_probs: Any = None
    values: Any = None
    advantages: Any = None
    returns: Any = None
    teacher: Any = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """The parts of a loss and their weights; a part is left out where its weight is None.

    `units` is what the policy's part is averaged over, per step: 1, or episodes.
    """

    surrogate: Surrogate
    clip: Number = 0.0
    value_clip: Number | None = None
    value_coef: Number | None = None
    entropy_coef: Number | None = None
    units: Number = 1.0


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the rows that count."""
    if mask is None:
        return values.mean()
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def standardize(advantages: Tensor, mask: Tensor | None) -> Tensor:
    """Advantages of mean 0 and deviation 1."""
    centred = advantages - mean(advantages, mask)
    return centred / (mean(centred.square(), mask).sqrt() + 1e-8)


def compute_loss(
    distribution: Distribution, outputs: Tensor, values: Tensor, samples: Samples, terms: Terms
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss whose gradient is minus the policy gradient, plus value error, minus entropy; and its parts."""
    mask, parts = samples.mask, {}
    if terms.surrogate == "divergence":
        divergences = _divergence(distribution, samples.teacher, outputs)
        surrogate = -divergences if samples.advantages is None else -divergences * samples.advantages
        parts["divergence"] = mean(divergences, mask)
    else:
        surrogate = distribution.log_prob(outputs, samples.actions)
        if terms.surrogate == "clipped":
            # Schulman et al. 2017, eq. 7.
            log_ratios = surrogate - samples.log_probs
            ratios = log_ratios.exp()
            clipped = ratios.clamp(1 - terms.clip, 1 + terms.clip)
            surrogate = torch.minimum(ratios * samples.advantages, clipped * samples.advantages)
            with torch.no_grad():
                # Schulman's estimator of KL(old || new) that is never negative.
                parts["approx_kl"] = mean(ratios - 1 - log_ratios, mask)
                parts["clip_fraction"] = mean((clipped != ratios).to(ratios.dtype), mask)
        elif samples.advantages is not None:
            # Williams 1992: the gradient of log pi(a|s) (R - b); advantages are constants here.
            surrogate = surrogate * samples.advantages
    loss = parts["policy_loss"] = -mean(surrogate, mask) / terms.units
    if terms.value_coef is not None:
        errors = (values - samples.returns).square()
        if terms.value_clip is not None:
            near = samples.values + (values - samples.values).clamp(-terms.value_clip, terms.value_clip)
            errors = torch.maximum(errors, (near - samples.returns).square())
        parts["value_loss"] = mean(errors, mask)
        loss = loss + terms.value_coef * parts["value_loss"]
    if terms.entropy_coef is not None:
        parts["entropy"] = mean(distribution.entropy(outputs), mask)
        loss = loss - terms.entropy_coef * parts["entropy"]
    return loss, parts


def _divergence(distribution: Distribution, teacher: Tensor, outputs: Tensor) -> Tensor:
    """KL(teacher || policy) of each row; a categorical teacher's logits are normalised already."""
    if distribution.choices:
        each = []
        parts = zip(teacher.split(distribution.choices, -1), outputs.split(distribution.choices, -1), strict=True)
        for log_p, logits in parts:
            terms = log_p.exp() * (log_p - logits.log_softmax(-1))
            each.append(torch.where(log_p > -math.inf, terms, 0).sum(-1))
        return torch.stack(each).sum(0)
    if distribution.native_head == "bernoulli":
        share = teacher.sigmoid()
        entropies, crossed = (
            functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
            for logits in (teacher, outputs)
        )
        return (crossed - entropies).sum(-1)
    (mean, sigma), (our_mean, our_sigma) = teacher.chunk(2, -1), outputs.chunk(2, -1)
    squares = (sigma.square() + (mean - our_mean).square()) / (2 * our_sigma.square())
    return ((our_sigma / sigma).log() + squares - 0.5).sum(-1)
