"""Additive attention on a CUDA device: ``pytest benchmarks/attention/test_cuda_additive.py -s``.

float32, beside eager torch and torch.compile. Medians between CUDA events, and the most memory that a call takes beside
its arguments. The limits are those of the arithmetic, against the rate of fused multiply-adds that a float32 product
reaches in the same run. A quad of columns takes 11 float operations and one of the special-function unit, which has an
eighth of the rate; in the backward pass an element takes 7 and 1. A product with the values is one of each.
"""

import pytest
import torch
from attention.event_timing import median_seconds

from metafast.attention import additive_attention, prepare

# torch.compile imports what warns.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# batch, queries, keys, width; values are as wide
SHAPES = [(64, 256, 256, 128), (4, 512, 512, 128), (256, 1, 1024, 128), (16, 1024, 1024, 64)]
PASSES = ["forward", "forward+backward", "double backward"]


@pytest.fixture(scope="module")
def device():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def limits(device):
    """Bytes a second of a copy, and float32 multiply-adds a second of a product."""
    source = torch.empty(1 << 28, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    square = torch.randn(8192, 8192, device=device)
    assert not torch.backends.cuda.matmul.allow_tf32
    copy = 2 * source.nbytes / median_seconds(lambda: target.copy_(source))
    fused = 8192**3 / median_seconds(lambda: square @ square)
    print(f"\ncopy {copy / 1e12:.2f} TB/s, {fused / 1e12:.1f} T multiply-adds/s")
    return copy, fused


def peak_bytes(call):
    """Return the most memory in use during a call, beside what was in use before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def problem(shape, device, requires_grad=False):
    batch, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    sizes = (batch, queries, width), (batch, keys, width), (batch, keys, width), (width,)
    tensors = [torch.randn(*size, generator=generator).to(device) for size in sizes]
    tensors[3] *= 3 / width**0.5
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def eager(query, key, value, score_weight):
    score = (torch.tanh(query[:, :, None] + key[:, None]) * score_weight).sum(-1)
    return torch.softmax(score, -1) @ value


def call_of(function, inputs, kind):
    """Return a call that needs no arguments, of the pass that `kind` names."""
    if kind == "forward":
        return lambda: function(*inputs)

    def differentiate():
        context = function(*inputs)
        gradients = torch.autograd.grad(context.square().sum(), inputs, create_graph=kind == "double backward")
        if kind == "double backward":
            gradients = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), inputs)
        return gradients

    return differentiate


def least_seconds(shape, kind, fused):
    """Return what float operations, and what the special-function unit's, take at the least."""
    batch, queries, keys, width = shape
    pairs = batch * queries * keys
    operations, special = pairs * width * (11 / 4 + 1), pairs * width / 4
    if kind == "forward+backward":
        operations, special = operations + pairs * width * (7 + 2), special + pairs * width
    return operations / fused, special / (fused / 8)


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_additive(device, limits, shape, kind):
    inputs = problem(shape, device, kind != "forward")
    calls = {"ours": call_of(additive_attention, inputs, kind)}
    batch, queries, keys, width = shape
    if batch * queries * keys * width * 4 * (1 if kind == "forward" else 4) < 60e9:
        calls["eager"] = call_of(eager, inputs, kind)
    if kind != "double backward":  # torch.compile has none
        torch._dynamo.reset()
        calls["compiled"] = call_of(torch.compile(eager, dynamic=False), inputs, kind)
    expected = calls["ours"]()
    seconds, text = {}, []
    for name, call in calls.items():
        for found, right in zip(call(), expected, strict=True):
            assert (found - right).abs().max() <= 1e-4 * right.abs().max(), name
        seconds[name] = median_seconds(call)
        text.append(f"{name} {seconds[name] * 1e6:.0f} us, {peak_bytes(call) / 2**20:.1f} MiB")
    text += [f"{seconds[name] / seconds['ours']:.1f}x {name}" for name in calls if name != "ours"]
    if kind != "double backward":
        operations, special = least_seconds(shape, kind, limits[1])
        text.append(f"{operations / seconds['ours']:.0%} of the multiply-adds' limit")
        text.append(f"{special / seconds['ours']:.0%} of the special-function unit's")
    print(f"\n{shape} {kind}: {'; '.join(text)}")


def test_prepared_keys(device):
    query, key, value, score_weight = problem((256, 1, 1024, 128), device)
    attend = prepare(key, value, score_weight)
    torch.testing.assert_close(attend(query), additive_attention(query, key, value, score_weight))
    once, anew = (
        median_seconds(call)
        for call in (lambda: attend(query), lambda: additive_attention(query, key, value, score_weight))
    )
    print(f"\none query of prepared keys: {once * 1e6:.0f} us; at once: {anew * 1e6:.0f} us")
