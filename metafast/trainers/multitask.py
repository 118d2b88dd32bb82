r"""Multi-task learning: one trunk, a head for every task, and an honest account of what sharing costs or brings.

Read from top to bottom: options, network, objectives, learning, judging, training, evaluation. The tasks are a short
list (`metafast.data.tasks`), the heads' distributions are in `_likelihoods`, ways to weigh tasks in `_weighting`.

The shared update
-----------------
Task i has a head theta_i on the trunk theta_s, and together they give a distribution p_i(y | x; theta_s, theta_i).

1. Prior. A prior does not depend on x: pi_i(y) is fitted to the labels alone, and the heads start from it, so that the
   first loss is the labels' entropy. What does depend on x is a predictive distribution pi_i(y | x), here a linear one,
   softmax(theta^T x) for classes, fitted before the trunk is.
2. Heads. L_i = E_{(x, y)}[-log p_i(y | x)], which is binary cross-entropy only where y is 0 or 1. Each theta_i descends
   along dL_i/dtheta_i. Nothing keeps the heads from learning while the trunk does: theta_s descends along
   sum_i w_i dL_i/dtheta_s, the chain rule through the shared features.
3. Trunk, by `--shared-update kl`. theta_s descends along sum_i w_i d/dtheta_s KL(q_i || p_i) instead, where

       KL(q || p) = E_{y ~ q}[log q(y | x) - log p(y | x)] = CE(q, p) - H(q),

   a sum over classes, an integral over numbers. The expectation is under q, and q is held fixed, so H(q) has no
   gradient and that of KL is that of the cross-entropy. With q = the label, it is L_i again. Here
   q_i = (1 - lambda) label + lambda pi_i(y | x), by linearity of the cross-entropy in q

       d KL(q_i || p_i) = (1 - lambda) d(-log p_i(label | x)) + lambda d KL(pi_i || p_i),

   and where a label is missing q_i = pi_i. In sequence, pi_i of a task whose turn is over is what the network itself
   said at the end of it, and lambda is 1: learning without forgetting (Li and Hoiem 2016).
"""

import argparse
import bisect
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import tyro
from torch import Tensor, nn

import metafast
from metafast.attention import AdditiveAttention
from metafast.data import digit_tasks, tabular_tasks, toy_tasks
from metafast.data.tasks import SPLITS, Task, TaskTable, drop_labels, split
from metafast.trainers import UsageError, _comparison, _distributed, _relations, _run
from metafast.trainers._learner import ModuleLearner, find_device
from metafast.trainers._likelihoods import Likelihood, Regression, make_likelihood
from metafast.trainers._weighting import (
    AGGREGATORS,
    RATIOS,
    WEIGHTINGS,
    Objectives,
    Weighting,
    WeightingName,
    make_weighting,
    task_gradients,
)

NAME = "multitask"
Schedule = Literal["joint", "round-robin", "sequential"]
SharedUpdate = Literal["gradient", "kl"]
# Data sets by name, to which yours can be added; those that are tables by columns are in `tabular_tasks`.
TABLES: dict[str, Callable[[], TaskTable]] = {"digits": digit_tasks.load, "toy": toy_tasks.generate}
# Where a data set needs other defaults than those below.
PER_DATA: dict[str, dict[str, Any]] = {
    "toy": {"epochs": 60},
    "wine": {"hidden_size": 64, "batch_size": 16},
    "diabetes": {"hidden_size": 32, "epochs": 15},
    "breast-cancer": {"epochs": 60},
}


