"""Dot-product attention against torch's: ``pytest benchmarks/attention/test_dot_product.py --benchmark-enable``.

float32, one thread. `sdpa` is torch.nn.functional.scaled_dot_product_attention with its default backend, flash on a
CPU; "backward" is the gradients alone, of a graph made beforehand. Each contender is checked against the others
before it is timed.
"""

from functools import cache

import pytest
import torch

import metafast
from metafast.attention import dot_product_attention

SHAPES = [(32, 4, 1, 32, 64), (32, 8, 128, 128, 64), (8, 8, 1024, 1024, 64)]  # B, heads, Q, K, D


@cache
def problem(shape):
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, heads, rows, width, generator=generator) for rows in (queries, keys, keys, queries)]


def sdpa(query, key, value):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value)


def ours(query, key, value):
    return dot_product_attention(query, key, value)


def ours_numpy(query, key, value):
    arrays = query.numpy(), key.numpy(), value.numpy()
    return torch.from_numpy(dot_product_attention(*arrays))


def gradients_of(function):
    def prepare(query, key, value, gradient):
        inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        context = function(*inputs)
        return lambda: torch.autograd.grad(context, inputs, gradient, retain_graph=True)

    return prepare


@pytest.fixture(autouse=True)
def one_thread():
    before = metafast.get_num_threads(), torch.get_num_threads()
    metafast.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    metafast.set_num_threads(before[0])
    torch.set_num_threads(before[1])


def time(benchmark, call, shape, group):
    benchmark.group = f"{group} {shape}"
    small = shape[2] * shape[3] < 1000
    rounds, iterations = (60, 100) if small else (max(6, 60 * 128 // shape[2]), 1)
    benchmark.pedantic(call, rounds=rounds, iterations=iterations, warmup_rounds=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("contender", [sdpa, ours, ours_numpy], ids=lambda c: c.__name__)
def test_forward(benchmark, contender, shape):
    query, key, value, _ = problem(shape)
    torch.testing.assert_close(contender(query, key, value), sdpa(query, key, value), rtol=1e-4, atol=1e-5)
    time(benchmark, lambda: contender(query, key, value), shape, "forward")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("contender", [sdpa, ours], ids=lambda c: c.__name__)
def test_backward(benchmark, contender, shape):
    call, expected = (gradients_of(function)(*problem(shape)) for function in (contender, sdpa))
    torch.testing.assert_close(call(), expected(), rtol=1e-3, atol=1e-4)
    time(benchmark, call, shape, "backward")
