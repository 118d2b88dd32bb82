"""Online TD(lambda) actor-critic with accumulating eligibility traces (Sutton and Barto 2018, section 13.5)."""

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from metafast.trainers import _environments
from metafast.trainers._environments import AnyVectorEnv, to_rows
from metafast.trainers._learner import Learner


class Options(Protocol):
    """The options that TD(lambda) reads."""

    num_steps: int
    gamma: float
    lam: float
    value_coef: float
    entropy_coef: float
    reward_scale: float
    max_grad_norm: float
    optimizer: Literal["adam", "sgd"]


def trace_gradients(config: Options, learner: Learner, observations: Tensor, actions: Tensor) -> Tensor:
    """Each environment's gradient [N, parameters] of log pi(a|s) + 2 value_coef V(s).

    With one lambda for actor and critic their traces are one trace; the factor 2 is that of the squared error's
    gradient, so that value_coef means the same as in `compute_loss`.
    """

    def objective(parameters: dict[str, Tensor], observation: Tensor, action: Tensor) -> Tensor:
        outputs, value = functional_call(learner.policy, parameters, (observation[None],))
        weighted: Tensor = learner.distribution.log_prob(outputs, action[None]) + 2 * config.value_coef * value
        return weighted[0]

    parameters = {name: parameter.detach() for name, parameter in learner.policy.named_parameters()}
    gradients = vmap(grad(objective), in_dims=(None, 0, 0))(parameters, observations, actions)
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], 1)


def trace_update(traces: Tensor, gradients: Tensor, decay: float, td_errors: Tensor, ended: Tensor) -> Tensor:
    """Accumulate `traces` in place, z <- gamma lambda z + gradient, and return delta z [N, parameters].

    The backward view: summed over an episode at fixed weights this equals the sum of (G^lambda - V(s)) gradient.
    """
    traces.mul_(decay).add_(gradients)
    increments = td_errors[:, None] * traces
    traces[ended] = 0.0
    return increments


def learn_online(
    config: Options, learner: Learner, env: AnyVectorEnv, observations: np.ndarray, traces: Tensor, learning_rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`num_steps` of TD(lambda), an update after each; return rewards and ends [T, N], and what is observed next."""
    history = []
    key = learner.policy.draw_key(learner.generator)
    noise = learner.distribution.noise(key, config.num_steps, env.num_envs).to(learner.device)
    for step in range(config.num_steps):
        rows = to_rows(observations).to(learner.device)
        with torch.no_grad():
            outputs, values = learner.policy(rows)
            actions = learner.distribution.sample(outputs, noise[step])
        gradients = trace_gradients(config, learner, rows, actions)
        observations, rewards, terminated, truncated, infos = env.step(
            learner.distribution.to_environment(actions.cpu().numpy())
        )
        ended = terminated | truncated
        successors = to_rows(observations).clone()
        if ended.any():
            successors[torch.from_numpy(ended)] = to_rows(_environments.final_observations(env, infos, ended))
        with torch.no_grad():
            next_values = learner.policy(successors.to(learner.device))[1]
        scaled = torch.from_numpy(rewards).float().to(learner.device) * config.reward_scale
        alive = torch.from_numpy(~terminated).to(learner.device)
        td_errors = scaled + config.gamma * next_values * alive - values
        increments = trace_update(
            traces, gradients, config.gamma * config.lam, td_errors, torch.from_numpy(ended).to(learner.device)
        )
        if config.entropy_coef:
            entropy = learner.distribution.entropy(learner.policy(rows)[0]).mean()
            (-config.entropy_coef * entropy).backward()
        learner.gradient -= increments.mean(0)
        learner.step(learning_rate, config.max_grad_norm, config.optimizer)
        history.append((rewards, ended))
    return *map(np.stack, zip(*history, strict=True)), observations  # type: ignore[return-value]