@dataclass
class Config:
    """Training of one network on several tasks, beside networks of the same size on one task each.

    The defaults shown are those of the chosen data. With --json, standard output ends with one JSON object.
    """

    data: str = "digits"
    """digits, toy, wine, diabetes, breast-cancer, or a CSV file, whose empty cells are missing labels."""
    tasks: tuple[str, ...] = ()
    """Which, in order; of tables COLUMN:KIND, KIND being binary, bounded (from 0 to 1), classes or real (any number).
    By default the data's own."""
    ignore: tuple[str, ...] = ()
    """Columns of a table that are neither tasks nor features."""
    labels_kept: dict[str, float] = field(default_factory=dict)
    """Share of a task's training labels to keep, as in --labels-kept C 0.1; the rest are taken away."""
    schedule: Schedule = "joint"
    """All tasks in every update, one after the other by turns, or the first one whole and then the next."""
    weighting: WeightingName = "equal"
    """The weights of the losses: 1, one over the loss of a constant answer (scaled), --weights (fixed), by
    homoscedastic uncertainty (Kendall 2018), GradNorm (Chen 2018) or dynamic weight average (Liu 2019), which three
    need --regression squared; or an aggregator of the tasks' gradients, from TorchJD."""
    weights: dict[str, float] = field(default_factory=dict)
    """The weights of --weighting fixed, as in --weights A 1 B 100; 1 for tasks not named."""
    regression: Regression = "gaussian"
    """Loss of bounded and real tasks: negative log-likelihood of a Gaussian or (bounded only) Beta of learnt scale,
    binary cross-entropy with soft labels (bounded only), or the mean squared error."""
    shared_update: SharedUpdate = "gradient"
    """The trunk follows the losses; or KL(q || p) from labels mixed with a linear model that is fitted first, and in
    sequence from what the network itself said of the earlier tasks (learning without forgetting)."""
    prior_share: float = 0.1
    """With --shared-update kl: how much of the target is the linear model where there is a label."""
    attention: bool = False
    """Let every head attend over the other tasks' features."""
    hidden_size: int = 256
    """Width of the trunk."""
    depth: int = 2
    """Layers of the trunk; 0 leaves linear heads on the inputs."""
    tower_size: int = 64
    """Width of each task's own features, with --attention."""
    single_task: bool = True
    """Also train a network of the same size for each task alone, on the same batches, to compare with."""
    compare: int = 0
    """Instead of one run, train by every method with this many seeds from --seed on, and print one table. Given the
    same --run-dir again, a comparison goes on where it was."""
    epochs: int = 40
    """Passes over the training rows; to resume with more stretches the decay too."""
    batch_size: int = 32
    """Rows per update, on each process."""
    learning_rate: float = 3e-3
    """Adam's step size at the start."""
    decay: float = 0.5
    """Last fraction of training, or of a task's turn in sequence, in which the step size falls evenly to 0."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it; 0 for no limit."""
    seed: int = 0
    """Repeats a run bit for bit on the same machine; the split of the rows does not depend on it."""
    threads: int = 1
    """CPU threads for kernels and torch."""
    device: str = "cpu"
    """Torch device of the network."""
    run_dir: str | None = None
    """Where the run is saved; by default runs/multitask-DATA-SEED-TIME."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints; one is always written at the end and on Ctrl-C."""
    resume: str | None = None
    """Continue the run in this directory exactly, in place, with its options where none are given anew."""

    def __post_init__(self) -> None:
        self.tasks, self.ignore = tuple(self.tasks), tuple(self.ignore)
        for name, choices in (
            ("schedule", get_args(Schedule)), ("weighting", WEIGHTINGS), ("regression", get_args(Regression)),
            ("shared_update", get_args(SharedUpdate)),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        counts = "hidden_size", "tower_size", "epochs", "batch_size"
        positive, fractions = ("learning_rate", "checkpoint_seconds"), ("prior_share", "decay")
        _run.check_options(self, counts=counts, positive=positive, fractions=fractions)
        if self.depth < 0 or self.compare < 0:
            raise UsageError(f"depth and compare must not be negative, not {self.depth} and {self.compare}")
        if self.schedule != "joint" and self.weighting not in ("equal", "scaled", "fixed"):
            raise UsageError(f"weighting {self.weighting!r} compares tasks in every update: it needs schedule 'joint'")
        if self.shared_update == "kl" and self.weighting in RATIOS:
            raise UsageError(
                f"weighting {self.weighting!r} compares losses, and with shared_update 'kl' the trunk's differ"
            )
        if self.weights and self.weighting != "fixed":
            raise UsageError(f"weights are for weighting 'fixed', not {self.weighting!r}")
        if bad := [weight for weight in self.weights.values() if not 0 <= weight < math.inf]:
            raise UsageError(f"weights must be at least 0 and finite, not {bad[0]}")
        if self.compare and self.resume is not None:
            raise UsageError("a comparison is continued by giving it the same --run-dir again, not by --resume")


def configure(data: str = "digits", **options: Any) -> Config:
    """The options for a data set, then those given."""
    return Config(**PER_DATA.get(data, {}) | options | {"data": data})


def parse(arguments: Sequence[str]) -> Config:
    """Read the command line; what decides the defaults is looked at first, and judged with the rest."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--data", nargs="?")
    first.add_argument("--resume", nargs="?")
    known, _ = first.parse_known_args(arguments)
    default = load_config(known.resume) if known.resume is not None else configure(known.data or "digits")
    return tyro.cli(Config, args=list(arguments), default=default, prog=f"metafast train {NAME}")


def load_config(run_dir: str) -> Config:
    """The options of the run in `run_dir`."""
    return Config(**_run.read_options(run_dir, NAME, Config))


# What a run cannot change on its way.
FIXED = (
    "data", "tasks", "ignore", "labels_kept", "schedule", "weighting", "weights", "regression", "shared_update",
    "prior_share", "attention", "hidden_size", "depth", "tower_size", "single_task", "batch_size", "seed", "run_dir",
)  # fmt: skip


def read_table(config: Config) -> TaskTable:
    """All rows of `config.data`; where it is a table by columns, with the tasks that were chosen."""
    if config.data in TABLES:
        return TABLES[config.data]()
    if config.data in tabular_tasks.DATA_SETS:
        return tabular_tasks.load(config.data, config.tasks, config.ignore)
    if Path(config.data).suffix.lower() in (".csv", ".tsv"):
        if not config.tasks:
            raise UsageError("a CSV file needs --tasks COLUMN:KIND ...")
        return tabular_tasks.choose(tabular_tasks.read_csv(config.data), config.tasks, config.ignore)
    known = ", ".join([*TABLES, *tabular_tasks.DATA_SETS])
    raise UsageError(f"data must be one of {known} or a file that ends in .csv or .tsv, not {config.data!r}")


def load_data(config: Config, table: TaskTable | None = None) -> dict[str, TaskTable]:
    """The tables "train", "validation" and "test", of `table` if one is given; only the first loses labels."""
    try:
        splits = split(read_table(config) if table is None else table)
        if config.tasks and (table is not None or config.data in TABLES):
            # Only now, so that the rows to be judged by are the same whatever is judged.
            splits = {name: part.select(config.tasks) for name, part in splits.items()}
        names = [task.name for task in splits["train"].tasks]
        if unknown := [name for name in config.weights if name not in names]:
            raise UsageError(f"there is no task {unknown[0]!r} to weigh; there is {', '.join(names)}")
        return splits | {"train": drop_labels(splits["train"], config.labels_kept, seed=config.seed)}
    except (ValueError, OSError) as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error)) from error


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


def update(network: Network, rows: Tensor, tasks: Sequence[int], learning_rate: float) -> dict[str, float]:
    """One step of Adam on some of the network's tasks, by number; their losses by name."""
    objectives = compute_objectives(network, rows, tasks)
    network.weighting.backward(network, objectives)
    network.learner.step(learning_rate, network.config.max_grad_norm)
    return {network.tasks[task].name: loss for task, loss in zip(tasks, objectives.losses.tolist(), strict=True)}


def draw_rows(config: Config, num_rows: int, number: int) -> Tensor:
    """This process's rows for an update: every epoch goes through all of them in an order of its own.

    The order is a function of seed and epoch, so that the number of updates is all that a checkpoint needs.
    """
    rank, world_size = _distributed.rank(), _distributed.world_size()
    batch = config.batch_size * world_size
    epoch, position = divmod(number, num_rows // batch)
    order = _shuffle(config.seed, epoch, num_rows)
    return torch.from_numpy(order[position * batch : (position + 1) * batch][rank::world_size])


@functools.lru_cache(maxsize=1)
def _shuffle(seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)


def fit_prior(network: Network, table: TaskTable) -> list[tuple[Tensor, Tensor]]:
    """pi(y | x) on the training rows: linear heads on the inputs, trained alone for as long."""
    config = dataclasses.replace(make_plain(network.config), depth=0)
    linear = Network(config, table, network.columns, network.learner.device)
    total = config.epochs * count_updates(config, table)
    for number in range(total):
        rows = draw_rows(config, len(table), number).to(linear.learner.device)
        update(linear, rows, range(len(linear.tasks)), config.learning_rate * (1 - number / total))
    return linear.snapshot()


def make_plain(config: Config) -> Config:
    """The same options without any that concern several tasks: those of the single-task networks."""
    return dataclasses.replace(
        config, schedule="joint", weighting="equal", weights={}, shared_update="gradient", attention=False
    )


def count_updates(config: Config, table: TaskTable) -> int:
    """Updates in an epoch."""
    batch = config.batch_size * _distributed.world_size()
    if len(table) < batch:
        raise UsageError(f"an update takes {batch} rows and there are {len(table)} to train on")
    return len(table) // batch


class Turn(NamedTuple):
    """What an update is about: the `tasks`, whether a turn `begins` with it, and how much of the turn is `left`."""

    tasks: list[int]
    begins: bool
    left: float


def take_turns(network: Network, number: int, total: int) -> Turn:
    """The schedule: all tasks, one after the other, or the first one whole and then the next."""
    num_tasks = len(network.tasks)
    if network.config.schedule != "sequential":
        by_turns = network.config.schedule == "round-robin"
        return Turn([number % num_tasks] if by_turns else list(range(num_tasks)), number == 0, 1 - number / total)
    starts = [total * task // num_tasks for task in range(num_tasks + 1)]
    task = bisect.bisect_right(starts, number) - 1
    return Turn([task], number == starts[task], 1 - (number - starts[task]) / (starts[task + 1] - starts[task]))


def change_tasks(network: Network, task: int) -> None:
    """Begin the turn of `task` in sequence: with fresh moments, so that the heads of the others stay where they are."""
    for moment in network.learner.moments.values():
        moment.zero_()
    if network.prior is not None:
        network.prior[task - 1] = network.snapshot()[task - 1]
        network.finished = list(range(task))


@dataclass
class Counters:
    """How far a run has come.

    The curve has, for each epoch, the number of updates and every network's validation figures; `cosines` are those of
    the same epochs, and `turns` the validation figures of the multi-task network at the end of each task's turn.
    """

    updates: int = 0
    seconds: float = 0.0
    curve: list[list[float]] = field(default_factory=list)
    cosines: list[Any] = field(default_factory=list)
    turns: list[list[float]] = field(default_factory=list)
    network_seconds: list[float] = field(default_factory=list)


def save(directory: _run.RunDirectory, networks: Sequence[Network], counters: Counters) -> None:
    """Write a checkpoint from which `restore` continues exactly."""
    arrays: dict[str, np.ndarray] = {}
    for number, network in enumerate(networks):
        state = network.learner.get_state() | {
            f"weighting.{name}": array for name, array in network.weighting.get_state().items()
        }
        for task, (outputs, log_scale) in enumerate(network.prior or ()):
            state |= {f"prior.{task}": outputs.cpu().numpy(), f"prior_log_scale.{task}": log_scale.cpu().numpy()}
        state["finished"] = np.array(network.finished, dtype=np.int64)
        arrays |= {f"{number}.{name}": array for name, array in state.items()}
    numbers = dataclasses.asdict(counters) | {"world_size": _distributed.world_size()}
    # Among the arrays, because the header that holds the numbers is limited in size.
    arrays |= {name: np.array(numbers.pop(name), dtype=np.float64) for name in ("curve", "cosines")}
    directory.write_state(arrays, numbers)
    directory.write_policy(networks[0].model)


def restore(directory: _run.RunDirectory, networks: Sequence[Network]) -> Counters:
    """Put back what `save` wrote."""
    arrays, numbers = directory.read_state()
    if (saved_by := numbers.pop("world_size")) != _distributed.world_size():
        raise UsageError(f"{directory.path} was saved by {saved_by} processes; resume it with as many")
    for number, network in enumerate(networks):
        state = _run.select(arrays, f"{number}.")
        network.learner.set_state(state)
        network.weighting.set_state(_run.select(state, "weighting."))
        network.finished = state["finished"].tolist()
        if network.config.shared_update == "kl":
            names = [(f"prior.{task}", f"prior_log_scale.{task}") for task in range(len(network.tasks))]
            device = network.learner.device
            tensors = {name: torch.from_numpy(array).to(device) for name, array in state.items()}
            network.prior = [(tensors[outputs], tensors[log_scale]) for outputs, log_scale in names]
    return Counters(**numbers, curve=arrays["curve"].tolist(), cosines=list(arrays["cosines"]))


def train(config: Config, table: TaskTable | None = None) -> dict[str, Any]:
    """Train, save the run and return its figures; `seconds` counts making the data and training, without imports.

    `table` is learnt from instead of `config.data`, which then only names the run.
    """
    if config.compare:
        return _comparison.compare(config, train if table is None else functools.partial(train, table=table))
    started = time.perf_counter()
    if config.resume is not None:
        # In sequence, the length of the turns follows from the number of epochs.
        fixed = [*FIXED, "epochs"] if config.schedule == "sequential" else FIXED
        _run.check_unchanged(config, load_config(config.resume), fixed)
    metafast.set_num_threads(config.threads)
    torch.set_num_threads(config.threads)
    rank, device = _distributed.start(), find_device(config.device)
    tables = load_data(config, table)
    table, validation = tables["train"], tables["validation"]
    per_epoch, batch = count_updates(config, table), config.batch_size * _distributed.world_size()
    if config.schedule == "sequential" and config.epochs * per_epoch < len(table.tasks):
        raise UsageError(f"{len(table.tasks)} turns need as many updates and there are {config.epochs * per_epoch}")
    network = Network(config, table, range(len(table.tasks)), device)
    networks = [network]
    if config.single_task and len(table.tasks) > 1:
        networks += [Network(make_plain(config), table, [task], device) for task in range(len(table.tasks))]
    if config.shared_update == "kl" and config.resume is None:
        network.prior = fit_prior(network, table)
    if config.resume is None:
        directory = _run.RunDirectory.create(config.run_dir, f"{NAME}-{Path(config.data).stem}-{config.seed}", rank)
        directory.write_config(NAME, config)
        if rank == 0:
            (directory.path / UNITS).write_text(json.dumps(describe_units(table), indent=2) + "\n")
        counters = Counters(network_seconds=[0.0] * len(networks))
    else:
        check_units(config.resume, table)
        directory = _run.RunDirectory(Path(config.resume), rank)
        counters = restore(directory, networks)
        directory.write_config(NAME, dataclasses.replace(config, resume=None))
    earlier_seconds, interrupted, total = counters.seconds, False, config.epochs * per_epoch
    if rank == 0 and counters.updates >= total:
        print("this run has ended; to go on give a greater --epochs", file=sys.stderr)
    saved, figures = time.perf_counter(), ""
    with (
        _run.interruptible() as interruption,
        _run.ProgressDisplay(total * batch, shown=rank == 0, unit="rows") as display,
    ):
        while counters.updates < total and not interrupted:
            rows = draw_rows(config, len(table), counters.updates).to(device)
            losses = []
            for number, member in enumerate(networks):
                update_started = time.perf_counter()
                turn = take_turns(member, counters.updates, total)
                if turn.begins and counters.updates > 0:
                    counters.turns.append(list(member.measure(validation).values()))
                    change_tasks(member, turn.tasks[0])
                learning_rate = config.learning_rate * (turn.left / config.decay if turn.left < config.decay else 1.0)
                losses.append(update(member, rows, [*member.finished, *turn.tasks], learning_rate))
                counters.network_seconds[number] += time.perf_counter() - update_started
            counters.updates += 1
            counters.seconds = earlier_seconds + time.perf_counter() - started
            if counters.updates % per_epoch == 0:
                network.weighting.end_epoch()
                scores = [member.measure(validation) for member in networks]
                counters.curve.append([counters.updates, *(value for score in scores for value in score.values())])
                counters.cosines.append(network.measure_cosines())
                directory.log(
                    {f"validation/{name}": value for name, value in scores[0].items()}
                    | {f"losses/{name}": value for name, value in losses[0].items()},
                    counters.updates,
                )
                figures = ", ".join(f"{name} {value:.3g}" for name, value in scores[0].items())
            display.update(counters.updates * batch, figures, counters.updates * batch / counters.seconds)
            due = time.perf_counter() - saved > config.checkpoint_seconds
            interrupted, due = _distributed.agree(interruption.requested, due)
            if due:
                save(directory, networks, counters)
                saved = time.perf_counter()
        counters.seconds = earlier_seconds + time.perf_counter() - started
    save(directory, networks, counters)
    result: dict[str, Any] = {}
    if rank == 0:
        pictures = draw(directory.path, networks, tables["test"], counters, per_epoch) if counters.curve else {}
        result = pictures | judge(networks, tables, counters)
    directory.close()
    _distributed.stop()
    about = "data", "schedule", "weighting", "regression", "shared_update", "attention", "seed"
    return {
        "trainer": NAME,
        **{name: getattr(config, name) for name in about},
        "samples": counters.updates * batch,
        "interrupted": interrupted,
        "run_dir": str(directory.path),
        **result,
        "seconds": counters.seconds,
    }


def judge(networks: Sequence[Network], tables: dict[str, TaskTable], counters: Counters) -> dict[str, Any]:
    """What was learnt by the test rows, which nothing before has looked at; how the tasks got on while it was learnt.

    `task_changes` are the changes of the error rate or RMSE from the single-task networks, -0.1 for a tenth less, and
    `relative_change` is their mean; a change from 0 is none. `forgotten` is by how much a task's validation accuracy
    fell, or its RMSE rose, after its turn.
    """
    network, *singles = networks
    scores = network.measure(tables["test"])
    single_scores = {name: value for single in singles for name, value in single.measure(tables["test"]).items()}
    metrics = {task.name: task.metric for task in network.tasks}
    changes = {name: compute_change(metrics[name], scores[name], single) for name, single in single_scores.items()}
    known = [change for change in changes.values() if change is not None]
    cosines = np.mean(counters.cosines, axis=0) if counters.cosines else None
    forgotten = {}
    if counters.turns:
        for turn, (name, last) in zip(counters.turns, network.measure(tables["validation"]).items(), strict=False):
            then = turn[list(metrics).index(name)]
            forgotten[name] = then - last if metrics[name] == "accuracy" else last - then
    return {
        "split": "test",
        "rows": len(tables["test"]),
        "single_tasks": {name: {metrics[name]: value} for name, value in single_scores.items()} or None,
        "task_changes": changes or None,
        "forgotten": forgotten or None,
        "cosines": None if cosines is None else cosines.tolist(),
        "multitask_seconds": counters.network_seconds[0],
        "singletask_seconds": sum(counters.network_seconds[1:]),
        "tasks": {name: {metrics[name]: value} for name, value in scores.items()},
        "relative_change": sum(known) / len(known) if known else None,
    }


def compute_change(metric: str, score: float, single: float) -> float | None:
    """Relative change of the error rate or RMSE; none from 0 or from what is not known."""
    error, single_error = (1 - score, 1 - single) if metric == "accuracy" else (score, single)
    return error / single_error - 1 if single_error > 0 and not math.isnan(error) else None


def draw(
    path: Path, networks: Sequence[Network], test: TaskTable, counters: Counters, per_epoch: int
) -> dict[str, str]:
    """Draw the learning curves and the relations between the tasks; the pictures' paths."""
    network, *singles = networks
    tasks, curve = network.tasks, np.array(counters.curve)
    names, epochs = [task.name for task in tasks], curve[:, 0] / per_epoch
    pictures = {"learning_curve": path / "learning_curve.png", "task_relations": path / "task_relations.png"}
    alone = curve[:, 1 + len(tasks) :] if singles else None
    turns = len(counters.turns) if network.config.schedule == "sequential" else 0
    turn_ends = [network.config.epochs * turn / len(tasks) for turn in range(1, turns + 1)]
    _relations.draw_curves(pictures["learning_curve"], tasks, epochs, curve[:, 1 : 1 + len(tasks)], alone, turn_ends)
    if len(tasks) == 1:
        return {"learning_curve": str(pictures["learning_curve"])}
    attention = network.measure_attention(test)
    _relations.draw_relations(pictures["task_relations"], names, epochs, np.array(counters.cosines), attention)
    return {name: str(picture) for name, picture in pictures.items()}


def describe(result: dict[str, Any]) -> str:
    """Say in words what `train` returned."""
    if "comparison" in result:
        return _comparison.describe(result)
    drawn = "".join(
        f"\n{name.replace('_', ' ')}: {result[name]}" for name in ("learning_curve", "task_relations") if name in result
    )
    return f"{describe_evaluation(result)}\n{result['samples']:,} samples, {result['seconds']:.1f} s{drawn}"


UNITS = "units.json"


def describe_units(table: TaskTable) -> dict[str, Any]:
    """What a network's inputs and answers mean: the tasks, and how the features were standardised."""
    width = table.features.shape[1]
    return {
        "tasks": [dataclasses.asdict(task) | {"class_names": list(task.class_names)} for task in table.tasks],
        "feature_offset": np.broadcast_to(table.feature_offset, width).tolist(),
        "feature_scale": np.broadcast_to(table.feature_scale, width).tolist(),
    }


def read_units(run_dir: str | Path) -> dict[str, Any]:
    """What `describe_units` gave when the run began."""
    path = Path(run_dir) / UNITS
    try:
        units: dict[str, Any] = json.loads(path.read_text())
        [Task(**task) for task in units["tasks"]]
        return units
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error!r}") from error


def check_units(run_dir: str | Path, table: TaskTable) -> None:
    """Refuse data that is no longer what the run began with: other rows would be trained on and judged by."""
    if read_units(run_dir) != describe_units(table):
        raise UsageError(f"the data is no longer what {run_dir} was trained on")


class Predictor(NamedTuple):
    """A trained network for new rows, in the units of the data it was trained on."""

    tasks: list[Task]
    model: MultiTaskModel
    likelihoods: list[Likelihood]
    feature_offset: np.ndarray
    feature_scale: np.ndarray

    @torch.no_grad()
    def predict(self, features: Any) -> dict[str, np.ndarray]:
        """What each task's label is expected to be, for features [rows, columns] in the order of the training data.

        By task: the probability of 1 (binary) [rows], those of all classes [rows, num_classes], in the order of the
        task's `class_names`, or a number [rows].
        """
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.feature_scale):
            raise ValueError(f"features must be [rows, {len(self.feature_scale)}], not of shape {features.shape}")
        standardised = ((features - self.feature_offset) / self.feature_scale).astype(np.float32)
        outputs, _ = self.model(torch.from_numpy(standardised))
        return {
            task.name: likelihood.predict(of_task).numpy() * task.scale + task.offset
            for task, likelihood, of_task in zip(self.tasks, self.likelihoods, outputs, strict=True)
        }


def load(run_dir: str) -> Predictor:
    """The multi-task network of the run in `run_dir`, which needs none of its data any more."""
    config, units = load_config(run_dir), read_units(run_dir)
    tasks = [Task(**task | {"class_names": tuple(task["class_names"])}) for task in units["tasks"]]
    likelihoods = [make_likelihood(task, config.regression) for task in tasks]
    # The heads' first biases are those of no labels, and at once replaced.
    model = MultiTaskModel(config, len(units["feature_scale"]), likelihoods, [torch.zeros(1)] * len(tasks))
    _run.RunDirectory(Path(run_dir)).read_policy(model)
    return Predictor(tasks, model, likelihoods, np.array(units["feature_offset"]), np.array(units["feature_scale"]))


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `metafast evaluate`: what `evaluate` takes beside the directory."""
    parser.add_argument("--split", choices=SPLITS, default="test", help="the rows to judge by (default test)")


def evaluate(run_dir: str, split: str = "test", table: TaskTable | None = None) -> dict[str, Any]:
    """Judge the multi-task network in `run_dir` by the rows of a split; "train" has only the labels that were kept.

    A run that was given a `table` of its own needs it here too.
    """
    if split not in SPLITS:
        raise UsageError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    config = dataclasses.replace(load_config(run_dir), device="cpu")
    torch.set_num_threads(config.threads)
    tables = load_data(config, table)
    check_units(run_dir, tables["train"])
    network = Network(config, tables["train"], range(len(tables["train"].tasks)), torch.device("cpu"))
    _run.RunDirectory(Path(run_dir)).read_policy(network.model)
    scores = network.measure(tables[split])
    tasks = {task.name: {task.metric: scores[task.name]} for task in network.tasks}
    return {"data": config.data, "split": split, "rows": len(tables[split]), "tasks": tasks, "run_dir": str(run_dir)}


def describe_evaluation(result: dict[str, Any]) -> str:
    """Say in words what `evaluate` returned."""
    lines = [f"{result['data']}, {result['rows']} rows of the split {result['split']}:"]
    for name, scores in result["tasks"].items():
        ((metric, score),) = scores.items()
        line = f"{name}: {metric} {score:.4g}"
        if result.get("single_tasks"):
            change = result["task_changes"][name]
            line += f", alone {result['single_tasks'][name][metric]:.4g}"
            line += "" if change is None else f" ({'error rate' if metric == 'accuracy' else 'error'} {change:+.0%})"
        lines.append(line)
    if result.get("relative_change") is not None:
        lines.append(f"mean change of the errors: {result['relative_change']:+.1%} (less is better)")
    if result.get("forgotten"):
        forgotten = ", ".join(f"{name} {value:.3g}" for name, value in result["forgotten"].items())
        lines.append(f"forgotten since each task's turn: {forgotten}")
    return "\n".join(lines)
