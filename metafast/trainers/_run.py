"""What every training run shares: its directory, checkpoints, learning curve, progress display and interruption."""

import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

import metafast
from metafast.trainers import UsageError, _distributed

WRITE_EVENTS_SECONDS = 2.0
_DRAWING = threading.Lock()


class RunDirectory:
    """The files of one run: config.json, policy.safetensors, training_state.safetensors, curve, TensorBoard events.

    Under data parallelism every rank keeps its own training state (environment and random streams differ); the first
    rank writes the rest.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path
        self.rank = rank
        self.curve_path = path / "learning_curve.png"
        self.policy_path = path / "policy.safetensors"
        self.state_path = path / (
            "training_state.safetensors" if rank == 0 else f"training_state.rank{rank}.safetensors"
        )
        self._events: SummaryWriter | None = None
        self._unwritten: list[tuple[Mapping[str, float], int, float]] = []

    @classmethod
    def create(cls, run_dir: str | None, name: str, rank: int) -> "RunDirectory":
        """Make the directory `run_dir`, or one under runs/ that ends in the time; refuse one that holds a run."""
        chosen = run_dir or str(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        path = Path(_distributed.from_first(chosen))
        if rank == 0:
            if (path / "config.json").exists():
                raise UsageError(
                    f"{path} already holds a run; continue it with --resume {path} or choose another --run-dir"
                )
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"the run directory {path} cannot be made: {error}") from error
        return cls(path, rank)

    def write_config(self, trainer: str, config: Any) -> None:
        """Save every option of a run, with the trainer's name and the version."""
        if self.rank == 0:
            contents = {"trainer": trainer, "metafast_version": metafast.__version__, **dataclasses.asdict(config)}
            (self.path / "config.json").write_text(json.dumps(contents, indent=2) + "\n")

    def write_policy(self, module: nn.Module) -> None:
        """Save a module's weights alone, for evaluation and for other programs."""
        if self.rank == 0:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
            _replace(self.policy_path, safetensors.torch.save(weights))

    def read_policy(self, module: nn.Module) -> None:
        """Load the weights that `write_policy` saved."""
        if not self.policy_path.exists():
            raise UsageError(f"{self.path} holds no policy.safetensors: the run ended before it saved anything")
        with _readable(self.policy_path):
            module.load_state_dict(safetensors.torch.load_file(self.policy_path))

    def write_state(self, arrays: Mapping[str, np.ndarray], counters: Mapping[str, Any]) -> None:
        """Save all that an exact continuation needs: arrays, and in the same file's header counters as JSON."""
        contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        _replace(self.state_path, safetensors.numpy.save(contiguous, {"counters": json.dumps(counters)}))

    def read_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Load what `write_state` saved."""
        if not self.state_path.exists():
            raise UsageError(f"{self.state_path} is missing: there is no training state to continue from")
        with _readable(self.state_path), safetensors.safe_open(self.state_path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return arrays, json.loads(file.metadata()["counters"])

    def write_curve(self, columns: Mapping[str, Sequence[float]], *, title: str, target: float | None = None) -> None:
        """Draw columns, named by their labels, against the first of them."""
        if self.rank != 0:
            return
        (x_label, x), *curves = columns.items()
        # The object interface of matplotlib: no pyplot state, and no display is needed.
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, title=title)
        for label, y in curves:
            axes.plot(x, y, label=label)
        if len(curves) == 1:
            axes.set_ylabel(curves[0][0])
        else:
            axes.legend()
        if target is not None:
            axes.axhline(target, linestyle="--", color="grey", linewidth=1)
        axes.grid(alpha=0.3)
        # Matplotlib's fonts are shared by all threads.
        with _DRAWING:
            figure.savefig(self.curve_path, dpi=120)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Add scalars to the TensorBoard events, which are written every other second."""
        if self.rank != 0:
            return
        now = time.time()
        self._unwritten.append((scalars, step, now))
        if now - self._unwritten[0][2] > WRITE_EVENTS_SECONDS:
            self._write_events()

    def _write_events(self) -> None:
        # One event takes as long as a kernel's update of a small network.
        if self._events is None and self._unwritten:
            # Events that an interrupted run wrote after its last checkpoint are dropped.
            self._events = SummaryWriter(str(self.path), purge_step=self._unwritten[0][1])
        for scalars, step, now in self._unwritten:
            for name, value in scalars.items():
                assert self._events is not None
                self._events.add_scalar(name, value, step, walltime=now)
        self._unwritten.clear()

    def close(self) -> None:
        """Write, flush and close the TensorBoard events."""
        self._write_events()
        if self._events is not None:
            self._events.close()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _replace(path: Path, contents: bytes) -> None:
    # Written beside and moved into place, so that an interruption leaves the old file or the new one.
    beside = path.with_suffix(".partial")
    beside.write_bytes(contents)
    os.replace(beside, path)


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """The contents of a run directory's config.json."""
    path = Path(run_dir) / "config.json"
    try:
        contents = json.loads(path.read_text())
    except FileNotFoundError:
        hint = f"; it holds a population: name one of its members, as {run_dir}/member-0"
        members = (path.parent / "member-0").exists()
        raise UsageError(f"{run_dir} is not a run directory: it has no config.json{hint if members else ''}") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(contents, dict):
        raise UsageError(f"{path} does not hold a JSON object")
    return contents


