"""What a task's head says of a label, as a probability distribution: its loss, its prior, its divergence, its score.

Each task minimises -log p(y | x). Which p, depends on what the labels are: Bernoulli for 0 or 1, categorical for
classes, and for numbers a Gaussian whose scale is learnt (Nix and Weigend 1994), a Beta, the soft Bernoulli that the
tutorial writes for all its tasks, or the plain squared error, which is the Gaussian of variance 1/2. A learnt scale
weighs the task by itself: its gradient is in units of what it still gets wrong (Kendall, Gal and Cipolla 2018).
"""

import math
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from metafast.data.tasks import Task
from metafast.trainers import UsageError

Regression = Literal["gaussian", "beta", "bernoulli", "squared"]


class Likelihood(Protocol):
    """A family of distributions over one task's labels.

    Its parameters are a head's `outputs` [rows, num_outputs] and one learnt `log_scale`, which some do not use.
    """

    num_outputs: int
    non_negative: bool

    def fit_prior(self, labels: Tensor) -> tuple[Tensor, float]:
        """Outputs and log scale that fit `labels` best when they do not depend on the input."""
        ...

    def loss(self, outputs: Tensor, log_scale: Tensor, labels: Tensor) -> Tensor:
        """-log p(label) of each row; without constants for squared errors."""
        ...

    def divergence(self, prior: Tensor, prior_log_scale: Tensor, outputs: Tensor, log_scale: Tensor) -> Tensor:
        """KL(q || p) of each row, a sum or integral over labels; q's parameters are `prior` and `prior_log_scale`."""
        ...

    def predict(self, outputs: Tensor) -> Tensor:
        """The expected label of each row; of classes their probabilities [rows, num_classes]."""
        ...

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Accuracy, or root of the mean squared error, of the most probable or the mean label."""
        ...


class Bernoulli:
    """Labels 0 or 1 by a logit; or anything between, as in soft labels."""

    num_outputs = 1
    non_negative = True

    def __init__(self, soft: bool) -> None:
        self.soft = soft

    def fit_prior(self, labels: Tensor) -> tuple[Tensor, float]:
        """The logit of the mean."""
        return torch.logit(labels.mean(), eps=1e-3)[None], 0.0

    def loss(self, outputs: Tensor, log_scale: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], labels, reduction="none")

    def divergence(self, prior: Tensor, prior_log_scale: Tensor, outputs: Tensor, log_scale: Tensor) -> Tensor:
        """Cross-entropy less q's own entropy."""
        q = self.predict(prior)
        return self.loss(outputs, log_scale, q) - self.loss(prior, prior_log_scale, q)

    def predict(self, outputs: Tensor) -> Tensor:
        """The probability of 1."""
        return torch.sigmoid(outputs[:, 0])

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Accuracy of hard labels, error of soft ones."""
        if self.soft:
            return _root_mean_square(self.predict(outputs) - labels)
        return float(((outputs[:, 0] > 0) == (labels > 0.5)).double().mean())


class Categorical:
    """Classes by their logits."""

    non_negative = True

    def __init__(self, num_classes: int) -> None:
        self.num_outputs = num_classes

    def fit_prior(self, labels: Tensor) -> tuple[Tensor, float]:
        """Log frequencies, a class that does not occur counted as a thousandth of a row."""
        counts = torch.bincount(labels.long(), minlength=self.num_outputs).clamp(min=1e-3)
        return (counts / counts.sum()).log(), 0.0

    def loss(self, outputs: Tensor, log_scale: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        return functional.cross_entropy(outputs, labels.long(), reduction="none")

    def divergence(self, prior: Tensor, prior_log_scale: Tensor, outputs: Tensor, log_scale: Tensor) -> Tensor:
        """The sum over classes."""
        log_q, log_p = functional.log_softmax(prior, -1), functional.log_softmax(outputs, -1)
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """The probability of each class."""
        return torch.softmax(outputs, -1)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Accuracy."""
        return float((outputs.argmax(-1) == labels.long()).double().mean())


