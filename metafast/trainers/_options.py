"""The options of policy-gradient training, and their defaults by environment and algorithm."""

import argparse
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metafast.trainers import UsageError, _environments, _run
from metafast.trainers._experience import NATIVE_ALGORITHMS, Engine

NAME = "policy-gradient"
Algorithm = Literal["ppo", "a2c", "vtrace", "reinforce", "reinforce-baseline", "td-lambda"]


@dataclass
class Config:
    """Policy-gradient training.

    The defaults shown are those of the chosen environment and algorithm. With --json, standard output ends with one
    JSON object.
    """

    env_id: Annotated[str, tyro.conf.arg(aliases=["--env"])] = "CartPole-v1"
    """Environment to train in: an id or, of your own compile_env class, file.py:Name or package.module:Name."""
    algorithm: Algorithm = "ppo"
    """Estimator of the policy gradient."""
    backend: _environments.Backend = "native"
    """Where the environment comes from: metafast's native ones, or gymnasium's own."""
    preset: Literal["default", "keras", "torch"] = "default"
    """Network: default tanh trunk; keras 64 relu policy and 32 relu value; torch 128-128 relu trunk."""
    policy: Literal["auto", "categorical", "bernoulli", "gaussian"] = "auto"
    """Distribution over actions; auto chooses by the action space."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the default preset's trunk; none for a linear policy."""
    gru_size: int = 0
    """Width of a GRU behind the default preset's trunk, which lets the policy remember; 0 for none."""
    engine: Engine = "auto"
    """What runs the policy and its update: kernels (on a CUDA device graphs), or torch; auto takes the former where
    they can and says so."""
    num_envs: int = 32
    """Environments stepped together, on each process."""
    num_steps: int = 32
    """Steps of each environment per iteration (REINFORCE runs whole episodes instead)."""
    total_steps: int = 1_000_000
    """Environment steps after which training ends in any case."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """How a gradient becomes a step."""
    learning_rate: float = 3e-4
    """Step size at the start."""
    half_life: float | None = None
    """Environment steps in which the step size halves; none keeps it."""
    gamma: float = 0.99
    """Discount."""
    lam: float = 0.95
    """Lambda of GAE and V-trace, or decay of the eligibility traces."""
    replay: int = 0
    """Learn from the last so many rollouts again, corrected by V-trace weights: chooses --algorithm vtrace."""
    replay_ratio: float = 1.0
    """Replayed steps for each fresh one in a batch."""
    epochs: int = 1
    """Passes over each batch; V-trace makes a batch anew for each."""
    minibatches: int = 1
    """Parts that each pass is cut into."""
    clip: float = 0.2
    """PPO keeps the probability ratio within 1 - clip and 1 + clip."""
    normalize_advantages: bool = False
    """Standardise the advantages of each batch; those of V-trace are centred alone, with their weights."""
    value_coef: float = 0.5
    """Weight of the value function's mean squared error."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.0
    """Gradients longer than this are shortened to it; 0 for no limit."""
    normalize_observations: bool = False
    """Standardise observations by running statistics."""
    normalize_rewards: bool = False
    """Divide rewards by the running deviation of their discounted sum."""
    value_clip: float | None = None
    """PPO counts a value within so much of what it was; none for no limit."""
    target_kl: float | None = None
    """PPO stops a batch's epochs after one that moved the policy further than this divergence; none for no limit."""
    reward_scale: float = 1.0
    """Factor on rewards inside the loss; reported returns are unscaled."""
    target_return: float | None = None
    """Stop once the latest 100 episodes reach this mean and fresh evaluation episodes exceed it by target_margin."""
    target_margin: float = 0.0
    """By how much; set so that a later confirmation does not fail by luck."""
    evaluation_episodes: int = 200
    """Fresh episodes of that evaluation, of the sampled policy."""
    seed: int = 0
    """Repeats a run bit for bit on the same machine."""
    population: int = 1
    """Train so many members, with the seeds from this one on, as many at once as there are threads."""
    vary: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,... of options: members for all combinations, each with the same seeds."""
    threads: int = 1
    """CPU threads for kernels and torch; networks this small are fastest on one. Torch's last bits depend on it."""
    device: str = "cpu"
    """Torch device of the network; on a CUDA device metafast's own environments live too, but for the torch engine."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the network's numbers."""
    run_dir: str | None = None
    """Where the run is saved; by default runs/ENV-ALGORITHM-SEED-TIME."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints; one is always written at the end and on Ctrl-C."""
    resume: str | None = None
    """Continue the run in this directory exactly, in place, with its options where none are given anew."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("value_coef", "entropy_coef"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be finite and not negative, not {getattr(self, name)}")
        if not math.isfinite(self.reward_scale):
            raise UsageError(f"reward_scale must be finite, not {self.reward_scale}")
        for name in ("value_clip", "target_kl"):
            if getattr(self, name) is not None and self.algorithm != "ppo":
                raise UsageError(f"{name} must be None with the algorithm {self.algorithm}")
        if self.normalize_rewards and self.algorithm in ("vtrace", "td-lambda"):
            raise UsageError(f"normalize_rewards must be False with the algorithm {self.algorithm}")
        if self.normalize_observations and self.algorithm == "td-lambda":
            raise UsageError("normalize_observations must be False with the algorithm td-lambda")
        counts = (
            "num_envs", "num_steps", "total_steps", "epochs", "minibatches", "evaluation_episodes", "population",
        )  # fmt: skip
        positive = (
            "learning_rate", "half_life", "clip", "value_clip", "target_kl", "checkpoint_seconds", "replay_ratio",
        )  # fmt: skip
        _run.check_options(self, counts=counts, positive=positive, fractions=("gamma", "lam"))
        if self.replay < 0 or (self.replay and self.algorithm != "vtrace"):
            raise UsageError(f"replay must be 0 with the algorithm {self.algorithm}, and nowhere negative")
        if any(size < 1 for size in self.hidden_sizes):
            raise UsageError(f"hidden_sizes must be at least 1, not {self.hidden_sizes}")
        if self.gru_size < 0 or (self.gru_size and self.algorithm not in NATIVE_ALGORITHMS):
            raise UsageError(f"gru_size must be 0 with the algorithm {self.algorithm}, and nowhere negative")
        if self.gru_size and self.preset != "default":
            raise UsageError(f"gru_size must be 0 with the preset {self.preset}")
        if ".py:" in self.env_id and self.resume is None:
            # A run is gone on with from any folder.
            self.env_id = str(Path(self.env_id).absolute())
        # JSON gives a list.
        self.hidden_sizes, self.vary = tuple(self.hidden_sizes), tuple(self.vary)


def _check_choices(config: Config) -> None:
    """Refuse what an option with a list of values does not list."""
    for name, hint in typing.get_type_hints(Config).items():
        if typing.get_origin(hint) is Literal and getattr(config, name) not in typing.get_args(hint):
            listed = ", ".join(typing.get_args(hint))
            raise UsageError(f"{name} must be one of {listed}, not {getattr(config, name)!r}")


PER_ALGORITHM: dict[str, dict[str, Any]] = {
    "ppo": {"num_envs": 8, "num_steps": 128, "epochs": 4, "minibatches": 4, "normalize_advantages": True,
            "max_grad_norm": 0.5},
    "a2c": {"num_envs": 16, "num_steps": 8, "learning_rate": 5e-3, "lam": 0.9, "max_grad_norm": 0.5},
    "vtrace": {"num_envs": 16, "num_steps": 8, "epochs": 4, "learning_rate": 1e-3, "lam": 0.9,
               "normalize_advantages": True, "max_grad_norm": 0.5, "replay": 64},
    "reinforce": {"num_envs": 16, "learning_rate": 1e-2},
    "reinforce-baseline": {"num_envs": 16, "learning_rate": 1e-2},
    "td-lambda": {"learning_rate": 1e-3, "lam": 0.8, "value_coef": 0.1},
}  # fmt: skip
PER_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"target_return": 475.0, "target_margin": 15.0},
    "Acrobot-v1": {"target_return": -100.0, "target_margin": 3.0},
    "MountainCarContinuous-v0": {"gamma": 0.999, "target_return": 90.0, "target_margin": 1.0},
    "Pendulum-v1": {"gamma": 0.9, "reward_scale": 0.1, "target_return": -200.0, "target_margin": 25.0},
    "BreastCancer-v0": {"algorithm": "reinforce-baseline", "hidden_sizes": (), "num_envs": 426, "num_steps": 1,
                        "learning_rate": 1e-2, "total_steps": 426 * 300},
}  # fmt: skip
PER_PAIR: dict[tuple[str, str], dict[str, Any]] = {
    ("CartPole-v1", "ppo"): {"num_envs": 32, "num_steps": 32, "learning_rate": 6.4e-3, "half_life": 40_000.0,
                             "lam": 0.9, "epochs": 2, "minibatches": 16, "max_grad_norm": 1.0, "reward_scale": 0.1},
    ("CartPole-v1", "a2c"): {"reward_scale": 0.1},
    ("CartPole-v1", "vtrace"): {"reward_scale": 0.1},
    ("CartPole-v1", "reinforce-baseline"): {"reward_scale": 0.1},
    ("Acrobot-v1", "ppo"): {"num_envs": 16, "num_steps": 64, "learning_rate": 4e-3, "lam": 0.9, "epochs": 2,
                            "minibatches": 16, "clip": 0.3, "normalize_rewards": True},
    # Of random episodes 1 in 30 sees the goal, so that many run side by side.
    ("MountainCarContinuous-v0", "ppo"): {"num_envs": 32, "num_steps": 128, "learning_rate": 1e-3, "lam": 0.9,
                                          "half_life": 200_000.0, "epochs": 2, "minibatches": 16, "clip": 0.3,
                                          "entropy_coef": 0.01, "normalize_observations": True,
                                          "normalize_rewards": True},
    ("Pendulum-v1", "ppo"): {"num_envs": 16, "num_steps": 128, "learning_rate": 2e-3, "half_life": 50_000.0,
                             "lam": 0.95, "epochs": 2, "minibatches": 32, "clip": 0.3, "max_grad_norm": 1.0,
                             "normalize_rewards": True, "reward_scale": 1.0},
    ("Pendulum-v1", "vtrace"): {"learning_rate": 4e-4, "half_life": 80_000.0, "total_steps": 150_000},
}  # fmt: skip
PER_PRESET: dict[str, dict[str, Any]] = {"default": {}, "keras": {}, "torch": {"value_coef": 0.5, "entropy_coef": 0.01}}


def configure(env_id: str = "CartPole-v1", algorithm: str | None = None, **options: Any) -> Config:
    """The options for an environment and an algorithm (None: the environment's own), then those given."""
    environment = PER_ENVIRONMENT.get(env_id, {})
    algorithm = algorithm or ("vtrace" if options.get("replay") else environment.get("algorithm", "ppo"))
    chosen = PER_ALGORITHM[algorithm] | environment | PER_PAIR.get((env_id, algorithm), {})
    chosen |= PER_PRESET[options.get("preset", "default")] | options
    return Config(**chosen | {"env_id": env_id, "algorithm": algorithm})


def parse(arguments: Sequence[str]) -> Config:
    """Read the command line; what decides the defaults is looked at first, and judged with the rest."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env-id", "--env_id", "--env", nargs="?", default="CartPole-v1")
    for name in ("--algorithm", "--preset", "--replay", "--resume"):
        first.add_argument(name, nargs="?")
    known, _ = first.parse_known_args(arguments)
    if known.resume is not None:
        default = load_config(known.resume)
    else:
        algorithm = known.algorithm or ("vtrace" if known.replay not in (None, "0") else None)
        algorithm = algorithm if algorithm in PER_ALGORITHM else None
        preset = known.preset if known.preset in PER_PRESET else "default"
        default = configure(known.env_id or "CartPole-v1", algorithm, preset=preset)
    return tyro.cli(Config, args=list(arguments), default=default, prog=f"metafast train {NAME}")


def load_config(run_dir: str) -> Config:
    """The options of the run in `run_dir`."""
    return Config(**_run.read_options(run_dir, NAME, Config))


# What a run cannot change on its way.
FIXED = (
    "env_id", "algorithm", "backend", "preset", "policy", "hidden_sizes", "gru_size", "num_envs", "replay", "seed",
    "run_dir", "normalize_observations", "normalize_rewards", "dtype",
)  # fmt: skip
