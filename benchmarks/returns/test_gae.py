"""GAE against its peers, and against the copy of as many bytes: ``pytest benchmarks/returns --benchmark-enable``.

float32, 1 % of the steps terminated and 1 % truncated. Every contender computes the same advantages, and each is
checked against ours before it is timed. Where a peer has no notion of truncation, the discounted value of the last
state is added to the reward, as Stable-Baselines3 does in its collection loop. `memcpy` moves the 18 bytes an element
that a call must read and write; with two threads it is torch's. Peers that would take seconds or gigabytes at a shape
are left out there.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import metafast

GAMMA, LAM = 0.99, 0.95
SHAPES = [(128, 8), (2048, 1), (128, 1024), (2048, 64), (1024, 4096), (64, 65536)]


@cache
def problem(shape):
    rng = np.random.default_rng(0)
    p = SimpleNamespace(
        rewards=rng.standard_normal(shape, dtype=np.float32),
        values=rng.standard_normal(shape, dtype=np.float32),
        bootstrap=rng.standard_normal(shape[1], dtype=np.float32),
        final_values=rng.standard_normal(shape, dtype=np.float32),
        terminated=rng.random(shape) < 0.01,
    )
    p.truncated = (rng.random(shape) < 0.01) & ~p.terminated
    p.dones = p.terminated | p.truncated
    next_values = np.concatenate([p.values[1:], p.bootstrap[None]])
    p.next_values = np.where(p.terminated, 0, np.where(p.truncated, p.final_values, next_values)).astype(np.float32)
    p.rewards_with_final_values = (p.rewards + GAMMA * np.where(p.truncated, p.final_values, 0)).astype(np.float32)
    p.advantages, p.returns = ours(p)()
    return p


def ours(p, *, batch_major=False):
    swap = (lambda array: np.ascontiguousarray(array.T)) if batch_major else (lambda array: array)
    rewards, values, terminated, truncated, final_values = (
        swap(array) for array in (p.rewards, p.values, p.terminated, p.truncated, p.final_values)
    )
    out = np.empty_like(rewards), np.empty_like(rewards)

    def call():
        return metafast.gae(
            rewards, values, p.bootstrap, terminated, truncated,
            gamma=GAMMA, lam=LAM, final_values=final_values, time_axis=int(batch_major), out=out,
        )  # fmt: skip

    return call


def ours_batch_major(p):
    call = ours(p, batch_major=True)
    return lambda: tuple(array.T for array in call())


def memcpy(p):
    source = torch.zeros(18 * p.rewards.size // 2, dtype=torch.uint8)
    target = torch.ones_like(source)
    return lambda: target.copy_(source)


def tianshou(p):
    _gae = pytest.importorskip("tianshou.algorithm.algorithm_base")._gae
    # One sequence at a time is all it takes; the columns are laid end to end, each closed by an end flag.
    flat = [array.T.reshape(-1).copy() for array in (p.values, p.next_values, p.rewards, p.dones)]
    flat[3].reshape(-1, len(p.rewards))[:, -1] = True

    def call():
        advantages = _gae(*flat, GAMMA, LAM)
        return advantages, advantages + flat[0]

    return lambda: tuple(array.reshape(p.rewards.shape[::-1]).T for array in call())


def stable_baselines3(p):
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    gymnasium = pytest.importorskip("gymnasium")
    num_steps, num_columns = p.rewards.shape
    box = gymnasium.spaces.Box(0, 1, (1,))
    buffer = buffers.RolloutBuffer(num_steps, box, box, gamma=GAMMA, gae_lambda=LAM, n_envs=num_columns)
    buffer.rewards, buffer.values = p.rewards_with_final_values, p.values
    buffer.episode_starts = np.concatenate([np.zeros_like(p.dones[:1]), p.dones[:-1]]).astype(np.float32)
    bootstrap = torch.from_numpy(p.bootstrap)

    def call():
        buffer.compute_returns_and_advantage(bootstrap, p.dones[-1])
        return buffer.advantages, buffer.returns

    return call


def ours_torch(p):
    """Tensors in, new tensors out."""
    names = ("rewards", "values", "bootstrap", "terminated", "truncated", "final_values")
    rewards, values, bootstrap, terminated, truncated, final_values = (torch.from_numpy(getattr(p, n)) for n in names)
    return lambda: metafast.gae(
        rewards, values, bootstrap, terminated, truncated, gamma=GAMMA, lam=LAM, final_values=final_values
    )


def numba_loop(p):
    """What a user would write: one compiled loop over steps and columns."""
    numba = pytest.importorskip("numba")
    advantages, returns = np.empty_like(p.rewards), np.empty_like(p.rewards)

    @numba.njit
    def loop(rewards, values, next_values, dones, advantages, returns, gamma, lam):
        num_steps, num_columns = rewards.shape
        for column in range(num_columns):
            advantage = np.float32(0)
            for step in range(num_steps - 1, -1, -1):
                if dones[step, column]:
                    advantage = np.float32(0)
                delta = rewards[step, column] + gamma * next_values[step, column] - values[step, column]
                advantage = delta + gamma * lam * advantage
                advantages[step, column] = advantage
                returns[step, column] = advantage + values[step, column]

    gamma, lam = np.float32(GAMMA), np.float32(LAM)

    def call():
        loop(p.rewards, p.values, p.next_values, p.dones, advantages, returns, gamma, lam)
        return advantages, returns

    return call


def rlax_jit(p):
    """Over the columns by vmap; a truncation's value goes into the reward, its discount is 0."""
    jax, rlax = pytest.importorskip("jax"), pytest.importorskip("rlax")
    rewards, discounts = p.rewards_with_final_values, np.float32(GAMMA) * ~p.dones
    values = np.concatenate([p.values, p.bootstrap[None]])
    arrays = [jax.numpy.asarray(array) for array in (rewards, discounts, values)]
    estimate = jax.jit(jax.vmap(lambda r, d, v: rlax.truncated_generalized_advantage_estimation(r, d, LAM, v), 1, 1))

    def call():
        advantages = estimate(*arrays).block_until_ready()
        return advantages, p.returns  # rlax has no returns

    return call


