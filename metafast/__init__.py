"""Native kernels and thin trainers that make reinforcement learning and meta-learning code fast."""

try:
    from metafast import _core
except ImportError as error:
    raise ImportError(
        "metafast's compiled module, metafast._core, could not be imported "
        f"({error}). Build it with `pip install .` (or `pip install -e .` to work on the source) in the folder that "
        "holds metafast's pyproject.toml; a C++17 compiler is all it needs."
    ) from error

from metafast._core import __version__, get_num_threads, isa, set_num_threads

__all__ = ["__version__", "get_num_threads", "isa", "set_num_threads"]
