"""One way to make an environment from metafast or, when asked for, from gymnasium; always with same-step autoreset.

Same-step autoreset gives no row that belongs to no transition, and hands over an ended episode's true last observation.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

import metafast.envs
from metafast.data import breast_cancer
from metafast.trainers import UsageError

Backend = Literal["native", "gymnasium"]
AnyVectorEnv = VectorEnv


def make(
    env_id: str,
    num_envs: int,
    backend: str,
    *,
    num_threads: int | None = None,
    split: breast_cancer.Split = "train",
    device: str | None = None,
) -> AnyVectorEnv:
    """Make `num_envs` copies of an environment; `split` is for labelled data; `device` a CUDA device to live on.

    `env_id` is an id, or where a user's environment is: "file.py:Name" or "package.module:Name", the name of a class
    that `compile_env` decorates.
    """
    if env_id == breast_cancer.ENV_ID and backend == "native":
        return breast_cancer.make_vec(num_envs, split=split)
    env: AnyVectorEnv
    users = _find_users(env_id) if backend == "native" and ":" in env_id else None
    try:
        if backend == "native":
            options: dict[str, Any] = {"autoreset_mode": "same_step"}
            options |= {"num_threads": num_threads} if device is None else {"device": device, "copy": False}
            env = users.make_vec(num_envs, **options) if users else metafast.envs.make_vec(env_id, num_envs, **options)
        else:
            env = gymnasium.make_vec(
                env_id,
                num_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            )
    except (gymnasium.error.Error, ValueError, TypeError, ImportError) as error:
        if device is None and isinstance(error, TypeError | ImportError):
            raise
        hint = "; --backend gymnasium makes gymnasium's own environments" if backend == "native" else ""
        if device is not None:
            hint = "; --engine torch steps environments on the CPU"
        raise UsageError(f"no {backend} environment {env_id!r}: {error}{hint}") from error
    if not isinstance(env.single_observation_space, gymnasium.spaces.Box):
        raise UsageError(f"{env_id} observes {env.single_observation_space}; the trainer's networks need a Box")
    return env


def _find_users(place: str) -> metafast.envs.CompiledEnv:
    """The environment at "file.py:Name" or "package.module:Name"."""
    module_name, _, name = place.rpartition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except Exception as error:
        # Whatever the user's code raises while it is imported.
        raise UsageError(
            f"{module_name} of the environment {place!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, metafast.envs.CompiledEnv):
        known = [key for key, value in vars(module).items() if isinstance(value, metafast.envs.CompiledEnv)]
        raise UsageError(f"{module_name} has no compile_env environment {name!r}; it has: {', '.join(known) or 'none'}")
    return found


def final_observations(env: AnyVectorEnv, infos: dict[str, Any], ended: np.ndarray) -> np.ndarray:
    """The last observations of the episodes that ended in this step, one row per True in `ended`."""
    dense = getattr(env, "final_observations", None)
    return np.stack(infos["final_obs"][ended]) if dense is None else dense[ended]


def to_rows(observations: np.ndarray) -> Tensor:
    """Observations [N, ...] as float32 rows [N, size]."""
    return torch.from_numpy(observations.reshape(len(observations), -1).astype(np.float32, copy=False))
