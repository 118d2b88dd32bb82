"""Stable-Baselines3 on metafast: its rollout buffers on the kernel, and vector environments as its ``VecEnv``.

In an existing script, one line for each::

    model = use_metafast_gae(PPO("MlpPolicy", env))  # advantages by the kernel
    env = make_vec_env("CartPole-v1", n_envs=64)  # instead of stable_baselines3.common.env_util's

or, at construction, ``PPO("MlpPolicy", env, rollout_buffer_class=RolloutBuffer)``.
"""

try:
    import stable_baselines3  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"metafast.compat.sb3 could not import Stable-Baselines3 ({error}): `pip install stable-baselines3`"
    ) from error

from metafast.compat.sb3._rollout_buffers import DictRolloutBuffer, RolloutBuffer, use_metafast_gae
from metafast.compat.sb3._vec_env import VectorEnvAdapter, make_vec_env

__all__ = [
    "DictRolloutBuffer",
    "RolloutBuffer",
    "VectorEnvAdapter",
    "make_vec_env",
    "use_metafast_gae",
]
