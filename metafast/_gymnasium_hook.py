"""Registers the environments with gymnasium, in whichever order the two packages are imported.

Gymnasium 1.x reads no entry points, and importing it with metafast would make every ``import metafast`` wait for it.
So where gymnasium is not there yet, its import is followed by the registration. That needs nothing of
``metafast.envs``, which imports gymnasium itself and which another thread may be importing at that moment.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

__all__ = ["REGISTERED", "Registered", "register_envs", "register_with_gymnasium"]


class Registered(NamedTuple):
    """What gymnasium's registry says of an environment, with gymnasium's own limits."""

    max_episode_steps: int | None
    reward_threshold: float | None


REGISTERED = {
    "Acrobot-v1": Registered(500, -100.0),
    "CartPole-v1": Registered(500, 475.0),
    "MountainCar-v0": Registered(200, -110.0),
    "MountainCarContinuous-v0": Registered(999, 90.0),
    "Pendulum-v1": Registered(200, None),
    "Bandit-v0": Registered(None, None),
    "CartPoleTasks-v0": Registered(None, None),
    "LearnerTasks-v0": Registered(None, None),
    "PendulumTasks-v0": Registered(None, None),
    "TabularMDP-v0": Registered(None, None),
}


def register_envs() -> None:
    """Register every environment of metafast with gymnasium, under ``metafast/<its id>``.

    Importing metafast and gymnasium, in either order, does it. Gymnasium 1.x reads no entry points, so a program that
    imports nothing of metafast names the module in the id:
    ``gymnasium.make_vec("metafast.envs:metafast/CartPole-v1", num_envs=1024)``.
    Registering twice does nothing.

    Examples
    --------
    >>> import gymnasium
    >>> gymnasium.make_vec("metafast.envs:metafast/CartPole-v1", num_envs=3)
    NativeVectorEnv(metafast/CartPole-v1, num_envs=3)
    """
    import gymnasium

    for env_id, (max_episode_steps, reward_threshold) in REGISTERED.items():
        if f"metafast/{env_id}" not in gymnasium.registry:
            gymnasium.register(
                f"metafast/{env_id}",
                entry_point="metafast.envs._single_env:make_without_limit",
                vector_entry_point="metafast.envs:make_vec",
                max_episode_steps=max_episode_steps,
                reward_threshold=reward_threshold,
                kwargs={"env_id": env_id},
            )


class _AfterGymnasium(importlib.abc.MetaPathFinder):
    """Stands first among the finders until gymnasium has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            register_envs()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_gymnasium() -> None:
    """Register the environments now, or as soon as gymnasium is imported."""
    if "gymnasium" in sys.modules:
        register_envs()
    else:
        sys.meta_path.insert(0, _AfterGymnasium())
