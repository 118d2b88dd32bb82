"""Environments that a user writes in Python for one environment, and Numba compiles for many."""

from metafast.envs.compiled._decorator import compile_env
from metafast.envs.compiled._definition import CompiledEnv

__all__ = ["CompiledEnv", "compile_env"]
