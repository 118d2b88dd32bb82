"""Other libraries' own names over metafast's kernels: switching is one changed import.

Each module has the names, the order of arguments, the defaults and the results of the library it is named after, and
is tested against that library's own functions. What is needed to import one is what its types come from: torch for
`torchrl`, JAX for `rlax`, Stable-Baselines3 for `sb3`, nothing for `cleanrl` and `tianshou`.

CleanRL's scripts have the loop in line; two lines take its place::

    from metafast.compat.cleanrl import compute_gae
    advantages, returns = compute_gae(rewards, values, dones, next_value, next_done, args.gamma, args.gae_lambda)

Stable-Baselines3, an existing model, and its environments::

    from metafast.compat.sb3 import make_vec_env, use_metafast_gae
    model = use_metafast_gae(PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=64)))

torchrl::

    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate  # before
    from metafast.compat.torchrl import vec_generalized_advantage_estimate  # after

tianshou, which calls its functions itself and is therefore given ours::

    from metafast.compat import tianshou
    algorithm.compute_episodic_return = tianshou.compute_episodic_return  # PPO, A2C, ...
    algorithm.compute_nstep_return = tianshou.compute_nstep_return  # DQN, SAC, ...

rlax, under ``jax.jit``, ``jax.vmap`` and ``jax.grad`` as before::

    import rlax  # before
    from metafast.compat import rlax  # after

In one thing these functions are not the others': what lies behind an episode's end is selected away and never
multiplied by zero, so a NaN there stays there.

Examples
--------
>>> import numpy as np
>>> from metafast.compat import cleanrl
>>> rewards, values = np.array([[1.0], [2.0], [3.0]]), np.array([[0.5], [0.25], [0.125]])
>>> dones = np.array([[0.0], [0.0], [1.0]])  # the second step ended an episode: the third begins one
>>> advantages, returns = cleanrl.compute_gae(rewards, values, dones, np.array([2.0]), np.array([0.0]), 0.5, 0.5)
>>> advantages.ravel()
array([1.0625, 1.75  , 3.875 ])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metafast.compat import cleanrl, rlax, sb3, tianshou, torchrl

__all__ = ["cleanrl", "rlax", "sb3", "tianshou", "torchrl"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"metafast.compat.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
