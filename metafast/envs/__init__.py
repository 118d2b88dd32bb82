"""Vectorised environments that step natively, many millions of times a second, behind gymnasium's ``VectorEnv``."""

from metafast.envs._make import make_vec
from metafast.envs._vector_env import NativeVectorEnv
from metafast.envs.registration import register_envs

__all__ = ["NativeVectorEnv", "make_vec", "register_envs"]

register_envs()
