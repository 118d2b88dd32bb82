"""What the vector environments over a batch have in common, wherever the batch lies."""

from __future__ import annotations

import copy as copy_module
from typing import Any, NoReturn

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.core import ActType, ObsType
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.vector.vector_env import ArrayType

from metafast.envs._arguments import check_attribute
from metafast.envs._environment import Environment
from metafast.envs._render import render_modes

__all__ = ["UNLIMITED", "BatchedVectorEnv", "ClosedBatch", "refuse_closed"]

# Where neither the caller nor the environment limits an episode: as far as its steps can be counted.
UNLIMITED = 2**31 - 2

_CORE_MODES = {
    AutoresetMode.NEXT_STEP: "next_step",
    AutoresetMode.SAME_STEP: "same_step",
    AutoresetMode.DISABLED: "disabled",
}


def refuse_closed(*_: object) -> NoReturn:
    raise ClosedEnvironmentError("this vector environment is closed; make a new one with metafast.envs.make_vec")


class ClosedBatch:
    """Stands where the batch was."""

    __getattr__ = refuse_closed


class BatchedVectorEnv(VectorEnv[ObsType, ActType, ArrayType]):
    """What a batch of environments is called, its spaces, and its state by name."""

    def __init__(
        self,
        environment: Environment,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode,
        max_episode_steps: int | None,
        copy: bool,
        render_mode: str | None,
        spec_kwargs: dict[str, Any],
    ) -> None:
        if max_episode_steps is None:
            max_episode_steps = UNLIMITED if environment.max_episode_steps is None else environment.max_episode_steps
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.autoreset_mode = autoreset_mode
        self.copy = copy
        self.metadata = {
            "render_modes": render_modes(environment.renderer),
            "render_fps": environment.render_fps,
            "autoreset_mode": autoreset_mode,
        }
        self.render_mode = render_mode
        self.single_observation_space = environment.single_observation_space
        self.single_action_space = environment.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        if environment.registered:
            self.spec = copy_module.deepcopy(gymnasium.spec(f"metafast/{environment.env_id}"))
            self.spec.max_episode_steps = None if max_episode_steps == UNLIMITED else max_episode_steps
            self.spec.kwargs |= spec_kwargs | {
                "num_envs": num_envs,
                "autoreset_mode": self._core_mode,
                "copy": copy,
                "vectorization_mode": "vector_entry_point",
            }
            if render_mode is not None:
                self.spec.kwargs["render_mode"] = render_mode
        self._environment = environment
        self._actions = environment.actions

    @property
    def _core_mode(self) -> str:
        return _CORE_MODES[self.autoreset_mode]

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        raise NotImplementedError

    def set_state(self, state: dict[str, npt.NDArray[Any]]) -> None:
        raise NotImplementedError

    @property
    def np_random_seed(self) -> Any:
        """The seed of each environment, a tuple of N ints."""
        return tuple(self.get_state()["seeds"].tolist())

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each environment: one that all share N times, else one entry of an array [N, ...].

        The environments' own are the keys of `get_state`, the named fields of ``state``, ``np_random_seed``,
        ``observation_space`` and
        ``action_space``; other names are looked up in the vector environment.
        """
        if name in ("state", "elapsed_steps", "ended", "seeds", "episodes", "streams"):
            return tuple(self.get_state()[name])
        if name in (self._environment.state.names or ()):
            return tuple(self.get_state()["state"][name])
        if name == "np_random_seed":
            return tuple(self.np_random_seed)
        shared = getattr(self, f"single_{name}" if name in ("observation_space", "action_space") else name)
        return (shared,) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an entry of the state of each environment: `name` is one of `get_state`'s keys or a field of ``state``.

        `values` holds one for each environment, or one for all. A name that is not in the state raises AttributeError:
        the native dynamics have no other attribute to change.
        """
        state = self.get_state()
        fields = self._environment.state.names or ()
        if name not in state and name not in fields:
            known = ", ".join([*state, *fields])
            raise AttributeError(f"the environments have no attribute {name!r} to set; there are: {known}")
        current = state[name] if name in state else state["state"][name]
        current[...] = check_attribute(name, values, current)
        self.set_state(state)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return `get_attr` of `name`: the environments have no methods of their own.

        A name that is a method raises AttributeError, since a method of the vector environment acts on all at once.
        """
        values = self.get_attr(name)
        if callable(values[0]) or args or kwargs:
            raise AttributeError(f"the environments have no method {name!r}; call it on the vector environment")
        return values

    def _records(self, state: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """The states of all environments, which come as bytes, as vectors or records."""
        layout = self._environment.state
        return state.reshape(-1).view(layout.base).reshape(self.num_envs, *layout.shape)

    def _check_ended(self, ended: npt.NDArray[Any]) -> None:
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            raise ValueError("state['ended'] must be False everywhere in same_step mode, which resets at once")
