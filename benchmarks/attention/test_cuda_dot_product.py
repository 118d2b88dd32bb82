"""Dot-product attention on a CUDA device against torch's: ``pytest benchmarks/attention/test_cuda_dot_product.py -s``.

`sdpa` is torch.nn.functional.scaled_dot_product_attention as it is; `eager` two products around a softmax, which is
what gives weights otherwise. Medians between CUDA events; beside them the rate of products in TFLOP/s, its share of
that of one large torch.matmul of the same dtype, and the bytes of the tensors a call must touch against the bandwidth
of a copy, both measured in the same run. What ours costs beyond sdpa is what selects and pads: nothing where there is
no mask and the columns are multiples of 8, beside some microseconds of the host's, which the first shapes show.
"""

import pytest
import torch
from attention.event_timing import median_seconds

from metafast.attention import dot_product_attention

DTYPES = [torch.bfloat16, torch.float32]
SHAPES = [(32, 8, 1, 1024, 64), (32, 8, 128, 128, 64), (8, 8, 1024, 1024, 64), (2, 16, 8192, 8192, 128)]
WITH_WEIGHTS = SHAPES[:3]
SELECTIONS = ("all", "causal", "lengths")


@pytest.fixture(scope="module")
def device():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def limits(device):
    """Bytes a second of a copy, and multiplications and additions a second of a product, by dtype."""
    source = torch.empty(1 << 28, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    found = {"copy": 2 * source.nbytes / median_seconds(lambda: target.copy_(source))}
    for dtype in DTYPES:
        square = torch.randn(8192, 8192, device=device, dtype=dtype)
        found[dtype] = 2 * 8192**3 / median_seconds(lambda square=square: square @ square)
    print(f"\ncopy {found['copy'] / 1e12:.2f} TB/s, " + ", ".join(f"{d} {found[d] / 1e12:.0f} TFLOP/s" for d in DTYPES))
    return found


def problem(shape, dtype, device, selection="all"):
    """Return query, key and value, the cotangent of the context, and the options of ours and of sdpa."""
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(batch, heads, rows, width, generator=generator).to(device, dtype)
        for rows in (queries, keys, keys, queries)
    ]
    if selection == "lengths":
        lengths = torch.randint(1, keys + 1, (batch,), generator=generator).to(device)
        below = torch.arange(keys, device=device) < lengths[:, None]
        # As a mask: lengths are read back, for which the call would wait.
        return tensors, {"key_mask": below}, {"attn_mask": below[:, None, None]}
    options = {"all": ({}, {}), "causal": ({"causal": True}, {"is_causal": True})}
    return tensors, *options[selection]


def sdpa(query, key, value, **options):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)


def eager(query, key, value, key_mask=None):
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None], -torch.inf)
    weights = torch.softmax(scores, -1)
    return weights @ value, weights


def gradients_of(function, query, key, value, cotangent, **options):
    inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
    context = function(*inputs, **options)
    return lambda: torch.autograd.grad(context, inputs, cotangent, retain_graph=True)


def report(name, seconds, flops, num_bytes, dtype, limits):
    print(
        f"  {name:<6} {seconds * 1e6:9.1f} us  {flops / seconds / 1e12:7.1f} TFLOP/s"
        f" ({flops / seconds / limits[dtype]:4.0%})  {num_bytes / seconds / limits['copy']:4.0%} of the copy"
    )


def compare(title, calls, flops, tensors, dtype, limits):
    """Check that the contenders agree, then time each, in turn and twice over, and print the better time of each."""
    tolerance = {"rtol": 3e-2, "atol": 3e-2} if dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-4}
    results = [call() for call in calls.values()]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], **tolerance)
    del results
    seconds = {name: min(times) for name, times in zip(calls, zip(*_turns(calls), strict=True), strict=True)}
    print(f"\n{title}")
    for name, measured in seconds.items():
        report(name, measured, flops, sum(tensor.nbytes for tensor in tensors), dtype, limits)


def _turns(calls):
    return [[median_seconds(call) for call in calls.values()] for _ in range(2)]


def count_flops(shape, selection):
    batch, heads, queries, keys, width = shape
    return 4 * batch * heads * queries * keys * width * (0.5 if selection == "causal" and queries > 1 else 1)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(device, limits, dtype, shape, selection):
    (query, key, value, _), ours, theirs = problem(shape, dtype, device, selection)
    calls = {
        "sdpa": lambda: sdpa(query, key, value, **theirs),
        "ours": lambda: dot_product_attention(query, key, value, **ours),
    }
    title = f"forward {shape} {dtype} {selection}"
    compare(title, calls, count_flops(shape, selection), (query, key, value, query), dtype, limits)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(device, limits, dtype, shape, selection):
    tensors, ours, theirs = problem(shape, dtype, device, selection)
    calls = {
        "sdpa": gradients_of(sdpa, *tensors, **theirs),
        "ours": gradients_of(dot_product_attention, *tensors, **ours),
    }
    title = f"backward {shape} {dtype} {selection}"
    flops = 2.5 * count_flops(shape, selection)  # five products to the forward pass's two
    compare(title, calls, flops, (*tensors, *tensors), dtype, limits)


@pytest.mark.parametrize("selection", ["all", "lengths"])
@pytest.mark.parametrize("shape", WITH_WEIGHTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_weights(device, limits, dtype, shape, selection):
    (query, key, value, _), options, _ = problem(shape, dtype, device, selection)
    calls = {
        "eager": lambda: eager(query, key, value, **options),
        "ours": lambda: dot_product_attention(query, key, value, **options, return_weights=True),
    }
    weights = calls["eager"]()[1]
    title = f"with weights {shape} {dtype} {selection}"
    compare(title, calls, count_flops(shape, selection), (query, key, value, query, weights), dtype, limits)
