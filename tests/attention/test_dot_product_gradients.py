"""Gradients of dot-product attention, of first and higher order, and under torch's transforms."""

import itertools

import numpy as np
import pytest
import torch
from attention import dot_product_reference as reference
from common import cards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import metafast
from metafast import _core, _device
from metafast.attention import dot_product_attention

SELECTIONS = {
    "all": {},
    "mask": {"key_mask": np.array([[1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0]])},
    "lengths and causal": {"key_lengths": np.array([3, 7]), "causal": True},
    "everything": {
        "key_mask": np.array([[0, 1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 1, 1]]),
        "key_lengths": np.array([5, 7]),
        "causal": True,
        "scale": -0.6,
    },
}


# Where there is nothing to see from the levels of the CPU one by one.
everywhere = pytest.mark.parametrize("place", ["cpu", *cards.CUDA, "host"], indirect=True)


def tensors(*extents, dtype=torch.float64, requires_grad=True, seed=0, place=None):
    batch, heads, queries, keys, width, value_width = extents
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=dtype).to(place).requires_grad_(requires_grad)
        for shape in ((queries, width), (keys, width), (keys, value_width))
    ]


def to_torch(selection, place=None):
    return {name: torch.from_numpy(x).to(place) if isinstance(x, np.ndarray) else x for name, x in selection.items()}


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    batch, heads = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    queries, keys = draw(st.sampled_from([0, 1, 5, 24, 31, 50])), draw(st.sampled_from([0, 1, 3, 17, 128, 140]))
    width, value_width = (draw(st.sampled_from([0, 1, 5, 16, 37])) for _ in range(2))
    sizes = (queries, width), (keys, width), (keys, value_width), (queries, value_width), (queries, keys)
    arrays = [rng.standard_normal((batch, heads, *size)).astype(dtype) for size in sizes]
    selection = {"causal": draw(st.booleans())}
    if draw(st.booleans()):
        selection["key_mask"] = rng.random((batch, keys)) < draw(st.sampled_from([0.0, 0.3, 0.8]))
    if draw(st.booleans()):
        selection["key_lengths"] = rng.integers(0, keys + 1, batch)
    scale = draw(st.sampled_from([0.0, 0.5, -1.0]))
    return arrays, selection, scale, *draw(st.sampled_from([(False, False), (True, False), (True, True)]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_the_kernel_has_the_gradients_of_the_formulas(place, problem):
    arrays, selection, scale, return_weights, with_weights = problem
    inputs = [torch.from_numpy(array).to(place).requires_grad_() for array in arrays[:3]]
    outputs = dot_product_attention(*inputs, **to_torch(selection, place), scale=scale, return_weights=return_weights)
    outputs = outputs if return_weights else (outputs,)
    cotangents = tuple(torch.from_numpy(array).to(place) for array in arrays[3:])
    if not with_weights:
        outputs, cotangents = outputs[:1], cotangents[:1]
    results = torch.autograd.grad(outputs, inputs, cotangents)
    expected = reference.gradients(
        *arrays[:3], arrays[3].astype(float), arrays[4].astype(float) if with_weights else None, scale, **selection
    )
    tolerance = 1e-4 if arrays[0].dtype == np.float32 else 1e-11
    for result, wanted in zip(results, expected, strict=True):
        assert_allclose(result.cpu().numpy(), wanted, rtol=tolerance, atol=tolerance)


def attend_in_torch(query, key, value, scale, causal=False):
    scores = scale * (query @ key.mT)
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    weights = torch.softmax(scores, -1)
    return weights @ value, weights


@pytest.mark.parametrize("queries", [1, 4, 5, 48, 49, 50, 100])
@pytest.mark.parametrize("magnitude", [1.0, 10.0, 100.0, 1e4])
def test_large_scores(isa, queries, magnitude):
    causal, scale = queries % 2 == 0, 0.25
    query, key, value = tensors(2, 2, queries, 130, 16, 8, dtype=torch.float32, requires_grad=False)
    inputs = [magnitude * query, magnitude * key, value]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(2, 2, queries, columns, generator=generator) for columns in (8, 130)]

    def gradients(function, dtype, **options):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        outputs = function(*leaves, scale=scale, causal=causal, **options)
        return torch.autograd.grad(outputs, leaves, [tensor.to(dtype) for tensor in cotangents])

    exact = gradients(attend_in_torch, torch.float64)
    eager = gradients(attend_in_torch, torch.float32)
    results = gradients(dot_product_attention, torch.float32, return_weights=True)
    slack = 2 if isa in ("x86-64-v3", "x86-64-v4") else 4  # torch has fused multiply-adds, the other levels do not
    # The gradient of a score is a difference of numbers of this size, rounded, times a query or key.
    largest = [tensor.norm(dim=-1).max().item() for tensor in (*inputs, cotangents[0])]
    of_score = scale * torch.finfo(torch.float32).eps * (largest[2] * largest[3] + cotangents[1].max().item())
    floors = [of_score * largest[1], of_score * largest[0] * queries**0.5, 0.0]
    for result, alike, wanted, floor in zip(results, eager, exact, floors, strict=True):
        # A score of some hundreds is rounded by 1e-5, and its weight with it; eager's own error may be less by luck.
        bound = max(1e-5 * wanted.abs().max(), slack * (alike - wanted).abs().max(), floor)
        assert (result - wanted).abs().max() <= bound


@pytest.mark.parametrize("queries", [1, 5, 49, 53, 99, 243])
def test_the_gradient_has_the_weights_of_the_forward_pass(isa, queries):
    """With dO = 1 the gradient of the values is the transposed weights."""
    rng = np.random.default_rng(queries)
    for keys, magnitude, causal in itertools.product([7, 128, 130], [1.0, 1e4], [False, True]):
        arrays = [
            rng.standard_normal((1, 1, *shape)).astype(np.float32)
            for shape in ((queries, 13), (keys, 13), (keys, queries))
        ]
        arrays[0] *= magnitude
        arrays[1] *= magnitude
        selection = rng.random((1, keys)) < 0.7, None, causal, 0.125
        context, statistics, weights = _core.dot_product_attention(*arrays, *selection, True, True)
        identity = np.eye(queries, dtype=np.float32)[None, None]
        *_, of_value = _core.dot_product_attention_gradient(
            *arrays, *selection, context, statistics, None, identity, None
        )
        assert_array_equal(of_value, np.swapaxes(weights, 2, 3))
        total = weights.sum(-1)
        assert_allclose(total, total > 0.5, rtol=2e-6)


def test_weights_of_one_key_leave_no_gradient_of_query_and_key(place):
    for queries in (3, 50):
        query, key, value = tensors(1, 2, queries, 200, 64, 9, dtype=torch.float32, requires_grad=False, place=place)
        inputs = [tensor.requires_grad_() for tensor in (1e4 * query, 1e4 * key, value)]
        context, weights = dot_product_attention(*inputs, return_weights=True)
        assert ((weights == 0) | (weights == 1)).all()
        loss = context.sin().sum() + weights.cos().sum()
        of_query, of_key, _ = torch.autograd.grad(loss, inputs)
        assert not of_query.any()
        assert not of_key.any()


@everywhere
@pytest.mark.parametrize("return_weights", [False, True])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_gradcheck_of_both_orders(selection, return_weights, place):
    options = to_torch(SELECTIONS[selection], place)

    def function(*inputs):
        return dot_product_attention(*inputs, **options, return_weights=return_weights)

    inputs = tensors(2, 2, 4, 7, 3, 5, place=place)
    fast = _device.is_on_device(inputs[0])  # the formulas there are torch's
    assert torch.autograd.gradcheck(function, inputs, fast_mode=fast)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=fast)


