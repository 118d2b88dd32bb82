"""What the environment tests share."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260729)


@pytest.fixture
def random_rollout():
    """Run a random policy; return everything that came back, one array each over time."""

    def run(env, num_steps, seed=3):
        actions = np.random.default_rng(seed).integers(0, 2, (num_steps, env.num_envs))
        steps = [env.step(row) for row in actions]
        return tuple(np.stack([step[k] for step in steps]) for k in range(4))

    return run
