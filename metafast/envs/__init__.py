"""Vectorised environments that step natively, many millions of times a second, behind gymnasium's ``VectorEnv``."""

# Whole, before any of its parts: these import one another in a circle, which another thread that is importing gymnasium
# at this moment may have half completed.
import gymnasium as gymnasium  # isort: split

from metafast._gymnasium_hook import register_envs
from metafast.envs._make import make_vec
from metafast.envs._single_env import NativeEnv, make
from metafast.envs._transitions import Transitions, transitions
from metafast.envs._vector_env import NativeVectorEnv
from metafast.envs.checker import VectorEnvError, VectorEnvReport, check_vector_env
from metafast.envs.compiled import CompiledEnv, compile_env

__all__ = [
    "CompiledEnv",
    "NativeEnv",
    "NativeVectorEnv",
    "Transitions",
    "VectorEnvError",
    "VectorEnvReport",
    "check_vector_env",
    "compile_env",
    "make",
    "make_vec",
    "register_envs",
    "transitions",
]

register_envs()