@everywhere
def test_the_third_order_is_that_of_torch(place):
    inputs = tensors(1, 2, 3, 4, 3, 2, place=place)

    def third(function):
        (first,) = torch.autograd.grad(function(*inputs).sin().sum(), inputs[0], create_graph=True)
        (second,) = torch.autograd.grad(first.sin().sum(), inputs[1], create_graph=True)
        return torch.autograd.grad(second.sin().sum(), inputs)

    def plain(query, key, value):
        return torch.softmax(query @ key.mT / 3**0.5, -1) @ value

    for result, expected in zip(third(dot_product_attention), third(plain), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_garbage_in_a_masked_key_reaches_no_gradient(place):
    inputs = tensors(2, 2, 30, 140, 9, 9, place=place)
    takes = torch.rand(2, 140, generator=torch.Generator().manual_seed(1)).to(place) < 0.5
    query, key, value = inputs
    dirty = [query] + [
        torch.where(takes[:, None, :, None], tensor, torch.nan).detach().requires_grad_() for tensor in (key, value)
    ]
    found = []
    for arguments in (inputs, dirty):
        loss = dot_product_attention(*arguments, key_mask=takes).sin().sum()
        first = torch.autograd.grad(loss, arguments, create_graph=True)
        second = torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), arguments)
        found.append((*first, *second))
    for clean, result in zip(*found, strict=True):
        assert clean.isfinite().all()
        torch.testing.assert_close(result, clean, rtol=1e-9, atol=1e-12)


