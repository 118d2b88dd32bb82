"""tianshou's face inside of tianshou's own batches, buffers and algorithms."""

import inspect
import warnings

import numpy as np
import pytest
import torch
from compat import peers

from metafast.compat import tianshou

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from gymnasium import spaces
    from tianshou.algorithm.modelfree.a2c import A2C
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer
    from tianshou.utils.torch_utils import policy_within_training_step

FUNCTIONS = "_gae", "_nstep_return", "episode_mc_return_to_go"
METHODS = "compute_episodic_return", "compute_nstep_return", "value_mask"
NUM_STEPS = 40


def filled(buffer, num_envs, *, seed=0):
    """A buffer of steps of several environments, unfinished episodes at the end, and values for all of it."""
    rng = np.random.default_rng(seed)
    for _ in range(NUM_STEPS):
        terminated = rng.random(num_envs) < 0.15
        truncated = (rng.random(num_envs) < 0.1) & ~terminated
        step = Batch(
            obs=rng.standard_normal((num_envs, 2)),
            act=rng.integers(2, size=num_envs),
            rew=rng.standard_normal(num_envs),
            terminated=terminated,
            truncated=truncated,
            obs_next=rng.standard_normal((num_envs, 2)),
            info=Batch(),
        )
        if isinstance(buffer, VectorReplayBuffer):
            buffer.add(step, buffer_ids=np.arange(num_envs))
        else:
            buffer.add(step[0])
    return buffer, rng


@pytest.fixture(params=["one", "several", "wrapped"])
def buffer_and_rng(request):
    if request.param == "one":
        return filled(ReplayBuffer(64), 1)
    return filled(VectorReplayBuffer(3 * 64 if request.param == "several" else 3 * 17, 3), 3)


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_signatures(name):
    theirs = getattr(peers.tianshou if name in FUNCTIONS else peers.tianshou.Algorithm, name)
    ours, other = (inspect.signature(function).parameters for function in (getattr(tianshou, name), theirs))
    assert list(ours) == list(other)
    assert [mine.default for mine in ours.values()] == [its.default for its in other.values()]


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("values", ["both", "successors", "none"])
def test_episodic_returns(buffer_and_rng, values, convert):
    buffer, rng = buffer_and_rng
    batch, indices = buffer.sample(0)
    floats = [convert(rng.standard_normal((len(indices), 1)).astype(np.float32)) for _ in range(2)]
    given = {"both": {"v_s_": floats[0], "v_s": floats[1]}, "successors": {"v_s_": floats[0]}, "none": {}}[values]
    given["gae_lambda"] = 1.0 if values == "none" else 0.875
    results = (
        module.compute_episodic_return(batch, buffer, indices, gamma=0.9, **given)
        for module in (tianshou, peers.tianshou.Algorithm)
    )
    for mine, other in zip(*results, strict=True):
        assert mine.dtype == other.dtype
        # tianshou scales float32 values in float32.
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_step", [1, 2, 5])
def test_n_step_returns(buffer_and_rng, n_step):
    buffer, _ = buffer_and_rng
    batches = [buffer.sample(0) for _ in range(2)]

    def target(buffer, indices):
        return torch.as_tensor(buffer.obs_next[indices].astype(np.float32))

    results = []
    for module, (batch, indices) in zip((tianshou, peers.tianshou.Algorithm), batches, strict=True):
        batch.weight = np.ones(len(batch))
        results.append(module.compute_nstep_return(batch, buffer, indices, target, gamma=0.9, n_step=n_step))
    ours, theirs = results
    assert ours is batches[0][0]
    torch.testing.assert_close(ours.returns, theirs.returns, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_the_value_of_a_terminal_state_may_be_nan(buffer_and_rng):
    buffer, rng = buffer_and_rng
    batch, indices = buffer.sample(0)
    values = rng.standard_normal(len(indices))
    nan = np.where(buffer.terminated[indices], np.nan, values)
    clean, ours, theirs = (
        np.stack(module.compute_episodic_return(batch, buffer, indices, v_s_, values))
        for module, v_s_ in ((tianshou, values), (tianshou, nan), (peers.tianshou.Algorithm, nan))
    )
    np.testing.assert_array_equal(ours, clean)
    assert np.isnan(theirs).any()

    def target(buffer, indices):
        return torch.as_tensor(np.where(buffer.terminated[indices], np.nan, 1.0))

    assert tianshou.compute_nstep_return(batch, buffer, indices, target, n_step=3).returns.isfinite().all()


def test_an_algorithm_trains_as_before():
    """One update of A2C with tianshou's function and with ours: the same parameters."""
    parameters = []
    for replaced in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (what tianshou shuffles by)
        buffer, _ = filled(VectorReplayBuffer(3 * 64, 3), 3)
        actor = torch.nn.Linear(2, 2)
        policy = ProbabilisticActorPolicy(
            actor=StateIgnored(actor),
            dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
            action_space=spaces.Discrete(2),
            action_scaling=False,
        )
        algorithm = A2C(policy=policy, critic=Critic(), optim=AdamOptimizerFactory(lr=1e-2))
        if replaced:
            algorithm.compute_episodic_return = tianshou.compute_episodic_return
        with policy_within_training_step(algorithm.policy):
            algorithm.update(buffer=buffer, batch_size=None, repeat=2)
        parameters.append(torch.cat([parameter.flatten() for parameter in algorithm.parameters()]).detach())
    torch.testing.assert_close(*parameters, rtol=1e-5, atol=1e-6)


class StateIgnored(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, obs, state=None, info=None):
        return self.net(torch.as_tensor(obs, dtype=torch.float32)), state


class Critic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)

    def forward(self, obs):
        return self.net(torch.as_tensor(obs, dtype=torch.float32))


def test_bad_input():
    buffer, _ = filled(ReplayBuffer(64), 1)
    batch, indices = buffer.sample(0)
    with pytest.raises(ValueError, match="gae_lambda must be 1"):
        tianshou.compute_episodic_return(batch, buffer, indices)
    with pytest.raises(ValueError, match="batch has 40 steps, but there are 3 indices"):
        tianshou.compute_nstep_return(batch, buffer, indices[:3], lambda buffer, indices: torch.zeros(3))
    with pytest.raises(ValueError, match="stacked_indices_NI has 1 rows"):
        tianshou._nstep_return(np.ones(2), np.zeros(2), np.ones((2, 1)), np.array([[0, 1]]), 0.9, 2)
