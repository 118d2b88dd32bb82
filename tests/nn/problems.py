"""Policies with parameters of some size, and experience for them that no environment made."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import metafast
from metafast.envs import Rollout

NUM_OBSERVED = 3
# A head's space, and what ActorCritic is told beside it.
HEADS = {
    "discrete": (Discrete(4, start=-1), {}),
    "two_choices": (Discrete(2), {}),
    "bernoulli_of_two": (Discrete(2), {"policy": "bernoulli"}),
    "multi_discrete": (MultiDiscrete([3, 2, 4]), {}),
    "table": (MultiDiscrete([[3, 2], [1, 5]]), {}),
    "multi_binary": (MultiBinary(3), {}),
    "gaussian": (Box(-1, 1, (2,)), {}),
    "squashed": (Box(-1, 1, (2,)), {"squash": True}),
}


def observation_space(size=NUM_OBSERVED):
    return Box(-np.inf, np.inf, (size,))


def make_policy(head="discrete", *, dtype=torch.float64, seed=0, size=NUM_OBSERVED, spread=0.3, **options):
    """An ActorCritic whose outputs differ visibly between observations."""
    space, more = HEADS[head]
    torch.manual_seed(seed)
    return scatter(metafast.nn.ActorCritic(observation_space(size), space, **more, **options).to(dtype), spread)


def scatter(policy, spread=0.3):
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += spread * torch.randn_like(parameter)
    return policy


def numpy_dtype(policy):
    return np.dtype(str(policy.dtype).removeprefix("torch."))


def answers(policy, rollout):
    """The outputs [T, N, n] and values [T, N] of the torch module."""
    observations = torch.from_numpy(rollout.observations[:-1])
    if policy.recurrent:
        return policy(observations, torch.from_numpy(rollout.initial_hidden), torch.from_numpy(rollout.starts))[:2]
    outputs, values = policy(observations.flatten(0, 1))
    return outputs.view(*observations.shape[:2], -1), values.view(observations.shape[:2])


def make_rollout(policy, num_steps=7, num_envs=5, *, seed=1, end_rate=0.2, with_mask=False, difference=0.3):
    """Experience whose log-probabilities and values differ from the policy's by Gaussians of width `difference`."""
    rng = np.random.default_rng(seed)
    dtype = numpy_dtype(policy)
    shape = num_steps, num_envs
    observations = rng.normal(size=(num_steps + 1, num_envs, policy.observation_size)).astype(dtype)
    terminated, truncated = rng.random((2, *shape)) < end_rate / 2
    starts = rng.random(shape) < end_rate
    starts[1:] |= (terminated | truncated)[:-1]
    hidden = rng.normal(size=(num_envs, policy.hidden_size)).astype(dtype) if policy.recurrent else None
    mask = None
    if with_mask:
        mask = rng.random(shape) < 0.7
        mask[-1, 0] = True
        terminated, truncated = terminated & mask, truncated & mask
    nothing = np.zeros(shape, dtype)
    rollout = Rollout(
        observations=observations,
        actions=nothing,
        log_probs=nothing,
        rewards=rng.normal(size=shape).astype(dtype),
        terminated=terminated,
        truncated=truncated,
        values=nothing,
        final_values=np.where(truncated, rng.normal(size=shape), 0).astype(dtype),
        final_observations=observations[1:].copy(),
        starts=starts,
        mask=mask,
        initial_hidden=hidden,
        hidden=hidden,
    )
    distribution = policy.distribution
    with torch.no_grad():
        outputs, values = answers(policy, rollout)
        actions = distribution.sample(outputs, distribution.noise(seed, *shape))
        log_probs = distribution.log_prob(outputs, actions).numpy()
    rollout.actions = actions.numpy()
    rollout.log_probs = (log_probs + difference * rng.normal(size=shape)).astype(dtype)
    noisy = values.numpy() + difference * rng.normal(size=shape)
    rollout.values = np.concatenate([noisy, rng.normal(size=(1, num_envs))]).astype(dtype)
    return rollout


def targets(rollout, seed=2):
    """Advantages and returns, [T, N] each."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(0.3, 1.0, (2, *rollout.rewards.shape)).astype(rollout.rewards.dtype))


def gradient_taken(policy, update, *arguments, **options):
    """Run an update that subtracts the gradient from the parameters; return it, and what the update returned."""
    optimizer = metafast.nn.Adam(policy, lr=1.0, plain=True)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    figures = update(policy, optimizer, *arguments, **options)
    gradients = [old - new.detach() for old, new in zip(before, policy.parameters(), strict=True)]
    with torch.no_grad():
        for parameter, old in zip(policy.parameters(), before, strict=True):
            parameter.copy_(old)
    return gradients, figures


def assert_gradient(policy, gradients, loss, tolerance=1e-9):
    """Of every parameter the gradient is autograd's, to `tolerance` of the whole gradient's length."""
    expected = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    expected = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(policy.parameters(), expected, strict=True)
    ]
    scale = 1 + torch.sqrt(sum(gradient.square().sum() for gradient in expected))
    for (name, _), mine, theirs in zip(policy.named_parameters(), gradients, expected, strict=True):
        error = float((mine - theirs).abs().max() / scale)
        assert error < tolerance, f"{name}: {error}"
