"""Vectorised environments that step natively, many millions of times a second, behind gymnasium's ``VectorEnv``.

`make_vec` makes gymnasium's classic control and, for meta-learning, these task distributions. Each episode of theirs is
one task, whose rules are drawn anew. It terminates when its budget of steps is used up; nothing truncates it unless
``max_episode_steps`` does. The arguments with their defaults:

Bandit-v0 (arms=10, pulls=100, meta_observation=False)
    Bernoulli bandits: the chance of reward 1 of each arm is uniform on [0, 1). There is nothing to observe, so that the
    observation is 0. Each pull is an inner episode. Source: Duan et al. (2016), "RL^2: Fast Reinforcement Learning via
    Slow Reinforcement Learning", section 3.1.
TabularMDP-v0 (states=10, actions=5, horizon=10, episodes=10, meta_observation=False)
    Markov decision processes: for each state and action the mean reward is Normal(1, 1) and the distribution of the
    next state uniform over the simplex (a flat Dirichlet); the reward is Normal(mean, 1). Inner episodes of `horizon`
    steps begin in state 0. The state is observed one-hot. Source: the same, section 3.2.
CartPoleTasks-v0 (episodes=1, inner_steps=500, gravity=(7, 13), cart_mass=(0.5, 2), pole_mass=(0.05, 0.2), \
pole_half_length=(0.25, 1), force=(5, 15), meta_observation=False)
    CartPole-v1 with each quantity uniform in its range, or fixed where a number stands for the range; CartPole-v1's own
    are 9.8, 1, 0.1, 0.5 and 10. Each inner episode ends with a fall or after `inner_steps`; each step pays 1.
PendulumTasks-v0 (episodes=1, inner_steps=200, gravity=(7, 13), mass=(0.7, 1.3), length=(0.7, 1.3), \
max_torque=(1.5, 2.5), meta_observation=False)
    Pendulum-v1 in the same way; its own are 10, 1, 1 and 2. The action space holds the torques that some task may
    allow, and each task clips them to its own limit.
LearnerTasks-v0 (problem="regression", action="learning_rate", features=5, examples=20, steps=50, noise=0.1, \
ridge=5e-4, feature_scales=(0.5, 2), split="train")
    A learner is the environment, the action its update, the reward the fall in its log loss. ``"regression"``: half the
    mean square error on targets w . x + `noise` * Normal(0, 1); ``"classification"``: logistic regression on the signs
    of such targets; `ridge` / 2 times the square of the parameters is added. w and the first parameters are standard
    normal, feature d is normal with a scale that is log-uniform in `feature_scales`. ``"learning_rate"``: parameters -=
    10^action * gradient, with actions in [-4, 1]. ``"coefficients"``: parameters -= action[0] * gradient + action[1] *
    momentum + action[2] * gradient / |gradient|, with actions in [-1, 1]; the momentum, at first 0, becomes 0.9 *
    momentum + 0.1 * gradient before it is used. Actions outside are clipped, parameters kept within [-100, 100], and
    logarithms taken of 1e-12 at least: nothing becomes infinite. The observation: log loss; its last five changes, the
    latest first; log of the gradient's norm; cosines of the gradient's angles to the gradient before and to the
    momentum; the share of the steps that are done. ``split="test"`` draws from another part of each seed's stream:
    problems that training has not seen. Source: Li and Malik (2017), "Learning to Optimize".

``meta_observation=True`` puts behind the observation what RL^2 takes in (section 2.2): the previous action (one-hot
where it is discrete), the previous reward, and 1 where the previous step ended an inner episode; all 0 at a task's
start. An inner episode that ends before its task is followed by the first observation of the next one.
"""

# Whole, before any of its parts: these import one another in a circle, which another thread that is importing gymnasium
# at this moment may have half completed.
import gymnasium as gymnasium  # isort: split

from metafast._gymnasium_hook import register_envs
from metafast.envs._make import make_vec
from metafast.envs._rollout import Rollout, rollout
from metafast.envs._single_env import NativeEnv, make
from metafast.envs._transitions import Transitions, transitions
from metafast.envs._vector_env import NativeVectorEnv
from metafast.envs.checker import VectorEnvError, VectorEnvReport, check_vector_env
from metafast.envs.compiled import CompiledEnv, compile_env

__all__ = [
    "CompiledEnv",
    "NativeEnv",
    "NativeVectorEnv",
    "Rollout",
    "Transitions",
    "VectorEnvError",
    "VectorEnvReport",
    "check_vector_env",
    "compile_env",
    "make",
    "make_vec",
    "register_envs",
    "rollout",
    "transitions",
]

register_envs()
