"""One step of an update on a CUDA device: loss, gradient and the optimiser's step, in one graph on fixed tensors."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metafast._graph_capture import Recorded
from metafast.nn._actor_critic import ActorCritic
from metafast.nn._optimizer import Adam
from metafast.nn.objectives import Samples, Surrogate, Terms, compute_loss, mean, standardize

__all__ = ["COLUMNS", "MEANS", "MinibatchStep"]

# What `diagnostics` holds: means over the rows of a minibatch, their number, the gradient's length, and whether it and
# all before it were finite.
MEANS = "policy_loss", "value_loss", "entropy", "divergence", "clip_fraction"
COLUMNS = (*MEANS, "rows", "grad_norm", "finite")
# Numbers that change between updates without a new recording.
_WEIGHTS = "clip", "value_clip", "value_coef", "entropy_coef", "units", "max_grad_norm"


class MinibatchStep:
    """A step on at most `capacity` rows (of a recurrent policy: environments) of `columns`.

    `weights` are those that are not left out. What is None or 0 at one time and a number at another is two recordings.
    """

    def __init__(
        self,
        policy: ActorCritic,
        optimizer: Adam,
        columns: Mapping[str, Tensor],
        capacity: int,
        *,
        padded: bool,
        surrogate: Surrogate,
        weights: frozenset[str],
        normalize_advantages: bool,
    ) -> None:
        self._policy = policy
        self._optimizer = weakref.proxy(optimizer)  # which owns this step
        self._parts = policy.parts()  # whose identities are in the key
        names = {id(parameter): name for name, parameter in policy.named_parameters()}
        self._names = [names[id(parameter)] for parameter in policy.flat_parameters().parameters]
        self._parameters = policy.flat_parameters()
        self._surrogate, self._weights, self._normalize = surrogate, weights, normalize_advantages
        device = policy.device
        self._columns = {
            name: column.new_empty(
                (len(column), capacity, *column.shape[2:]) if self._axis(name) else (capacity, *column.shape[1:])
            )
            for name, column in columns.items()
        }
        self._mask: Tensor | None = self._columns.pop("mask", None)
        if padded and self._mask is None:
            steps = (len(columns["starts"]),) if policy.recurrent else ()
            self._mask = torch.empty((*steps, capacity), dtype=torch.bool, device=device)
        self._rows = torch.empty(capacity, dtype=torch.int64, device=device)
        self._numbers = torch.ones(len(_WEIGHTS), dtype=policy.dtype, device=device)
        self._count = torch.zeros((), dtype=torch.float64, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self.learning_rate = torch.zeros((), dtype=torch.float64, device=device)
        self.diagnostics = torch.zeros(len(COLUMNS), dtype=torch.float64, device=device)
        self._recorded = Recorded(device)

    def run(self) -> None:
        """Take the step on what was gathered."""
        self._recorded(self._run)

    def _axis(self, name: str) -> int:
        return int(self._policy.recurrent and name != "hidden")

    def begin(self, weights: Mapping[str, Any]) -> None:
        """Begin an update with these weights, and the optimiser's count of steps."""
        for place, name in enumerate(_WEIGHTS):
            if name in self._weights:
                self._numbers[place] = weights[name]
        self._count.fill_(self._optimizer.step_count)
        self._finite.fill_(True)

    def take(self, columns: Mapping[str, Tensor], rows: Tensor) -> None:
        """Gather the minibatch of these rows; what is missing to the capacity is filled up, and does not count."""
        count = len(rows)
        self._rows[:count] = rows
        self._rows[count:] = rows[0]
        for name, to in self._columns.items():
            torch.index_select(columns[name], self._axis(name), self._rows, out=to)
        if self._mask is not None:
            if "mask" in columns:
                torch.index_select(columns["mask"], 1, self._rows, out=self._mask)
            else:
                self._mask.fill_(True)
            self._mask[..., count:] = False

    def _run(self) -> None:
        c, numbers = self._columns, dict(zip(_WEIGHTS, self._numbers.unbind(), strict=True))
        names = "actions", "log_probs", "values", "advantages", "returns", "teacher"
        samples = Samples(**{name: c.get(name) for name in names}, mask=self._mask)
        if self._normalize:
            samples.advantages = standardize(samples.advantages, self._mask)
        given = {name: numbers[name] for name in self._weights - {"max_grad_norm"}}
        with torch.enable_grad():
            inputs = tuple(c[name] for name in ("observations", "hidden", "starts") if name in c)
            # Leaves of their own on the same memory: the parameters may be in graphs that the caller keeps, whose
            # streams must not wait for what is being recorded.
            leaves = [parameter.detach().requires_grad_() for parameter in self._parameters.parameters]
            named = dict(zip(self._names, leaves, strict=True))
            outputs, values = torch.func.functional_call(self._policy, named, inputs)[:2]
            terms = Terms(self._surrogate, **given)
            loss, parts = compute_loss(self._policy.distribution, outputs, values, samples, terms)
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        with torch.no_grad():
            gradient = torch.cat(
                [
                    (torch.zeros_like(parameter) if part is None else part).flatten()
                    for parameter, part in zip(self._parameters.parameters, gradients, strict=True)
                ]
            )
            norm = gradient.double().norm()
            self._finite.logical_and_(norm.isfinite())
            self._descend(gradient, norm, numbers["max_grad_norm"])
            if "entropy" not in parts:
                parts["entropy"] = mean(self._policy.distribution.entropy(outputs), self._mask)
            rows = self._mask.sum() if self._mask is not None else torch.full_like(norm, values.numel())
            diagnostics = {**parts, "divergence": parts.get("approx_kl", parts.get("divergence"))}
            diagnostics |= {"rows": rows, "grad_norm": norm, "finite": self._finite}
            for place, name in enumerate(COLUMNS):
                figure = diagnostics.get(name)
                if figure is not None:
                    self.diagnostics[place] = figure

    def _descend(self, gradient: Tensor, norm: Tensor, max_grad_norm: Tensor) -> None:
        """One step (csrc/nn/adam.hpp), or none where the gradient is not finite, or one before was not."""
        optimizer, flat, finite = self._optimizer, self._parameters.flat, self._finite
        first, second, decay = optimizer.first, optimizer.second, optimizer.weight_decay
        if "max_grad_norm" in self._weights:
            gradient = gradient * (max_grad_norm.double() / (norm + 1e-6)).clamp(max=1.0).to(gradient.dtype)
        if decay and not optimizer.decoupled_weight_decay:
            gradient = gradient + decay * flat
        kept = flat
        if decay and optimizer.decoupled_weight_decay:
            kept = flat * (1 - self.learning_rate * decay).to(flat.dtype)
        self._count += 1
        if optimizer.plain:
            after = kept - self.learning_rate.to(flat.dtype) * gradient
        else:
            (beta_1, beta_2), dtype = optimizer.betas, flat.dtype
            step_size = (self.learning_rate / (1 - beta_1**self._count)).to(dtype)
            second_scale = (1 / (1 - beta_2**self._count)).to(dtype)
            new_first = first + (1 - beta_1) * (gradient - first)
            new_second = beta_2 * second + (1 - beta_2) * gradient.square()
            deviation = (new_second * second_scale).sqrt() + optimizer.eps
            after = kept - step_size * new_first / deviation
            first.copy_(torch.where(finite, new_first, first))
            second.copy_(torch.where(finite, new_second, second))
        flat.copy_(torch.where(finite, after, flat))
