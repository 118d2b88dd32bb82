"""One environment by itself, behind gymnasium's ``Env``: a batch of one."""

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from metafast.envs._batched_env import UNLIMITED
from metafast.envs._make import make_vec
from metafast.envs._vector_env import NativeVectorEnv

__all__ = ["NativeEnv", "make", "make_without_limit"]

_OF_BATCHES = ("num_envs", "num_threads", "autoreset_mode", "copy", "device")


class NativeEnv(gymnasium.Env[Any, Any]):
    """One native environment; made by `metafast.envs.make`.

    It is environment 0 of a vector environment that was reset with the same seed.

    Attributes
    ----------
    vector_env : NativeVectorEnv
        The batch of one, in disabled mode.
    """

    def __init__(self, vector_env: NativeVectorEnv) -> None:
        self.vector_env = vector_env
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.metadata = {name: vector_env.metadata[name] for name in ("render_modes", "render_fps")}
        self.render_mode = vector_env.render_mode
        self._seeded = False
        self._over = False

    @property
    def np_random(self) -> np.random.Generator:
        """A generator seeded as gymnasium does it; the seed of a first reset that is given none is drawn from it."""
        return super().np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self._np_random, self._np_random_seed = value, -1
        self._seeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode.

        Parameters
        ----------
        seed : int, optional
            Starts the stream of this seed; without one the stream goes on.
        options : dict, optional
            None or empty.

        Returns
        -------
        observation, info
            An element of `observation_space`, and an empty dict.

        Raises
        ------
        ValueError
            The seed is negative or does not fit 64 bits, or there are options.
        TypeError
            The seed is no int.
        """
        if options:
            raise ValueError(f"options must be None or empty: there are none; it is {options!r}")
        native_seed: Any = seed
        if seed is None and not self._seeded:
            native_seed = int(self.np_random.integers(2**63))
        observations, infos = self.vector_env.reset(seed=native_seed)
        super().reset(seed=seed)
        self._seeded, self._over = True, False
        return observations[0], infos

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Returns
        -------
        observation, reward, terminated, truncated, info
            An element of `observation_space`, a float, two bools and an empty dict.

        Raises
        ------
        ValueError
            `action` is none of `action_space`'s, or no finite number.
        gymnasium.error.ResetNeeded
            `reset` was never called, or not since the episode ended.
        """
        if self._over:
            raise ResetNeeded("the episode is over: call reset before step")
        actions = None if action is None else np.asarray(action)[None]
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        ended, cut = bool(terminated[0]), bool(truncated[0])
        self._over = ended or cut
        return observations[0], float(rewards[0]), ended, cut, infos

    def render(self) -> Any:
        """Return a frame, uint8 [height, width, 3]."""
        return self.vector_env.render()[0]

    def get_state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as `NativeVectorEnv.get_state` does, for one environment."""
        return self.vector_env.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `get_state` returned."""
        self.vector_env.set_state(state)
        self._seeded, self._over = True, bool(state["ended"][0])

    def close(self) -> None:
        """Let go of the environment; later steps raise gymnasium.error.ClosedEnvironmentError."""
        self.vector_env.close()


def make(env_id: str, *, max_episode_steps: int | None = None, **env_kwargs: Any) -> NativeEnv:
    """Make one environment, as gymnasium's ``make`` does, with no wrapper around it.

    Parameters
    ----------
    env_id : str
        An id of `metafast.envs.make_vec`. ``gymnasium.make("metafast/<env_id>")`` makes the same environment in
        gymnasium's wrappers, among them a ``TimeLimit`` in place of the environment's own.
    max_episode_steps : int, optional
        The step at which an episode is truncated; gymnasium's limit for this id where it is None.
    **env_kwargs
        The environment's own arguments, ``render_mode`` among them.

    Returns
    -------
    NativeEnv
        A ``gymnasium.Env``.

    Raises
    ------
    ValueError
        If the id is unknown, or an argument out of its range.
    TypeError
        If an argument is of the wrong type or the environment has no such argument.

    Examples
    --------
    >>> import metafast
    >>> env = metafast.envs.make("CartPole-v1")
    >>> observation, info = env.reset(seed=7)
    >>> observation.shape
    (4,)
    >>> observation, reward, terminated, truncated, info = env.step(1)
    >>> reward, terminated, truncated
    (1.0, False, False)
    """
    for name in _OF_BATCHES:
        if name in env_kwargs:
            raise TypeError(f"{env_id} by itself has no argument {name!r}, which is metafast.envs.make_vec's")
    vector_env = make_vec(
        env_id, 1, num_threads=1, autoreset_mode="disabled", max_episode_steps=max_episode_steps, **env_kwargs
    )
    env = NativeEnv(vector_env)
    if vector_env.spec is not None:
        env.spec = copy.deepcopy(gymnasium.spec(f"metafast/{env_id}"))
        env.spec.kwargs = {**env.spec.kwargs, **env_kwargs}
        env.spec.max_episode_steps = vector_env.spec.max_episode_steps
    return env


def make_without_limit(env_id: str, **env_kwargs: Any) -> NativeEnv:
    """Make one environment for ``gymnasium.make``, whose ``TimeLimit`` limits its episodes."""
    return make(env_id, max_episode_steps=UNLIMITED, **env_kwargs)
