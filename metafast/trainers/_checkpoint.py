"""Saving a reinforcement-learning run so that it continues exactly: learner, environments, episodes and counters."""

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metafast.nn import ReturnNormalizer
from metafast.trainers import UsageError, _distributed, _run
from metafast.trainers._environments import AnyVectorEnv
from metafast.trainers._learner import Learner
from metafast.trainers._replay import Replay


@dataclass
class Counters:
    """How far a run has come."""

    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    next_evaluation: int = 0
    evaluation_return: float | None = None
    solved_target: float | None = None
    curve: list[dict[str, float]] = field(default_factory=list)


def save(
    directory: _run.RunDirectory, learner: Learner, env: AnyVectorEnv, observations: Any, traces: Tensor,
    replay: Replay, normalizer: ReturnNormalizer | None, episodes: _run.EpisodeReturns, counters: Counters,
) -> None:  # fmt: skip
    """Write a checkpoint from which `restore` continues exactly."""
    arrays = {
        "observations": torch.as_tensor(observations).cpu().numpy(),
        "traces": traces.cpu().numpy(),
        "running_returns": torch.as_tensor(episodes.running).cpu().numpy(),
        "latest_returns": np.array(episodes.latest, dtype=np.float64),
        **{f"learner.{name}": array for name, array in learner.get_state().items()},
        **{f"replay.{name}": array for name, array in replay.get_state().items()},
    }
    if normalizer is not None:
        arrays |= {f"normalizer.{name}": array for name, array in normalizer.get_state().items()}
    if hasattr(env, "get_state"):
        # Records as bytes: safetensors knows no named fields.
        arrays |= {
            f"environment.{name}": array if array.dtype.names is None else array.view((np.uint8, array.dtype.itemsize))
            for name, array in env.get_state().items()
        }
    numbers = {**asdict(counters), "episodes": episodes.episodes, "world_size": _distributed.world_size()}
    # Among the arrays, because the header that holds the numbers is limited in size.
    arrays["curve"] = np.array([list(point.values()) for point in numbers.pop("curve")]).reshape(-1, 2)
    directory.write_state(arrays, numbers)
    directory.write_policy(learner.policy)


def restore(
    directory: _run.RunDirectory,
    learner: Learner,
    env: AnyVectorEnv,
    traces: Tensor,
    replay: Replay,
    normalizer: ReturnNormalizer | None,
    episodes: _run.EpisodeReturns,
    seed: int,
) -> tuple[np.ndarray, Counters]:
    """Put back what `save` wrote; return the observations to act on and the counters.

    `seed` is the run's, for environments whose state cannot be put back.
    """
    arrays, numbers = directory.read_state()
    if (saved_by := numbers.pop("world_size")) != _distributed.world_size():
        raise UsageError(f"{directory.path} was saved by {saved_by} processes; resume it with as many")
    if arrays["traces"].shape != tuple(traces.shape) or arrays["running_returns"].shape != (env.num_envs,):
        raise UsageError(f"{directory.state_path} was saved with another network or number of environments")
    learner.set_state(_run.select(arrays, "learner."))
    traces.copy_(torch.from_numpy(arrays["traces"]))
    replay.set_state(_run.select(arrays, "replay."))
    if normalizer is not None:
        normalizer.set_state(_run.select(arrays, "normalizer."))
    episodes.running = arrays["running_returns"]
    episodes.latest.extend(arrays["latest_returns"].tolist())
    episodes.episodes = numbers.pop("episodes")
    curve = [{"env_steps": int(steps), "mean_return": float(mean)} for steps, mean in arrays["curve"]]
    counters = Counters(**numbers, curve=curve)
    if state := _run.select(arrays, "environment."):
        env.reset(seed=0)
        dtypes = {name: array.dtype for name, array in env.get_state().items()}  # type: ignore[attr-defined]
        for name, dtype in dtypes.items():
            if dtype.names is not None:
                state[name] = np.ascontiguousarray(state[name]).view(dtype)[:, 0]
        env.set_state(state)  # type: ignore[attr-defined]
        return arrays["observations"], counters
    print("gymnasium's own environments cannot be put back in mid-episode: new episodes begin", file=sys.stderr)
    episodes.running[:] = 0.0
    traces.zero_()
    learner.forget()
    return env.reset(seed=_run.derive_seeds(seed, directory.rank, counters.iteration)[0])[0], counters