class Gaussian:
    """Numbers by their mean, which a sigmoid keeps from 0 to 1 where labels are, and one scale for all rows.

    Without a learnt scale the variance is 1/2, and the loss the squared error.
    """

    num_outputs = 1

    def __init__(self, bounded: bool, learnt_scale: bool) -> None:
        self.bounded = bounded
        self.learnt_scale = learnt_scale
        self.non_negative = not learnt_scale

    def predict(self, outputs: Tensor) -> Tensor:
        """The mean."""
        return torch.sigmoid(outputs[:, 0]) if self.bounded else outputs[:, 0]

    def fit_prior(self, labels: Tensor) -> tuple[Tensor, float]:
        """Mean and deviation."""
        mean = labels.mean()
        deviation = max(float((labels - mean).square().mean().sqrt()), 1e-3)
        return (torch.logit(mean, eps=1e-3) if self.bounded else mean)[None], math.log(deviation)

    def loss(self, outputs: Tensor, log_scale: Tensor, labels: Tensor) -> Tensor:
        """Minus the log density, or the squared error."""
        error = self.predict(outputs) - labels
        if not self.learnt_scale:
            return error.square()
        return 0.5 * (error * torch.exp(-log_scale)).square() + (log_scale + 0.5 * math.log(2 * math.pi))

    def divergence(self, prior: Tensor, prior_log_scale: Tensor, outputs: Tensor, log_scale: Tensor) -> Tensor:
        """The integral over labels, in closed form."""
        distance = (self.predict(outputs) - self.predict(prior)).square()
        if not self.learnt_scale:
            return distance
        precision = torch.exp(-2 * log_scale)
        ratio = torch.exp(2 * prior_log_scale) * precision
        return 0.5 * (distance * precision + ratio - 1) + (log_scale - prior_log_scale)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Root of the mean squared error."""
        return _root_mean_square(self.predict(outputs) - labels)


class Beta:
    """Numbers from 0 to 1 by a mean and one precision exp(-2 log_scale) for all rows (Ferrari and Cribari-Neto 2004).

    The density is infinite or zero at the ends, so labels are kept a thousandth away from them.
    """

    num_outputs = 1
    non_negative = False

    def predict(self, outputs: Tensor) -> Tensor:
        """The mean."""
        return torch.sigmoid(outputs[:, 0])

    def shapes(self, outputs: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """The density's two parameters."""
        mean, precision = self.predict(outputs), torch.exp(-2 * log_scale)
        return mean * precision, (1 - mean) * precision

    def fit_prior(self, labels: Tensor) -> tuple[Tensor, float]:
        """By the mean and the variance m (1 - m) / (1 + precision)."""
        mean = labels.mean().clamp(1e-3, 1 - 1e-3)
        variance = max(float((labels - mean).square().mean()), 1e-6)
        precision = max(float(mean * (1 - mean)) / variance - 1, 1e-1)
        return torch.logit(mean)[None], -0.5 * math.log(precision)

    def loss(self, outputs: Tensor, log_scale: Tensor, labels: Tensor) -> Tensor:
        """Minus the log density."""
        alpha, beta = self.shapes(outputs, log_scale)
        labels = labels.clamp(1e-3, 1 - 1e-3)
        return _log_beta(alpha, beta) - (alpha - 1) * torch.log(labels) - (beta - 1) * torch.log1p(-labels)

    def divergence(self, prior: Tensor, prior_log_scale: Tensor, outputs: Tensor, log_scale: Tensor) -> Tensor:
        """The integral over labels, in closed form."""
        (alpha, beta), (q_alpha, q_beta) = self.shapes(outputs, log_scale), self.shapes(prior, prior_log_scale)
        normaliser = torch.digamma(q_alpha + q_beta)
        return (
            _log_beta(alpha, beta)
            - _log_beta(q_alpha, q_beta)
            + (q_alpha - alpha) * (torch.digamma(q_alpha) - normaliser)
            + (q_beta - beta) * (torch.digamma(q_beta) - normaliser)
        )

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Root of the mean squared error."""
        return _root_mean_square(self.predict(outputs) - labels)


def _log_beta(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)


def _root_mean_square(errors: Tensor) -> float:
    return float(errors.double().square().mean().sqrt())


def make_likelihood(task: Task, regression: str) -> Likelihood:
    """The likelihood for a task's kind; `regression` says which one numbers get."""
    if task.kind == "binary":
        return Bernoulli(soft=False)
    if task.kind == "classes":
        return Categorical(task.num_classes)
    bounded = task.kind == "bounded"
    if regression == "gaussian" or regression == "squared":
        return Gaussian(bounded, learnt_scale=regression == "gaussian")
    if not bounded:
        raise UsageError(f"regression {regression!r} is for labels from 0 to 1, but {task.name!r} is real")
    return Beta() if regression == "beta" else Bernoulli(soft=True)
