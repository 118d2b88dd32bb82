"""A trunk under the heads of several tasks, with what trains it, and the tasks' objectives on a batch.

What the objectives mean is derived in `multitask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from metafast.attention import AdditiveAttention
from metafast.data.tasks import TaskTable
from metafast.trainers import UsageError, _distributed
from metafast.trainers._learner import ModuleLearner
from metafast.trainers._likelihoods import Likelihood, make_likelihood
from metafast.trainers._weighting import AGGREGATORS, RATIOS, Objectives, Weighting, make_weighting, task_gradients

if TYPE_CHECKING:
    from metafast.trainers.multitask import Config


class Head(nn.Module):
    """A task's own parameters: a linear map, a log scale, and the log variance that --weighting uncertainty learns."""

    def __init__(self, inputs: int, likelihood: Likelihood, labels: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, likelihood.num_outputs)
        bias, log_scale = likelihood.fit_prior(labels)
        with torch.no_grad():
            # So little that the first answer is the prior, yet the trunk has a gradient.
            self.linear.weight.mul_(0.01)
            self.linear.bias.copy_(bias)
        self.log_scale = nn.Parameter(torch.tensor(log_scale))
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Outputs [rows, num_outputs]."""
        outputs: Tensor = self.linear(features)
        return outputs


class Readout(nn.Module):
    """All that lies behind the trunk: the heads, and with attention each task's own features before them."""

    def __init__(self, config: Config, width: int, likelihoods: Sequence[Likelihood], labels: Sequence[Tensor]) -> None:
        super().__init__()
        count = len(likelihoods)
        self.attention: AdditiveAttention | None = None
        if config.attention and count > 1:
            self.towers = nn.ModuleList(
                nn.Sequential(nn.Linear(width, config.tower_size), nn.ReLU()) for _ in likelihoods
            )
            self.attention = AdditiveAttention(config.tower_size, config.tower_size, config.tower_size)
            width = 2 * config.tower_size
            # Row i lists the tasks other than i.
            self.others = [[other for other in range(count) if other != task] for task in range(count)]
        self.heads = nn.ModuleList(map(Head, [width] * count, likelihoods, labels))

    def forward(self, shared: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Outputs [rows, num_outputs] of every task, and weights [rows, tasks, other tasks] of the attention."""
        features, weights = [shared] * len(self.heads), None
        if self.attention is not None:
            own = torch.stack([tower(shared) for tower in self.towers], 1)
            keys = own[:, self.others].flatten(0, 1)
            context, weights = self.attention(own.flatten(0, 1)[:, None], keys, return_weights=True)
            features = list(torch.cat([own, context.view_as(own)], -1).unbind(1))
            weights = weights.view(len(shared), len(self.heads), -1)
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)], weights


class MultiTaskModel(nn.Module):
    """A trunk of rectified layers under the tasks' heads."""

    def __init__(self, config: Config, width: int, likelihoods: Sequence[Likelihood], labels: Sequence[Tensor]) -> None:
        super().__init__()
        self.trunk = nn.Sequential()
        for _ in range(config.depth):
            self.trunk.extend([nn.Linear(width, config.hidden_size), nn.ReLU()])
            width = config.hidden_size
        self.readout = Readout(config, width, likelihoods, labels)

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """What the readout gives for features [rows, columns]."""
        outputs: tuple[list[Tensor], Tensor | None] = self.readout(self.trunk(features))
        return outputs


class Network:
    """A model of some of a table's tasks, by their columns, with its training rows and what trains it.

    With `--shared-update kl`, `prior` holds the outputs [rows, num_outputs] and log scales of the distributions pi.
    """

    def __init__(self, config: Config, table: TaskTable, columns: Sequence[int], device: torch.device) -> None:
        self.config = config
        self.columns = list(columns)
        self.tasks = [table.tasks[column] for column in columns]
        self.likelihoods = [make_likelihood(task, config.regression) for task in self.tasks]
        self.features, self.labels = self.to_tensors(table, device)
        self.gaps = bool(self.labels.isnan().any())
        known = [column[~column.isnan()].cpu() for column in self.labels.T]
        # The same weights on every process, whatever else was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = MultiTaskModel(config, self.features.shape[1], self.likelihoods, known).to(device)
        self.learner = ModuleLearner(self.model, torch.Generator().manual_seed(config.seed), device)
        self.num_shared = sum(parameter.numel() for parameter in self.model.trunk.parameters())
        self.weighting = self._make_weighting(known, device)
        self.prior: list[tuple[Tensor, Tensor]] | None = None
        # Tasks whose turn is over, with --schedule sequential --shared-update kl.
        self.finished: list[int] = []

    def to_tensors(self, table: TaskTable, device: torch.device) -> tuple[Tensor, Tensor]:
        """Features [rows, columns] and labels [rows, tasks] of this network's tasks."""
        return torch.from_numpy(table.features).to(device), torch.from_numpy(table.labels[:, self.columns]).to(device)

    def _make_weighting(self, labels: Sequence[Tensor], device: torch.device) -> Weighting:
        config = self.config
        name = config.weighting if len(self.tasks) > 1 else "equal"
        if name in RATIOS and not all(likelihood.non_negative for likelihood in self.likelihoods):
            raise UsageError(
                f"weighting {name!r} needs losses that are never negative, and minus a log density can be: give "
                "regression 'squared' too"
            )
        if config.depth == 0 and (name == "gradnorm" or name in AGGREGATORS):
            raise UsageError(f"weighting {name!r} is about the trunk's gradients, and depth 0 has no trunk")
        prior_losses = []
        for likelihood, column in zip(self.likelihoods, labels, strict=True):
            outputs, log_scale = likelihood.fit_prior(column)
            losses = likelihood.loss(outputs.expand(len(column), -1), torch.tensor(log_scale), column)
            prior_losses.append(max(float(losses.mean()), 1e-6) if likelihood.non_negative else 1.0)
        squared = [task.kind in ("bounded", "real") and config.regression == "squared" for task in self.tasks]
        weights = [config.weights.get(task.name, 1.0) for task in self.tasks]
        return make_weighting(name, weights, squared, prior_losses, device)

    @property
    def last_shared(self) -> Tensor:
        """The weights of the trunk's last layer."""
        return list(self.model.trunk.parameters())[-2]

    @property
    def log_scales(self) -> list[Tensor]:
        """The heads' log scales."""
        return [head.get_parameter("log_scale") for head in self.model.readout.heads]

    @property
    def log_variances(self) -> list[Tensor]:
        """The heads' log variances."""
        return [head.get_parameter("log_variance") for head in self.model.readout.heads]

    @torch.no_grad()
    def predict(self, features: Tensor) -> list[Tensor]:
        """Outputs [rows, num_outputs] of every task."""
        parts = [self.model(part)[0] for part in features.split(4096)]
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]

    def snapshot(self) -> list[tuple[Tensor, Tensor]]:
        """Outputs for the training rows and log scale of every task, which later learning does not change."""
        scales = [scale.detach().clone() for scale in self.log_scales]
        return list(zip(self.predict(self.features), scales, strict=True))

    def measure(self, table: TaskTable) -> dict[str, float]:
        """Each task's accuracy or error, in the unit of the data, over the rows with its label; NaN without any."""
        features, labels = self.to_tensors(table, self.learner.device)
        result = {}
        for task, likelihood, outputs, column in zip(
            self.tasks, self.likelihoods, self.predict(features), labels.T, strict=True
        ):
            known = ~column.isnan()
            result[task.name] = task.scale * likelihood.score(outputs[known], column[known])
        return result

    @torch.no_grad()
    def measure_attention(self, table: TaskTable) -> np.ndarray | None:
        """Mean attention of each task on each [tasks, tasks], NaN on itself; None without attention."""
        _, weights = self.model(self.to_tensors(table, self.learner.device)[0])
        if weights is None:
            return None
        result = np.full((len(self.tasks), len(self.tasks)), np.nan)
        np.put_along_axis(result, np.array(self.model.readout.others), weights.mean(0).cpu().numpy(), 1)
        return result

    def measure_cosines(self) -> np.ndarray:
        """Cosines between the tasks' gradients of the trunk [tasks, tasks], over up to 512 training rows."""
        rows = torch.arange(min(512, len(self.features)), device=self.learner.device)
        objectives = compute_objectives(self, rows, range(len(self.tasks)))
        gradients = task_gradients(self.learner, objectives.values)[:, : self.num_shared]
        directions = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-30)
        cosines: np.ndarray = (directions @ directions.T).double().cpu().numpy()
        return cosines


