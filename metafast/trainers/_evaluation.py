"""Judging a policy by fresh episodes, and the words and options that go with it."""

import argparse
from typing import Any

import numpy as np
import torch

from metafast.trainers._environments import AnyVectorEnv, to_rows
from metafast.trainers._learner import Learner


@torch.no_grad()
def play(env: AnyVectorEnv, learner: Learner, seed: int, greedy: bool = False) -> np.ndarray:
    """Returns of one episode in each environment: none is chosen for being short."""
    generator = torch.Generator().manual_seed(seed)
    observations, _ = env.reset(seed=seed)
    returns, unfinished = np.zeros(env.num_envs), np.ones(env.num_envs, dtype=bool)
    while unfinished.any():
        noise = learner.distribution.noise((env.num_envs,), generator).to(learner.device)
        outputs = learner.policy.act(to_rows(observations).to(learner.device))
        actions = learner.distribution.sample(outputs, torch.zeros_like(noise) if greedy else noise).cpu()
        observations, rewards, terminated, truncated, _ = env.step(learner.distribution.to_environment(actions.numpy()))
        returns[unfinished] += rewards[unfinished]
        unfinished &= ~(terminated | truncated)
    return returns


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `metafast evaluate`: what `evaluate` takes beside the directory."""
    parser.add_argument("--episodes", type=int, default=100, help="episodes, one environment each (default 100)")
    parser.add_argument("--backend", choices=("native", "gymnasium"), help="default: the one trained with")
    parser.add_argument("--greedy", action="store_true", help="take the most probable action instead of sampling")
    parser.add_argument("--seed", type=int, default=0, help="of environments and sampling (default 0)")


def describe(result: dict[str, Any]) -> str:
    """Say in words what `evaluate` returned."""
    return (
        f"{result['env_id']} ({result['backend']}), {result['episodes']} episodes: "
        f"mean return {result['mean_return']:.2f}, standard deviation {result['std_return']:.2f}, "
        f"from {result['min_return']:.1f} to {result['max_return']:.1f}"
    )
