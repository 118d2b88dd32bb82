"""The vector-environment checker that gymnasium lacks: what is wrong with anybody's ``gymnasium.vector.VectorEnv``."""

from metafast.envs.checker._check import check_vector_env
from metafast.envs.checker._report import Finding, VectorEnvError, VectorEnvReport

__all__ = ["Finding", "VectorEnvError", "VectorEnvReport", "check_vector_env"]
