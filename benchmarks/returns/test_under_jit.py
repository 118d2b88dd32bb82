"""Lambda returns of JAX arrays, and their gradients: by the kernel, eagerly and in compiled programs, and by lax.scan.

    pytest benchmarks/returns/test_under_jit.py --benchmark-enable --benchmark-columns=min,median

"numpy" is the same call without JAX. "jit" shares memory with the compiled program through XLA's foreign function
interface; "jit, pure_callback" is what it would be without.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metafast
from metafast.returns import _jax

SHAPES = [(128, 8), (128, 1024), (1024, 4096), (20000, 1)]
GAMMA, LAM = 0.99, 0.95


def problem(shape):
    rng = np.random.default_rng(0)
    rewards, next_values = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    return rewards, next_values, rng.random(shape) < 0.01


def estimate(rewards, next_values, terminated):
    return metafast.lambda_returns(rewards, next_values, terminated, gamma=GAMMA, lam=LAM)


def scan(rewards, next_values, terminated):
    def step(following, inputs):
        reward, value, ended = inputs
        following = reward + GAMMA * jnp.where(ended, 0, (1 - LAM) * value + LAM * following)
        return following, following

    return jax.lax.scan(step, next_values[-1], (rewards, next_values, terminated), reverse=True)[1]


def gradient_of(function):
    return jax.grad(lambda rewards, *rest: function(rewards, *rest).sum())


@pytest.mark.parametrize("way", ["numpy", "eager", "jit", "jit, pure_callback", "lax.scan"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lambda_returns(benchmark, shape, way, monkeypatch):
    benchmark.group = f"lambda returns {shape}"
    monkeypatch.setattr(_jax._host_calls, "shares_memory", way != "jit, pure_callback")
    arrays = problem(shape)
    if way == "numpy":
        benchmark(estimate, *arrays)
        return
    arrays = [jnp.asarray(array) for array in arrays]
    function = {"eager": estimate, "lax.scan": jax.jit(scan)}.get(way, jax.jit(lambda *arrays: estimate(*arrays)))
    np.testing.assert_allclose(function(*arrays), estimate(*problem(shape)), rtol=1e-3, atol=1e-3)
    benchmark(lambda: function(*arrays).block_until_ready())


@pytest.mark.parametrize("way", ["jit", "lax.scan"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient_of_lambda_returns(benchmark, shape, way):
    benchmark.group = f"gradient of lambda returns {shape}"
    arrays = [jnp.asarray(array) for array in problem(shape)]
    function = jax.jit(gradient_of(scan if way == "lax.scan" else estimate))
    function(*arrays)
    benchmark(lambda: function(*arrays).block_until_ready())