def compute_objectives(network: Network, rows: Tensor, tasks: Sequence[int]) -> Objectives:
    """Mean losses of some tasks, each over the labels there are; with `--shared-update kl` the trunk's are as above."""
    features, labels, known, counts = network.features[rows], network.labels[rows], None, None
    if network.gaps:
        known = ~labels.isnan()
        labels = labels.nan_to_num()
        # Averaged over the processes as the gradient will be, so that it is the mean over the labels of them all.
        counts = known.sum(0, dtype=torch.float32)
        _distributed.average_(counts)
    shared, readout = network.model.trunk(features), network.model.readout
    if network.prior is None:
        outputs, _ = readout(shared)
    else:
        outputs, _ = readout(shared.detach())
        # The same readout, which passes the trunk its gradient and keeps none.
        held = {name: parameter.detach() for name, parameter in readout.named_parameters()}
        shared_outputs, _ = torch.func.functional_call(readout, held, shared)
    values, losses = [], []
    for task in tasks:
        likelihood, log_scale = network.likelihoods[task], network.log_scales[task]
        of_rows = likelihood.loss(outputs[task], log_scale, labels[:, task])
        if known is None or counts is None:
            losses.append(of_rows.mean())
        else:
            losses.append(torch.where(known[:, task], of_rows, 0.0).sum() / counts[task].clamp(min=1e-6))
        if network.prior is None:
            values.append(losses[-1])
        else:
            prior, prior_log_scale = network.prior[task]
            parameters = shared_outputs[task], log_scale.detach()
            divergence = likelihood.divergence(prior[rows], prior_log_scale, *parameters)
            if task in network.finished:
                values.append(divergence.mean())
            else:
                there = torch.ones_like(labels[:, task], dtype=torch.bool) if known is None else known[:, task]
                share = torch.where(there, network.config.prior_share, 1.0)
                surprise = (1 - share) * likelihood.loss(*parameters, labels[:, task])
                values.append(losses[-1] + (surprise + share * divergence).mean())
    descended = torch.stack(values)
    present = torch.ones_like(descended, dtype=torch.bool) if counts is None else counts[list(tasks)] > 0
    losses_only = descended.detach() if network.prior is None else torch.stack(losses).detach()
    return Objectives(list(tasks), descended, losses_only, present)