def read_options(run_dir: str | Path, trainer: str, options: type) -> dict[str, Any]:
    """The values of the fields of the dataclass `options` that the run in `run_dir` was given."""
    contents = read_config(run_dir)
    names = {field.name for field in dataclasses.fields(options)}
    if (other := contents.get("trainer")) != trainer:
        raise UsageError(f"{run_dir} does not hold a {trainer} run but is from metafast train {other}")
    if not names <= contents.keys():
        raise UsageError(f"{run_dir} does not hold a {trainer} run of this version")
    return {name: contents[name] for name in names}


def select(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def check_options(
    config: Any, *, counts: Sequence[str], positive: Sequence[str], fractions: Sequence[str] = ()
) -> None:
    """Refuse options out of range: `counts` begin at 1, `positive` ones may be None; the rest all trainers have."""
    for name in (*counts, "threads"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} must be at least 1, not {getattr(config, name)}")
    if not 0 <= config.seed < 2**63:
        raise UsageError(f"seed must be at least 0 and below 2**63, not {config.seed}")
    if config.threads > 1024:
        raise UsageError(f"threads must be at most 1024, not {config.threads}")
    for name in positive:
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{name} must be positive and finite, not {value}")
    for name in fractions:
        if not 0 <= getattr(config, name) <= 1:
            raise UsageError(f"{name} must lie between 0 and 1, not {getattr(config, name)}")
    if not config.max_grad_norm >= 0:
        raise UsageError(f"max_grad_norm must not be negative, not {config.max_grad_norm}")
    if config.run_dir == "":
        raise UsageError("run_dir must not be empty")


def check_unchanged(config: Any, saved: Any, names: Sequence[str]) -> None:
    """Refuse to resume a run with other values of these options than those it was `saved` with."""
    for name in names:
        if getattr(config, name) != getattr(saved, name):
            raise UsageError(
                f"{name} cannot be changed on the way: {config.resume} has {getattr(saved, name)!r}, "
                f"not {getattr(config, name)!r}"
            )


def derive_seeds(*numbers: int) -> list[int]:
    """Three independent seeds of a seed and what else tells streams apart: the rank, the iteration."""
    return [int(word) >> 1 for word in np.random.SeedSequence(numbers).generate_state(3)]


class EpisodeReturns:
    """Sums each environment's rewards into episode returns, and keeps the latest `window` of them."""

    def __init__(self, num_envs: int, window: int) -> None:
        self.running: Any = np.zeros(num_envs)
        self.latest: deque[float] = deque(maxlen=window)
        self.episodes = 0

    def add(self, rewards: Any, ended: Any) -> None:
        """Take in a rollout's `rewards` and `ended`, both [T, N], arrays or tensors."""
        if isinstance(rewards, Tensor):
            return self._add_tensors(rewards, ended)
        sums = rewards.cumsum(0, dtype=np.float64)
        start = -self.running
        for step, env in np.argwhere(ended):
            self.latest.append(float(sums[step, env] - start[env]))
            start[env] = sums[step, env]
            self.episodes += 1
        self.running = sums[-1] - start

    def _add_tensors(self, rewards: Tensor, ended: Tensor) -> None:
        # Where the tensors are, because of a million episodes the latest are all that is read back.
        sums = rewards.double().cumsum(0)
        steps = torch.arange(len(ended), device=ended.device)[:, None]
        last = torch.where(ended, steps, -1).cummax(0).values
        begun = torch.cat([torch.full_like(last[:1], -1), last[:-1]])
        running = torch.as_tensor(self.running, device=ended.device)
        starts = torch.where(begun < 0, -running, sums.gather(0, begun.clamp(min=0)))
        finished = ended.flatten().nonzero()[:, 0]
        latest = finished[-(self.latest.maxlen or 0) :]
        self.latest.extend((sums - starts).flatten()[latest].tolist())
        self.episodes += len(finished)
        self.running = sums[-1] - torch.where(last[-1] < 0, -running, sums.gather(0, last[-1:].clamp(min=0))[0])

    @property
    def mean(self) -> float:
        """Mean of the latest returns; NaN before the first episode has ended."""
        return float(np.mean(self.latest)) if self.latest else float("nan")


class ProgressDisplay:
    """A progress bar with figures and steps per second where standard output is a terminal, nothing elsewhere."""

    def __init__(self, total_steps: int, shown: bool, unit: str = "steps") -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TextColumn("{task.fields[speed]:,.0f} " + unit + "/s"),
            TimeElapsedColumn(),
            console=Console(),
            disable=not (shown and sys.stdout.isatty()),
        )
        self._task = self._progress.add_task("training", total=total_steps, figures="", speed=0.0)

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, completed: int, figures: str, speed: float) -> None:
        """Show the latest figures."""
        self._progress.update(self._task, completed=completed, figures=figures, speed=speed)

    def reach_target(self, completed: int) -> None:
        """Show the run as complete, though steps were left."""
        self._progress.update(self._task, completed=completed, total=completed)


class Interruption:
    """Set by the first Ctrl-C or SIGTERM; the training loop looks at it where it can stop and save."""

    requested = False


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts as usual."""
    interruption = Interruption()
    signals = (signal.SIGINT, signal.SIGTERM)
    previous: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        previous.clear()

    def request(_number: int, _frame: FrameType | None) -> None:
        interruption.requested = True
        restore()

    try:
        for number in signals:
            previous[number] = signal.signal(number, request)
    except ValueError:
        # Only the main thread may set handlers; in another one, interruption is the caller's affair.
        previous.clear()
    try:
        yield interruption
    finally:
        restore()
