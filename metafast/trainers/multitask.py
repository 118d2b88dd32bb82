r"""Multi-task learning: one trunk, a head for every task, and an honest account of what sharing costs or brings.

Read from top to bottom: options, data, learning, schedule, checkpoints, training, judging, evaluation. The network and
its objectives are in `_task_network`, the heads' distributions in `_likelihoods`, ways to weigh tasks in `_weighting`,
answers for new rows in `_task_prediction`; the tasks are a short list (`metafast.data.tasks`).

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
from torch import Tensor

import metafast
from metafast.data import digit_tasks, tabular_tasks, toy_tasks
from metafast.data.tasks import SPLITS, Task, TaskTable, drop_labels, split
from metafast.trainers import UsageError, _comparison, _distributed, _relations, _run
from metafast.trainers._learner import find_device
from metafast.trainers._likelihoods import Regression, make_likelihood
from metafast.trainers._task_network import MultiTaskModel, Network, compute_objectives
from metafast.trainers._task_prediction import UNITS, Predictor, check_units, describe_units, read_units
from metafast.trainers._weighting import RATIOS, WEIGHTINGS, WeightingName

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