def test_nan_in_one_query_reaches_no_gradient_of_later_keys_or_other_queries(isa):
    inputs = tensors(1, 1, 60, 60, 9, 9)
    clean = torch.autograd.grad(dot_product_attention(*inputs, causal=True).sum(), inputs)
    with torch.no_grad():
        inputs[0][0, 0, 20, 1] = torch.nan
    dirty = torch.autograd.grad(dot_product_attention(*inputs, causal=True).sum(), inputs)
    others = torch.arange(60) != 20
    torch.testing.assert_close(dirty[0][:, :, others], clean[0][:, :, others])
    for result, was in zip(dirty[1:], clean[1:], strict=True):
        torch.testing.assert_close(result[:, :, 21:], was[:, :, 21:])
        assert result[:, :, :21].isnan().all()


def test_any_number_of_threads_gives_the_same_gradients(restore_num_threads):
    inputs = tensors(5, 3, 150, 140, 40, 40, dtype=torch.float32)
    results = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        results.append(torch.autograd.grad(dot_product_attention(*inputs).sin().sum(), inputs))
    for result, *others in zip(*results, strict=True):
        assert all(torch.equal(result, other) for other in others)


@everywhere
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_compiled_call_is_the_same(selection, place):
    options = to_torch(SELECTIONS[selection], place)

    def function(query, key, value):
        context, weights = dot_product_attention(2 * query, key, value, **options, return_weights=True)
        return context.sin().sum() + weights.cos().sum()

    inputs = tensors(2, 2, 4, 7, 3, 5, place=place)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), function(*inputs))
    results, expected = (torch.autograd.grad(call(*inputs), inputs) for call in (compiled, function))
    torch.testing.assert_close(results, expected)


@everywhere
def test_a_compiled_call_without_gradients(place):
    inputs = tensors(2, 2, 4, 7, 3, 5, requires_grad=False, place=place)
    compiled = torch.compile(
        lambda *arguments: dot_product_attention(*arguments, causal=True) + 1, fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*inputs), dot_product_attention(*inputs, causal=True) + 1)


@pytest.mark.parametrize("return_weights", [False, True])
def test_the_operations_pass_opcheck(return_weights):
    query, key, value = tensors(2, 2, 4, 7, 3, 5)
    mask, lengths = torch.ones(2, 7), torch.tensor([3, 7])
    arguments = (query, key, value, mask, lengths, True, 0.5, return_weights)
    torch.library.opcheck(torch.ops.metafast.dot_product_attention.default, arguments)
    context, statistics, weights = torch.ops.metafast.dot_product_attention(*arguments)
    gradients = torch.ones_like(context), torch.ones_like(weights) if return_weights else None
    saved = context.detach(), statistics.detach(), weights.detach(), *gradients
    torch.library.opcheck(torch.ops.metafast.dot_product_attention_gradient.default, (*arguments[:7], *saved))