def torchrl_arrays(p):
    swap = lambda array: torch.from_numpy(np.ascontiguousarray(array.T))[..., None]  # noqa: E731
    arrays = (p.values, p.next_values, p.rewards, p.dones, p.terminated)
    return [swap(array) for array in arrays]


def torchrl(p, name="generalized_advantage_estimate"):
    estimate = getattr(pytest.importorskip("torchrl.objectives.value.functional"), name)
    values, next_values, rewards, dones, terminated = torchrl_arrays(p)

    def call():
        results = estimate(GAMMA, LAM, values, next_values, rewards, dones, terminated)
        return tuple(result[..., 0].T.numpy() for result in results)

    return call


def torchrl_vectorised(p):
    return torchrl(p, "vec_generalized_advantage_estimate")


def torch_loop(p):
    """The loop that single-file implementations have: one torch expression per step."""
    rewards, values, dones, bootstrap = (
        torch.from_numpy(np.asarray(array, np.float32))
        for array in (p.rewards_with_final_values, p.values, p.dones, p.bootstrap)
    )

    def call():
        advantages = torch.zeros_like(rewards)
        advantage = torch.zeros_like(bootstrap)
        next_value = bootstrap
        for step in reversed(range(len(rewards))):
            unfinished = 1.0 - dones[step]
            delta = rewards[step] + GAMMA * next_value * unfinished - values[step]
            advantage = delta + GAMMA * LAM * unfinished * advantage
            advantages[step] = advantage
            next_value = values[step]
        return advantages.numpy(), (advantages + values).numpy()

    return call


CONTENDERS = [
    memcpy, ours, ours_batch_major, ours_torch, numba_loop, tianshou, rlax_jit, stable_baselines3, torch_loop, torchrl,
    torchrl_vectorised,
]  # fmt: skip
LARGEST = {torchrl_vectorised: 2**16, torchrl: 2**18, stable_baselines3: 2**23, torch_loop: 2**23}


@pytest.fixture(autouse=True)
def threads(request):
    num_threads = request.node.callspec.params["num_threads"]
    before = metafast.get_num_threads(), torch.get_num_threads()
    metafast.set_num_threads(num_threads)
    torch.set_num_threads(num_threads)
    yield
    metafast.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.__name__)
def test_gae(benchmark, contender, shape, num_threads):
    benchmark.group = f"gae {shape}, {num_threads} thread{'s' if num_threads > 1 else ''}"
    if shape[0] * shape[1] > LARGEST.get(contender, np.inf):
        pytest.skip("seconds or gigabytes")
    p = problem(shape)
    call = contender(p)
    if contender is not memcpy:
        for result, expected in zip(call(), (p.advantages, p.returns), strict=True):
            # float32 sums in another order
            np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-3)
    benchmark(call)
