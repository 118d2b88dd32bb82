"""One table: every method of multi-task learning on the same rows, budget and seeds, beside single-task networks.

A run that has its result.json is not repeated, so a comparison that was interrupted goes on where it was.
"""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metafast.trainers import UsageError, _run

# What each row changes. Weightings are compared on squared errors, which leave all the weighing to them.
SQUARED = {"regression": "squared"}
METHODS: dict[str, dict[str, Any]] = {
    "Gaussian of learnt scale": {"regression": "gaussian"},
    "plain sum": SQUARED,
    "scaled by the prior": SQUARED | {"weighting": "scaled"},
    "uncertainty": SQUARED | {"weighting": "uncertainty"},
    "GradNorm": SQUARED | {"weighting": "gradnorm"},
    "dynamic weight average": SQUARED | {"weighting": "dwa"},
    "PCGrad": SQUARED | {"weighting": "pcgrad"},
    "CAGrad": SQUARED | {"weighting": "cagrad"},
    "MGDA": SQUARED | {"weighting": "mgda"},
    "UPGrad": SQUARED | {"weighting": "upgrad"},
    "Aligned-MTL": SQUARED | {"weighting": "aligned-mtl"},
    "Nash-MTL": SQUARED | {"weighting": "nash-mtl"},
    "Beta of learnt precision": {"regression": "beta"},
    "soft Bernoulli": {"regression": "bernoulli"},
    "Gaussian, PCGrad": {"regression": "gaussian", "weighting": "pcgrad"},
    "Gaussian, UPGrad": {"regression": "gaussian", "weighting": "upgrad"},
    "Gaussian, KL to the prior": {"regression": "gaussian", "shared_update": "kl"},
    "Gaussian, attention": {"regression": "gaussian", "attention": True},
    "Gaussian, round-robin": {"regression": "gaussian", "schedule": "round-robin"},
    "Gaussian, in sequence": {"regression": "gaussian", "schedule": "sequential"},
    "Gaussian, in sequence, KL": {"regression": "gaussian", "schedule": "sequential", "shared_update": "kl"},
}
# What the rows decide between them, so that it cannot be chosen for all.
DECIDED = ("weighting", "weights", "regression", "shared_update", "attention", "schedule", "single_task")


def compare(config: Any, train: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Train by every method with every seed; means, spreads and the table, also as comparison.md."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a comparison runs in one process")
    defaults = type(config)(data=config.data)
    for name in DECIDED:
        if getattr(config, name) != getattr(defaults, name):
            raise UsageError(f"{name} differs from row to row of a comparison and cannot be given for all of them")
    started = time.perf_counter()
    named = f"runs/multitask-{Path(config.data).stem}-comparison-{time.strftime('%Y%m%d-%H%M%S')}"
    directory = Path(config.run_dir or named)
    written = _check_same(config, directory)
    runs: dict[str, list[dict[str, Any]]] = {}
    left_out: dict[str, str] = {}
    interrupted = False
    jobs = [(name, seed) for name in METHODS for seed in range(config.seed, config.seed + config.compare)]
    # Ctrl-C between two runs ends the comparison in good order too.
    with _run.interruptible() as interruption:
        for number, (name, seed) in enumerate(jobs):
            if name in left_out:
                continue
            path = directory / f"{name.replace(',', '').replace(' ', '-').lower()}-{seed}"
            # The networks of single tasks are the same beside every method.
            chosen = {"compare": 0, "seed": seed, "run_dir": str(path), "single_task": not runs.keys() - {name}}
            try:
                result = _train_or_read(dataclasses.replace(config, **chosen, **METHODS[name]), path, train)
            except UsageError as error:
                if not runs:
                    raise
                left_out[name] = str(error)
                continue
            # Not before, so that options that are refused leave nothing that stands in the way of better ones.
            (directory / "comparison.json").write_text(written)
            if interrupted := result["interrupted"]:
                break
            runs.setdefault(name, []).append(result)
            scores = ", ".join(f"{task} {_show(kinds)}" for task, kinds in result["tasks"].items())
            print(f"{number + 1} of {len(jobs)}: {name}, seed {seed}: {scores}", file=sys.stderr)
            if interrupted := interruption.requested and number + 1 < len(jobs):
                break
    complete = {name: results for name, results in runs.items() if len(results) == config.compare}
    rows = summarise(complete) if complete else []
    result = {
        "trainer": "multitask",
        "data": config.data,
        "seeds": list(range(config.seed, config.seed + config.compare)),
        "comparison": rows,
        "left_out": left_out,
        "interrupted": interrupted,
        "comparison_dir": str(directory),
        "continue_by": f"the same command and --run-dir {directory}",
        "seconds": time.perf_counter() - started,
    }
    (directory / "comparison.md").write_text(describe(result) + "\n")
    return result


