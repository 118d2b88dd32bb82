"""gymnasium's vector environments, ours and anybody's, as the VecEnv that Stable-Baselines3 trains on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from metafast.envs import make_vec

__all__ = ["VectorEnvAdapter", "make_vec_env"]


class VectorEnvAdapter(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` in same_step mode, as a Stable-Baselines3 ``VecEnv``.

    Parameters
    ----------
    env : gymnasium.vector.VectorEnv
        Such as ``metafast.envs.make_vec("CartPole-v1", 64, autoreset_mode="same_step")``; gymnasium's own will do too.

    Raises
    ------
    TypeError
        `env` is no vector environment.
    ValueError
        It resets in another mode than same_step, or returns the same arrays at every step (``copy=False``).

    Notes
    -----
    The infos of a step are dicts for each environment: ``TimeLimit.truncated`` always, ``terminal_observation`` where
    an episode ended, and what the environment itself tells. Wrap it in ``VecMonitor`` for the training log's episode
    statistics, as `make_vec_env` does.

    Examples
    --------
    >>> import metafast
    >>> env = VectorEnvAdapter(metafast.envs.make_vec("CartPole-v1", 2, autoreset_mode="same_step"))
    >>> seeds = env.seed(7)
    >>> env.reset().shape
    (2, 4)
    >>> observations, rewards, dones, infos = env.step([0, 1])
    >>> dones, infos[0]
    (array([False, False]), {'TimeLimit.truncated': False})
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"env must be a gymnasium.vector.VectorEnv, not {type(env).__name__}")
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                f"env must reset in the step that ends an episode, as Stable-Baselines3 expects: make it with "
                f"autoreset_mode='same_step' (its mode is {getattr(mode, 'value', mode)})"
            )
        if not getattr(env.unwrapped, "copy", True):
            raise ValueError("env must return fresh arrays, which Stable-Baselines3 keeps: make it with copy=True")
        self.env: Any = env
        self.actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata

    @property
    def spec(self) -> Any:
        """gymnasium's specification of the environment, which the monitors write down."""
        return self.env.spec

    def reset(self) -> Any:
        """Begin a new episode in every environment; the seeds and options that were set are used once."""
        options = self._options[0]
        if any(each != options for each in self._options):
            raise ValueError("the environments are reset together, so they take the same options")
        seeds = None if all(seed is None for seed in self._seeds) else list(self._seeds)
        observations, infos = self.env.reset(seed=seeds, options=options or None)
        self.reset_infos = _infos_of(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Any) -> None:
        """Keep the actions for `step_wait`, which takes the step."""
        self.actions = actions

    def step_wait(self) -> Any:
        """Step every environment with the actions given before."""
        observations, rewards, terminated, truncated, infos = self.env.step(self.actions)
        dones = terminated | truncated
        step_infos = _infos_of(infos, self.num_envs)
        ended = np.flatnonzero(dones).tolist()
        if ended:
            final_infos = _infos_of(infos.get("final_info", {}), self.num_envs)
            for index in ended:
                # final_info is what the step told; the rest belongs to the reset that followed it.
                self.reset_infos[index], step_infos[index] = step_infos[index], final_infos[index]
                step_infos[index]["terminal_observation"] = infos["final_obs"][index]
        for info, time_limit in zip(step_infos, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = time_limit
        return observations, np.asarray(rewards, np.float32), dones, step_infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each environment, or of those in `indices`."""
        values = self._values(attr_name)
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment, or of those in `indices`, to the same value."""
        chosen = set(self._get_indices(indices))
        if chosen == set(range(self.num_envs)):
            values = [value] * self.num_envs
        else:
            values = [value if index in chosen else old for index, old in enumerate(self._values(attr_name))]
        self.env.unwrapped.set_attr(attr_name, values)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of each environment, or of those in `indices`.

        Raises ValueError for a part of the environments where gymnasium calls all of them or none, in
        ``AsyncVectorEnv``.
        """
        chosen = list(self._get_indices(indices))
        if chosen == list(range(self.num_envs)):
            return list(self.env.unwrapped.call(method_name, *method_args, **method_kwargs))
        envs = getattr(self.env.unwrapped, "envs", None)
        if envs is None:
            raise ValueError(
                f"indices must be None: {type(self.env.unwrapped).__name__} calls a method of all environments or of "
                f"none, and these are {chosen} of {self.num_envs}"
            )
        return [envs[index].get_wrapper_attr(method_name)(*method_args, **method_kwargs) for index in chosen]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Tell of each environment whether it is wrapped; native environments never are."""
        envs = getattr(self.env.unwrapped, "envs", None)
        return [envs is not None and is_wrapped(envs[index], wrapper_class) for index in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture of each environment, where it draws any."""
        return list(self.env.render()) if self.render_mode == "rgb_array" else [None] * self.num_envs

    def _values(self, name: str) -> Sequence[Any]:
        # gymnasium's wrappers pass attributes on to nobody, and its base class has no get_attr.
        if hasattr(self.env.unwrapped, "get_attr"):
            values: Sequence[Any] = self.env.unwrapped.get_attr(name)
            return values
        return [getattr(self.env, name)] * self.num_envs

    def _get_indices(self, indices: Any) -> Iterable[int]:
        return [range(self.num_envs)[index] for index in super()._get_indices(indices)]


def _infos_of(infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Turn gymnasium's infos, arrays over the environments beside masks ``_name``, into a dict for each environment."""
    split: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        mask = infos.get(f"_{name}")
        if mask is None or name in ("final_obs", "final_info"):
            continue
        each = _infos_of(values, num_envs) if isinstance(values, Mapping) else values
        for index in np.flatnonzero(mask).tolist():
            split[index][name] = each[index]
    return split


def make_vec_env(
    env_id: str,
    n_envs: int = 1,
    seed: int | None = None,
    start_index: int = 0,
    monitor_dir: str | None = None,
    wrapper_class: None = None,
    env_kwargs: dict[str, Any] | None = None,
    vec_env_cls: None = None,
    vec_env_kwargs: dict[str, Any] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
) -> VecMonitor:
    """Make native environments for Stable-Baselines3, monitored, as its function of this name does.

    Parameters
    ----------
    env_id : str
        An id of :func:`metafast.envs.make_vec`.
    n_envs : int
        How many environments.
    seed : int, optional
        Environment i is seeded with ``seed + i`` at the first reset; at random where it is None.
    start_index : int
        Number of the first environment, in the name of the monitor's file.
    monitor_dir : str, optional
        Folder for ``<start_index>.monitor.csv``, with the episodes of all environments.
    wrapper_class, vec_env_cls, wrapper_kwargs
        Only None: native environments are no Python objects that could be wrapped one by one. Wrap the result, in
        ``VecNormalize``, ``VecFrameStack`` and the like.
    env_kwargs, vec_env_kwargs : dict, optional
        Further arguments of :func:`metafast.envs.make_vec`.
    monitor_kwargs : dict, optional
        Arguments of ``VecMonitor``: ``info_keywords``.

    Returns
    -------
    VecMonitor
        Around a `VectorEnvAdapter`.

    Raises
    ------
    ValueError
        `env_id` is unknown, or one of the arguments that can only be None is not.

    Examples
    --------
    >>> env = make_vec_env("CartPole-v1", n_envs=8, seed=1)
    >>> env.reset().shape
    (8, 4)
    """
    for name, value in (
        ("wrapper_class", wrapper_class),
        ("vec_env_cls", vec_env_cls),
        ("wrapper_kwargs", wrapper_kwargs),
    ):
        if value:
            raise ValueError(
                f"{name} must be None, since native environments are not wrapped one by one; wrap the result"
            )
    arguments = {**(env_kwargs or {}), **(vec_env_kwargs or {})}
    env = VectorEnvAdapter(make_vec(env_id, n_envs, autoreset_mode="same_step", **arguments))
    env.seed(seed)
    filename = None
    if monitor_dir is not None:
        os.makedirs(monitor_dir, exist_ok=True)
        filename = os.path.join(monitor_dir, str(start_index))
    return VecMonitor(env, filename=filename, **(monitor_kwargs or {}))
