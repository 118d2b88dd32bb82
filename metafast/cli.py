"""The `metafast` command: train, evaluate, bench, info. What a subcommand does not need it does not import."""

import argparse
import importlib
import importlib.metadata
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import metafast
from metafast.trainers import UsageError

# Each module gives NAME, parse, train, describe, add_evaluation_options, evaluate and describe_evaluation.
TRAINERS = {
    "policy-gradient": "metafast.trainers.policy_gradient",
    "attention": "metafast.trainers.attention",
    "multitask": "metafast.trainers.multitask",
}
DEFAULT_TRAINER = "policy-gradient"
TRAIN_EXTRA = {"torch", "tyro", "rich", "matplotlib", "tensorboard", "safetensors", "sklearn", "torchjd"}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 2 where the user can put something right, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    given = [argument for argument in given if argument != "--json"]
    try:
        if not given:
            _parser().print_help(sys.stderr)
            return 2
        if given[:1] == ["train"]:
            return _train(given[1:], as_json)
        if given[:1] == ["evaluate"]:
            return _evaluate(given[1:], as_json)
        options = _parser().parse_args(given)
        return int(options.run(options, as_json))
    except UsageError as error:
        print(f"metafast: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("metafast: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever was reading has seen enough; Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TRAIN_EXTRA:
            raise
        print(f'metafast: error: {error.name} is not installed: pip install "metafast[train]"', file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="metafast",
        description="Native kernels and thin trainers for reinforcement learning.",
        epilog="Every command takes --json: one JSON object as the last line of standard output.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"metafast {metafast.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    trainers = ", ".join(TRAINERS)
    commands.add_parser(
        "train", help=f"train [{trainers}] [options]; with nothing given, PPO on CartPole-v1 until it is solved"
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="judge what a run has learned by what it has not seen",
        epilog="Further options are the trainer's: see metafast evaluate RUN_DIR --help.",
        allow_abbrev=False,
    )
    evaluate.add_argument("run_dir", metavar="RUN_DIR", help="directory that `metafast train` wrote")

    bench = commands.add_parser("bench", help="time metafast beside NumPy, torch and gymnasium", allow_abbrev=False)
    bench.add_argument(
        "room",
        nargs="?",
        choices=("envs", "returns", "attention", "nn"),
        metavar="ROOM",
        help="envs, returns, attention, nn; all",
    )
    bench.add_argument("--device", default="cpu", help="cpu, or a CUDA device: cuda, cuda:1 (default: %(default)s)")
    bench.set_defaults(run=_bench)

    info = commands.add_parser("info", help="versions, instruction set, threads, CUDA devices", allow_abbrev=False)
    info.set_defaults(run=_info)
    return parser


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(_without_nan(result)), flush=True)


def _without_nan(value: Any) -> Any:
    # NaN is no JSON: a mean over no episodes, or an error without bound, becomes null wherever it is.
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _load_trainer(name: Any) -> Any:
    if name not in TRAINERS:
        raise UsageError(f"unknown trainer {name!r}; there is {', '.join(TRAINERS)} (see its --algorithm)")
    return importlib.import_module(TRAINERS[name])


def _train(arguments: list[str], as_json: bool) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    name = arguments.pop(0) if named else DEFAULT_TRAINER
    trainer = _load_trainer(name)
    result = trainer.train(trainer.parse(arguments))
    if os.environ.get("RANK", "0") != "0":
        return INTERRUPTED if result["interrupted"] else 0
    if as_json:
        _print_json(result)
    else:
        print(trainer.describe(result))
    if result["interrupted"]:
        # With --json the last line of standard output stays the JSON object.
        stream = sys.stderr if as_json else sys.stdout
        how = f"metafast train {name} --resume {result['run_dir']}" if "run_dir" in result else result["continue_by"]
        print(f"interrupted and saved; continue with: {how}", file=stream)
        return INTERRUPTED
    if not as_json and "run_dir" in result:
        print(f"evaluate it with: metafast evaluate {result['run_dir']}")
    return 0


def _evaluate(arguments: list[str], as_json: bool) -> int:
    # Which options there are depends on the trainer, and that on the directory.
    if not arguments or arguments[0].startswith("-"):
        _parser().parse_args(["evaluate", *(argument for argument in arguments if argument in ("-h", "--help"))])
    run_dir = arguments.pop(0)
    trainer = _load_trainer(_read_trainer_name(run_dir))
    parser = argparse.ArgumentParser(prog=f"metafast evaluate {run_dir}", allow_abbrev=False)
    trainer.add_evaluation_options(parser)
    result = trainer.evaluate(run_dir, **vars(parser.parse_args(arguments)))
    if as_json:
        _print_json(result)
    else:
        print(trainer.describe_evaluation(result))
    return 0


def _read_trainer_name(run_dir: str) -> Any:
    # Every trainer reads its own options; which trainer it was is all that is looked up here.
    from metafast.trainers._run import read_config

    return read_config(run_dir).get("trainer")


def _bench(options: argparse.Namespace, as_json: bool) -> int:
    from metafast import _bench

    if options.device == "cpu":
        rows, title = _bench.run(options.room), _bench.title()
    else:
        from metafast import _bench_cuda

        rows, title = _bench_cuda.run(options.room, options.device), _bench_cuda.title(options.device)
    if as_json:
        _print_json({"rows": rows})
    else:
        _bench.show(rows, title)
    return 0


def _info(_: argparse.Namespace, as_json: bool) -> int:
    result: dict[str, Any] = {
        "version": metafast.__version__,
        "isa": metafast.isa(),
        "threads": metafast.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_cuda(),
        **{name: _version(name) for name in ("numpy", "gymnasium", "numba", "torch")},
    }
    if as_json:
        _print_json(result)
    else:
        width = max(map(len, result))
        for name, value in result.items():
            print(f"{name:<{width}}  {value}")
    return 0


def _version(package: str) -> str | None:
    # From the installed metadata: importing torch takes seconds.
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda() -> dict[str, Any]:
    try:
        cuda = importlib.import_module("metafast._cuda")
    except ImportError:
        return {"cuda": "not built", "cuda_devices": []}
    try:
        return {"cuda": "built", "cuda_devices": cuda.devices()}
    except RuntimeError as error:
        return {"cuda": f"built, no device: {error}", "cuda_devices": []}
