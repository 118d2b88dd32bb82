"""Every environment id that metafast has, with the function that settles its keyword arguments."""

from collections.abc import Callable

from metafast.envs import _classic_control, _tasks
from metafast.envs._environment import Environment

__all__ = ["CATALOGUE"]

# The signature of a builder is the list of keyword arguments that its environment takes.
CATALOGUE: dict[str, Callable[..., Environment]] = {**_classic_control.BUILDERS, **_tasks.BUILDERS}
