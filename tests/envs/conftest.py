"""What the environment tests share."""

from collections.abc import Iterator

import numpy as np
import pytest

import metafast
from metafast import _core


@pytest.fixture(params=_core.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once for each instruction-set level of this machine."""
    usual = _core.isa()
    _core.force_isa(request.param)
    yield request.param
    _core.force_isa(usual)


@pytest.fixture
def num_threads_restored() -> Iterator[None]:
    usual = metafast.get_num_threads()
    yield
    metafast.set_num_threads(usual)


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