def _check_same(config: Any, directory: Path) -> str:
    # A table of runs with different options would be worth nothing. What is returned is for comparison.json.
    options = dataclasses.asdict(dataclasses.replace(config, run_dir=None, threads=1, checkpoint_seconds=60.0))
    contents, written = json.dumps(options, indent=2) + "\n", directory / "comparison.json"
    if written.exists() and _read_json(written) != json.loads(contents):
        raise UsageError(f"{directory} holds a comparison with other options; choose another --run-dir")
    return contents


def _train_or_read(config: Any, path: Path, train: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    ended = path / "result.json"
    if ended.exists():
        result: dict[str, Any] = _read_json(ended)
        return result
    if (path / "training_state.safetensors").exists():
        config = dataclasses.replace(config, resume=str(path))
    elif (path / "config.json").exists():
        # A run that ended before it saved anything, as by kill -9, begins anew.
        (path / "config.json").unlink()
    result = train(config)
    if not result["interrupted"]:
        ended.write_text(json.dumps(result) + "\n")
    return result


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _scores(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {task: next(iter(scores.values())) for task, scores in tasks.items()}


def summarise(runs: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for the single-task networks, which the first method's runs hold, and one for each method.

    `relative_change` is the mean over the tasks of the change of the mean error rate or RMSE; its spread is that over
    the seeds, each against the mean of the single-task networks. `seconds` are the network's own updates.
    """
    first = next(iter(runs.values()))
    tasks = first[0]["tasks"]
    rates = np.array([next(iter(scores)) == "accuracy" for scores in tasks.values()])

    def tabulate(results: list[dict[str, Any]], key: str) -> np.ndarray:
        return np.array([list(_scores(result[key]).values()) for result in results])

    def make_row(method: str, scores: np.ndarray, seconds: float) -> dict[str, Any]:
        change = np.where(rates, 1 - scores, scores)[:, known] / reference[known] - 1
        return {
            "method": method,
            "options": _write_options(METHODS.get(method, {})),
            "tasks": {
                name: {metric: float(scores[:, task].mean()), "deviation": _deviation(scores[:, task])}
                for task, (name, (metric,)) in enumerate((name, tuple(kinds)) for name, kinds in tasks.items())
            },
            "relative_change": float(change.mean()) if known.any() else math.nan,
            "deviation": _deviation(change.mean(1)) if known.any() else math.nan,
            "seconds": seconds,
            "times_plain_sum": seconds / plain_seconds,
        }

    plain = runs.get("plain sum", first)
    plain_seconds = float(np.mean([result["multitask_seconds"] for result in plain]))
    alone = tabulate(first, "single_tasks") if first[0]["single_tasks"] else tabulate(first, "tasks")
    reference = np.where(rates, 1 - alone, alone).mean(0)
    # From an error of 0 there is no relative change.
    known = reference > 0
    rows = []
    if first[0]["single_tasks"]:
        rows.append(make_row("single-task networks", alone, float(np.mean([r["singletask_seconds"] for r in first]))))
    for method, results in runs.items():
        seconds = float(np.mean([result["multitask_seconds"] for result in results]))
        rows.append(make_row(method, tabulate(results, "tasks"), seconds))
    return rows


def _write_options(options: Mapping[str, Any]) -> str:
    """The command line's options of a method."""
    words = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in options.items()]
    return " ".join(words)


def _show(scores: Mapping[str, float]) -> str:
    ((metric, score),) = scores.items()
    return f"{metric} {score:.4g}"


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def describe(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    rows = result["comparison"]
    if not rows:
        return "no method has been through all seeds yet"
    names = list(rows[0]["tasks"])
    cells = [["method", *names, "change of errors", "seconds", "x plain sum", "options"]]
    for row in rows:
        scores = []
        for kinds in row["tasks"].values():
            metric = next(iter(kinds))
            scores.append(f"{metric} {kinds[metric]:.4f} ± {kinds['deviation']:.4f}")
        change = f"{row['relative_change']:+.1%} ± {row['deviation']:.1%}"
        times = f"{row['seconds']:.3g}", f"{row['times_plain_sum']:.2f}"
        cells.append([row["method"], *scores, change, *times, row["options"]])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += [
        "",
        f"{result['data']}, test rows, mean ± deviation over {len(result['seeds'])} seeds; the change of error rates "
        "and RMSEs is the tasks' mean against the single-task networks, and less is better",
    ]
    lines += [f"{name} was left out: {reason}" for name, reason in result["left_out"].items()]
    return "\n".join(lines)
