"""Additive attention beside eager torch, torch.compile, jax.jit: ``pytest benchmarks/attention --benchmark-enable``.

float32, values as wide as keys. One thread, and the whole process pinned to one core before JAX starts its own threads;
the last group takes the pin off. Eager torch is timed with glibc's default allocator, which spends half of the time on
page faults, and tuned to keep its memory (as MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_ do). Every contender's
result is checked against ours before it is timed.
"""

import ctypes
import os
from functools import cache

CORES = os.sched_getaffinity(0)
os.sched_setaffinity(0, {max(CORES)})

import jax  # noqa: E402 - after the pin
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import metafast  # noqa: E402
from metafast.attention import additive_attention, prepare  # noqa: E402

# torch.compile imports what warns.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4

# batch, queries, keys, width
SHAPES = [(32, 1, 32, 64), (256, 1, 32, 128), (64, 16, 64, 128), (16, 128, 128, 128), (4, 512, 512, 128)]
LARGEST = SHAPES[-1]


@cache
def arrays(shape):
    batch, queries, keys, width = shape
    rng = np.random.default_rng(0)
    query = rng.standard_normal((batch, queries, width), dtype=np.float32)
    key, value = rng.standard_normal((2, batch, keys, width), dtype=np.float32)
    score_weight = rng.standard_normal(width, dtype=np.float32) * np.float32(3 / np.sqrt(width))
    context_gradient = rng.standard_normal((batch, queries, width), dtype=np.float32)
    return (query, key, value, score_weight), context_gradient


def eager_attention(query, key, value, score_weight):
    score = (torch.tanh(query[:, :, None] + key[:, None]) * score_weight).sum(-1)
    return torch.softmax(score, -1) @ value


def jax_attention(query, key, value, score_weight):
    score = (jnp.tanh(query[:, :, None] + key[:, None]) * score_weight).sum(-1)
    return jax.nn.softmax(score, -1) @ value


def torch_call(attention, shape, backward):
    inputs, context_gradient = arrays(shape)
    tensors = [torch.from_numpy(array).clone().requires_grad_(backward) for array in inputs]
    gradient = torch.from_numpy(context_gradient)

    def call():
        context = attention(*tensors)
        return (context, *torch.autograd.grad(context, tensors, gradient)) if backward else (context,)

    return call


def ours(shape, backward):
    return torch_call(additive_attention, shape, backward)


def eager(shape, backward):
    return torch_call(eager_attention, shape, backward)


def eager_tuned(shape, backward):
    return torch_call(eager_attention, shape, backward)


@cache
def compiled_attention(_shape, _backward):
    # One for each, lest a shape that was traced before makes the next one dynamic.
    torch._dynamo.reset()
    return torch.compile(eager_attention, dynamic=False)


def compiled(shape, backward):
    return torch_call(compiled_attention(shape, backward), shape, backward)


def jax_jit(shape, backward):
    inputs, context_gradient = arrays(shape)
    inputs = [jnp.asarray(array) for array in inputs]
    context_gradient = jnp.asarray(context_gradient)

    @jax.jit
    def forward_and_backward(gradient, *inputs):
        context, pull = jax.vjp(jax_attention, *inputs)
        return (context, *pull(gradient))

    forward = jax.jit(jax_attention)
    if backward:
        return lambda: jax.block_until_ready(forward_and_backward(context_gradient, *inputs))
    return lambda: (jax.block_until_ready(forward(*inputs)),)


@pytest.fixture(autouse=True)
def one_pinned_thread():
    before = metafast.get_num_threads(), torch.get_num_threads()
    metafast.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    metafast.set_num_threads(before[0])
    torch.set_num_threads(before[1])


@pytest.fixture(autouse=True)
def allocator(request):
    mallopt = ctypes.CDLL(None).mallopt
    tuned = request.node.callspec.params.get("contender") is eager_tuned
    # The first call of mallopt ends glibc's own adaptation of the thresholds; the default is where that arrives in a
    # process that frees large arrays again and again: 32 MiB (the most it takes) and twice that.
    mallopt(M_MMAP_MAX, 0 if tuned else 65536)
    mallopt(M_MMAP_THRESHOLD, 32 << 20)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if tuned else 64 << 20)


def check(results, shape, backward):
    for result, expected in zip(results, ours(shape, backward)(), strict=True):
        expected = expected.detach().numpy()
        result = np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)
        np.testing.assert_allclose(result, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("contender", [ours, eager, eager_tuned, compiled, jax_jit], ids=lambda c: c.__name__)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_additive(benchmark, contender, shape, backward):
    benchmark.group = f"additive {shape}, {'forward and backward' if backward else 'forward'}"
    call = contender(shape, backward)
    check(call(), shape, backward)
    benchmark(call)


def double_backward(attention, shape):
    inputs, context_gradient = arrays(shape)
    tensors = [torch.from_numpy(array).clone().requires_grad_() for array in inputs]
    gradient = torch.from_numpy(context_gradient).requires_grad_()
    gradients = torch.autograd.grad(attention(*tensors), tensors, gradient, create_graph=True)
    cotangents = [torch.ones_like(tensor) for tensor in gradients]
    return lambda: torch.autograd.grad(gradients, [*tensors, gradient], cotangents, retain_graph=True)


@pytest.mark.parametrize("contender", [ours, eager, eager_tuned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("shape", [(64, 16, 64, 128), (16, 128, 128, 128)], ids=str)
def test_double_backward(benchmark, contender, shape):
    benchmark.group = f"additive {shape}, double backward"
    call = double_backward(additive_attention if contender is ours else eager_attention, shape)
    for result, expected in zip(call(), double_backward(additive_attention, shape)(), strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    benchmark(call)


@pytest.mark.parametrize("cached", [False, True], ids=["at once", "prepared keys"])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_prepared_keys(benchmark, shape, cached):
    benchmark.group = f"additive {shape}, NumPy"
    query, key, value, score_weight = arrays(shape)[0]
    attend = prepare(key, value, score_weight)
    np.testing.assert_allclose(attend(query), additive_attention(query, key, value, score_weight), atol=1e-5)
    benchmark((lambda: attend(query)) if cached else (lambda: additive_attention(query, key, value, score_weight)))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_threads(benchmark, num_threads, backward):
    benchmark.group = f"additive {LARGEST}, {'forward and backward' if backward else 'forward'}, by threads"
    call = ours(LARGEST, backward)
    os.sched_setaffinity(0, CORES)
    metafast.set_num_threads(num_threads)
    try:
        benchmark(call)
    finally:
        os.sched_setaffinity(0, {max(CORES)})