@everywhere
def test_torch_func_sees_through(place):
    query, key, value = tensors(3, 2, 4, 5, 3, 2, requires_grad=False, place=place)

    def loss(query, key, value):
        return dot_product_attention(query, key, value).sin().sum()

    query.requires_grad_()
    (expected,) = torch.autograd.grad(loss(query, key, value), query, create_graph=True)
    (second,) = torch.autograd.grad(expected.sin().sum(), query)
    query = query.detach()
    torch.testing.assert_close(torch.func.grad(loss)(query, key, value), expected.detach())
    nested = torch.func.grad(lambda query: torch.func.grad(loss)(query, key, value).sin().sum())
    torch.testing.assert_close(nested(query), second)

    per_entry = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, 0))
    results = per_entry(query[:, None], key[:1], value[:, None])
    for entry in range(3):
        one = torch.func.grad(loss)(query[entry, None], key[:1], value[entry, None])
        torch.testing.assert_close(results[entry], one)


@everywhere
def test_vmap_of_masks(place):
    query, key, value = tensors(2, 2, 4, 5, 3, 2, requires_grad=False, place=place)
    masks = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(0)).to(place) < 0.5
    results = torch.func.vmap(lambda mask: dot_product_attention(query, key, value, key_mask=mask))(masks)
    for mask, result in zip(masks, results, strict=True):
        torch.testing.assert_close(result, dot_product_attention(query, key, value, key_mask=mask))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = [tensor.to(dtype).detach() for tensor in tensors(2, 2, 6, 7, 8, 5, dtype=torch.float32)]
    wide = [tensor.float() for tensor in inputs]
    expected = dot_product_attention(*wide, return_weights=True)
    for result, wanted in zip(dot_product_attention(*inputs, return_weights=True), expected, strict=True):
        assert torch.equal(result, wanted.to(dtype))
    for tensor in (*inputs, *wide):
        tensor.requires_grad_()
    results = torch.autograd.grad(dot_product_attention(*inputs).float().sum(), inputs)
    expected = torch.autograd.grad(dot_product_attention(*wide).sum(), wide)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted.to(dtype))


@everywhere
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_mask_may_have_any_dtype(dtype, requires_grad, place):
    inputs = tensors(2, 2, 6, 7, 8, 5, dtype=torch.float32, requires_grad=requires_grad, place=place)
    mask = torch.from_numpy(SELECTIONS["everything"]["key_mask"]).to(place)
    results, expected = (dot_product_attention(*inputs, key_mask=one) for one in (mask.to(dtype), mask != 0))
    assert torch.equal(results, expected)
    if requires_grad:
        pairs = zip(*(torch.autograd.grad(one.sin().sum(), inputs) for one in (results, expected)), strict=True)
        assert all(torch.equal(result, wanted) for result, wanted in pairs)


@everywhere
def test_no_quadratic_memory_in_the_first_order(place):
    inputs = tensors(1, 1, 4096, 4096, 8, 8, dtype=torch.float32, place=place)
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: seen.append(tensor.numel()) or tensor, lambda x: x):
        context = dot_product_attention(*inputs)
    assert max(seen) <= 4096 * 8
    assert torch.autograd.grad(context.sum(), inputs)[0].isfinite().all()


def test_two_numbers_per_query_are_kept_for_the_gradient():
    arrays = (tensor.detach().numpy() for tensor in tensors(1, 1, 64, 96, 8, 8))
    results = _core.dot_product_attention(*arrays, None, None, False, 0.3, False, True)
    assert [array.shape[-1] for array in results] == [8, 2]


def test_numpy_and_torch_have_the_same_bits():
    inputs = tensors(2, 2, 9, 11, 8, 5, dtype=torch.float32)
    with torch.no_grad():
        plain = dot_product_attention(*inputs, causal=True)
    recorded = dot_product_attention(*inputs, causal=True).detach()
    arrays = dot_product_attention(*(tensor.detach().numpy() for tensor in inputs), causal=True)
    assert_array_equal(plain.numpy(), arrays)
    assert_array_equal(recorded.numpy(), arrays)
