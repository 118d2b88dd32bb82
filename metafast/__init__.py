"""Native kernels and thin trainers that make reinforcement learning and meta-learning code fast."""

import importlib
from typing import TYPE_CHECKING, Any

try:
    from metafast._core import __version__, get_num_threads, isa, set_num_threads
except ImportError as error:
    if "METAFAST_" in str(error):
        raise  # not the build, but an environment variable that it names
    raise ImportError(
        "metafast's compiled module, metafast._core, could not be imported "
        f"({error}). Build it with `pip install .` (or `pip install -e .` to work on the source) in the folder that "
        "holds metafast's pyproject.toml; a C++17 compiler is all it needs."
    ) from error

from metafast._gymnasium_hook import register_with_gymnasium
from metafast.returns import (
    discounted_returns,
    gae,
    group_advantages,
    lambda_returns,
    n_step_returns,
    q_lambda,
    retrace,
    segment_returns,
    upgo,
    vtrace,
)

if TYPE_CHECKING:
    from metafast import attention, compat, envs, nn

__all__ = [
    "__version__",
    "attention",
    "compat",
    "discounted_returns",
    "envs",
    "gae",
    "get_num_threads",
    "group_advantages",
    "isa",
    "lambda_returns",
    "n_step_returns",
    "nn",
    "q_lambda",
    "retrace",
    "segment_returns",
    "set_num_threads",
    "upgo",
    "vtrace",
]

# Rooms that import another library are loaded at first use: `import metafast` itself needs NumPy alone.
_LAZY_ROOMS = ("attention", "compat", "envs", "nn")


def __getattr__(name: str) -> Any:
    if name in _LAZY_ROOMS:
        return importlib.import_module(f"metafast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_with_gymnasium()
