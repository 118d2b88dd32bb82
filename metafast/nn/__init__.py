"""Small actor-critic networks whose acting and learning run natively, on parameters that stay torch's own.

`ActorCritic` is a torch module like any other. `metafast.envs.rollout` lets it act in a native environment, and
`ppo_update`, `a2c_update`, `reinforce_update` and `clone_update` let it learn, in kernels that read and write its
parameters in place; on a CUDA device in torch, under CUDA graphs. `Adam` is their optimiser. The losses in torch, for
loops of your own, are in `metafast.nn.objectives`.
"""

from metafast.nn._actor_critic import ActorCritic
from metafast.nn._cloning import Demonstrations, clone_update
from metafast.nn._distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution, make_distribution
from metafast.nn._normalization import ReturnNormalizer
from metafast.nn._optimizer import Adam
from metafast.nn._policy_gradient import a2c_update, ppo_update, reinforce_update

__all__ = [
    "ActorCritic",
    "Adam",
    "Bernoulli",
    "Categorical",
    "Demonstrations",
    "DiagonalGaussian",
    "Distribution",
    "ReturnNormalizer",
    "a2c_update",
    "clone_update",
    "make_distribution",
    "ppo_update",
    "reinforce_update",
]
