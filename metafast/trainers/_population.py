"""Several members trained at once in one process: other seeds, and where asked for other options, for one start-up."""

import dataclasses
import itertools
import time
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import metafast
from metafast.trainers import UsageError, _distributed, _run

# Of the sweep itself, not of a member.
_NOT_VARIED = ("population", "vary", "run_dir", "resume", "seed", "threads", "env_id", "algorithm")


# Of a member's result, beside the options that it has of its own.
_FIGURES = "engine", "solved", "seconds", "env_steps", "mean_return", "evaluation_return", "run_dir"


def _parse_values(config: Any, text: str) -> tuple[str, list[Any]]:
    """The name and the values of NAME=VALUE,VALUE,...; of the types that the option's default has."""
    name, equals, values = text.partition("=")
    name = name.replace("-", "_")
    known = [field.name for field in dataclasses.fields(config) if field.name not in _NOT_VARIED]
    if not equals or name not in known:
        raise UsageError(f"vary takes NAME=VALUE,VALUE,... with one of {', '.join(known)}, not {text!r}")
    each = values.split(",")
    hint = typing.get_type_hints(type(config))[name]
    optional = type(None) in typing.get_args(hint)
    return name, [None if value == "None" and optional else _parse_value(name, value, hint) for value in each]


def _parse_value(name: str, value: str, hint: Any) -> Any:
    kinds = {kind for kind in (hint, typing.get_origin(hint), *typing.get_args(hint)) if isinstance(kind, type)}
    if bool in kinds:
        if value not in ("True", "False"):
            raise UsageError(f"{name} must be True or False, not {value!r}")
        return value == "True"
    if typing.get_origin(hint) is typing.Literal or str in kinds:
        return value  # which the options check
    try:
        if tuple in kinds:
            return tuple(int(size) for size in value.split("x"))
        return float(value) if float in kinds else int(value)
    except ValueError:
        kind = "numbers with an x between them" if tuple in kinds else "a number"
        raise UsageError(f"{name} must be {kind}, not {value!r}") from None


def members(config: Any, configure: Callable[..., Any], run_dir: Path) -> list[Any]:
    """The options of each member: all combinations of the values that vary, and then the same with the next seed."""
    varied = dict(_parse_values(config, text) for text in config.vary)
    settings = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
    population = len(settings) if config.population == 1 else config.population
    if population % len(settings):
        raise UsageError(f"the population must be a multiple of the {len(settings)} settings, not {population}")
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    made = []
    for index in range(population):
        own = settings[index % len(settings)]
        own |= {"seed": config.seed + index // len(settings), "run_dir": str(run_dir / f"member-{index}")}
        made.append(configure(**options | own | {"population": 1, "vary": (), "threads": 1}))
    return made


def train(
    config: Any, configure: Callable[..., Any], train_one: Callable[..., dict[str, Any]], name: str
) -> dict[str, Any]:
    """Train every member in a directory of its own, on as many threads as asked for; return their figures."""
    started = time.perf_counter()
    if config.resume is not None:
        raise UsageError("a population cannot be resumed; resume one of its members")
    if _distributed.world_size() > 1:
        raise UsageError("a population is trained by one process")
    if config.threads > 1 and config.device.partition(":")[0] == "cuda":
        raise UsageError("threads must be 1 for a population on a CUDA device, where one graph is recorded at a time")
    directory = _run.RunDirectory.create(config.run_dir, f"{name}-population", 0)
    made = members(config, configure, directory.path)
    # The members are what runs side by side; within one, everything is small.
    metafast.set_num_threads(1)
    torch.set_num_threads(1)
    with _run.interruptible() as interruption, ThreadPoolExecutor(config.threads) as pool:
        futures = [pool.submit(_train_unless, interruption, train_one, member) for member in made]
        results = [future.result() for future in futures]
    finished = [result for result in results if result is not None]
    seconds = time.perf_counter() - started
    return {
        "trainer": finished[0]["trainer"] if finished else name,
        "env_id": config.env_id,
        "algorithm": config.algorithm,
        "population": len(made),
        "seconds": seconds,
        "solved": sum(bool(result["solved"]) for result in finished),
        "interrupted": interruption.requested,
        "directory": str(directory.path),
        "continue_by": f"metafast train --resume {directory.path}/member-K, for each member K that was begun",
        "members": [_summary(config, member, result) for member, result in zip(made, results, strict=True)],
    }


def _train_unless(
    interruption: _run.Interruption, train_one: Callable[..., dict[str, Any]], member: Any
) -> dict[str, Any] | None:
    if interruption.requested:
        return None
    return train_one(member, shown=False, interruption=interruption)


def _summary(config: Any, member: Any, result: dict[str, Any] | None) -> dict[str, Any]:
    """A member's figures, with the options that tell it from the others."""
    varied = {text.partition("=")[0].replace("-", "_") for text in config.vary}
    own = {"seed": member.seed, **{name: getattr(member, name) for name in sorted(varied)}}
    if result is None:
        return own
    return own | {name: result[name] for name in _FIGURES}


def describe(result: dict[str, Any]) -> str:
    """Say in words what `train` returned."""
    rows = [member for member in result["members"] if "seconds" in member]
    lines = []
    for row in rows:
        own = [f"{name} {value}" for name, value in row.items() if name not in _FIGURES]
        told = f"return {row['mean_return']:.1f}", f"{row['env_steps']:,} steps", f"{row['seconds']:.2f} s"
        lines.append(", ".join([*own, *told, *(["solved"] if row["solved"] else [])]))
    if rows:
        returns = [row["mean_return"] for row in rows]
        # The middle half says more of few runs than a deviation.
        low, middle, high = np.percentile(returns, [25, 50, 75])
        seconds = np.median([row["seconds"] for row in rows])
        lines.append(
            f"{len(rows)} members in {result['seconds']:.2f} s, {result['solved']} solved: "
            f"return {middle:.1f} ({low:.1f} to {high:.1f}), median {seconds:.2f} s each, engine {rows[0]['engine']}"
        )
    return "\n".join(itertools.chain(lines, [f"in {result['directory']}"]))
