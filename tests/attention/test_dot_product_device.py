"""What dot-product attention adds on a device to torch's own: the rest is in the tests that go over every place."""

import re

import pytest
import torch
from attention import dot_product_reference as reference
from common import cards
from torch.utils.checkpoint import checkpoint

from metafast.attention import _dot_product_device, dot_product_attention

pytestmark = pytest.mark.parametrize("place", [*cards.CUDA, "host"], indirect=True)


def tensors(place, *extents, dtype=torch.float32, requires_grad=True, seed=0):
    batch, heads, queries, keys, width, value_width = extents
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, heads, *shape, generator=generator).to(place, dtype).requires_grad_(requires_grad)
        for shape in ((queries, width), (keys, width), (keys, value_width))
    ]


@pytest.fixture
def fused_calls(monkeypatch):
    """The calls of torch's fused attention, which are carried out."""
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        calls.append(options)
        return fused(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return calls


def test_the_fused_kernels_are_given_whole_vectors(place, monkeypatch):
    given = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def note(query, key, value, **options):
        given.extend((query, key, value))
        return fused(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    for columns in (slice(0, 8), slice(1, 9)):
        wide = torch.randn(2, 3, 5, 9, device=place)
        own = [wide[..., columns].clone() for _ in range(3)]
        torch.testing.assert_close(dot_product_attention(*[wide[..., columns]] * 3), fused(*own))
    assert len(given) == 6
    for tensor in given:
        assert tensor.data_ptr() % 16 == 0
        assert all(stride % 4 == 0 for stride in tensor.stride()[:3])


def test_more_problems_than_a_grid_has_entries(place, monkeypatch, fused_calls):
    monkeypatch.setattr(_dot_product_device, "_MOST_PROBLEMS", 3)
    for extents, calls in (((7, 2), 3), ((2, 7), 0)):
        inputs = tensors(place, *extents, 4, 5, 8, 8, dtype=torch.float64)
        lengths = torch.arange(extents[0], device=place) % 6
        for options in ({}, {"key_lengths": lengths}, {"causal": True}):
            fused_calls.clear()
            context = dot_product_attention(*inputs, **options)
            assert len(fused_calls) == calls
            expected = dot_product_attention(*inputs, **options, return_weights=True)[0]
            torch.testing.assert_close(context, expected)
            found = torch.autograd.grad(context.sin().sum(), inputs)
            torch.testing.assert_close(found, torch.autograd.grad(expected.sin().sum(), inputs))


def test_the_fused_kernels_run_once_for_context_and_gradient(place, fused_calls):
    inputs = tensors(place, 2, 3, 5, 7, 8, 8)
    context = dot_product_attention(*inputs, causal=True)
    torch.autograd.grad(context.sum(), inputs)
    assert [(options["attn_mask"], options["is_causal"]) for options in fused_calls] == [(None, True)]
    with torch.no_grad():
        dot_product_attention(*inputs, key_lengths=torch.tensor([0, 7], device=place))
    # A row of no key at all would be NaN in some of torch's versions.
    assert fused_calls[1]["attn_mask"].shape == (2, 1, 1, 7)
    assert fused_calls[1]["attn_mask"].any(-1).all()
    dot_product_attention(*inputs, return_weights=True)
    assert len(fused_calls) == 2


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_to_torch_as_it_is_and_weights_are_those_of_float32(place, dtype, causal, fused_calls):
    inputs = tensors(place, 2, 2, 40, 90, 24, 20, dtype=dtype)
    mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(1)).to(place) < 0.7
    expected, expected_weights = reference.dot_product_attention(
        *(tensor.detach().float().cpu().numpy() for tensor in inputs), key_mask=mask.cpu().numpy(), causal=causal
    )
    context = dot_product_attention(*inputs, key_mask=mask, causal=causal)
    assert context.dtype == dtype
    assert len(fused_calls) == 1
    # The weights are rounded to the dtype before they meet the values, and the result is.
    bound = 2 * torch.finfo(dtype).eps * inputs[2].abs().max().item()
    assert abs(context.detach().double().cpu().numpy() - expected).max() < bound

    results = dot_product_attention(*inputs, key_mask=mask, causal=causal, return_weights=True)
    wide = dot_product_attention(
        *(tensor.float() for tensor in inputs), key_mask=mask, causal=causal, return_weights=True
    )
    for result, wanted in zip(results, wide, strict=True):
        assert torch.equal(result, wanted.to(dtype))
    assert abs(wide[1].detach().double().cpu().numpy() - expected_weights).max() < 1e-6

    gradients = torch.autograd.grad(context.float().sin().sum(), inputs)
    wanted = torch.autograd.grad(results[0].float().sin().sum(), inputs)
    for gradient, other in zip(gradients, wanted, strict=True):
        assert gradient.dtype == dtype
        assert (gradient - other).abs().max() <= 8 * torch.finfo(dtype).eps * other.abs().max()


def test_float32_stays_float32_under_autocast(place):
    inputs = tensors(place, 1, 2, 9, 9, 8, 8)
    expected = [dot_product_attention(*inputs), *dot_product_attention(*inputs, return_weights=True)]
    with torch.autocast(place.type, torch.bfloat16):
        results = [dot_product_attention(*inputs), *dot_product_attention(*inputs, return_weights=True)]
        (gradient,) = torch.autograd.grad(results[0].sum(), inputs[0], create_graph=True)
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))
    (wanted,) = torch.autograd.grad(expected[0].sum(), inputs[0], create_graph=True)
    assert torch.equal(gradient, wanted)


def test_one_tensor_may_be_query_key_and_value(place):
    def gradients(function):
        (x,) = tensors(place, 1, 2, 6, 6, 4, 4, dtype=torch.float64)[:1]
        (first,) = torch.autograd.grad(function(x, x, x).sin().sum(), x, create_graph=True)
        return first, *torch.autograd.grad(first.sin().sum(), x)

    def plain(query, key, value):
        return torch.softmax(query @ key.mT / 2, -1) @ value

    torch.testing.assert_close(gradients(dot_product_attention), gradients(plain))


def test_only_the_gradients_asked_for_are_computed(place):
    for wanted in range(3):
        inputs = tensors(place, 1, 2, 5, 6, 4, 3, requires_grad=False)
        inputs[wanted].requires_grad_()
        found = []
        for options in ({}, {"return_weights": True}):
            result = dot_product_attention(*inputs, **options)
            result = result[0] if options else result
            (first,) = torch.autograd.grad(result.sin().sum(), inputs[wanted], create_graph=True)
            found.append((first, *torch.autograd.grad(first.sin().sum(), inputs[wanted], allow_unused=True)))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_graph_is_kept_as_long_as_torch_keeps_its_own(place):
    inputs = tensors(place, 1, 2, 5, 6, 4, 3)
    context = dot_product_attention(*inputs)
    loss = context.sin().sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    assert context.grad_fn.recorded is not None
    second = torch.autograd.grad(loss, inputs)
    assert context.grad_fn.recorded is None
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)


def test_a_changed_result_is_noticed(place):
    inputs = tensors(place, 1, 2, 5, 6, 8, 8)
    context = dot_product_attention(*inputs)
    context.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(context.sum(), inputs)
    context = dot_product_attention(*inputs)
    with torch.no_grad():
        inputs[1].mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(context.sum(), inputs)


def test_checkpointing_has_the_same_gradients(place):
    inputs = tensors(place, 2, 2, 5, 6, 8, 8)
    lengths = torch.tensor([4, 6], device=place)

    def block(query, key, value):
        return dot_product_attention(query.sin(), key, value, key_lengths=lengths).cos().sum()

    expected = torch.autograd.grad(block(*inputs), inputs)
    for use_reentrant in (False, True):
        result = checkpoint(block, *inputs, use_reentrant=use_reentrant)
        for tensor in inputs:
            tensor.grad = None
        result.backward()
        for tensor, wanted in zip(inputs, expected, strict=True):
            torch.testing.assert_close(tensor.grad, wanted)


def test_what_is_saved_elsewhere_is_not_kept_here_as_well(place):
    inputs = tensors(place, 2, 2, 5, 6, 8, 8)
    expected = torch.autograd.grad(dot_product_attention(*inputs).sin().sum(), inputs)
    with torch.autograd.graph.save_on_cpu():
        context = dot_product_attention(*inputs)
    assert context.grad_fn.recorded is None
    results = torch.autograd.grad(context.sin().sum(), inputs)
    assert all(torch.equal(result, wanted) for result, wanted in zip(results, expected, strict=True))


def test_a_batch_of_cotangents(place):
    inputs = tensors(place, 2, 2, 3, 4, 5, 3, dtype=torch.float64)
    context = dot_product_attention(*inputs, causal=True)
    cotangents = torch.randn(4, *context.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cotangents = cotangents.to(place)
    results = torch.autograd.grad(context, inputs, cotangents, retain_graph=True, is_grads_batched=True)
    for entry, cotangent in enumerate(cotangents):
        expected = torch.autograd.grad(context, inputs, cotangent, retain_graph=True)
        torch.testing.assert_close([result[entry] for result in results], list(expected))


def test_forward_mode(place):
    inputs = tensors(place, 1, 2, 3, 4, 5, 3, dtype=torch.float64, requires_grad=False)
    tangents = tensors(place, 1, 2, 3, 4, 5, 3, dtype=torch.float64, requires_grad=False, seed=1)
    _, tangent = torch.func.jvp(dot_product_attention, tuple(inputs), tuple(tangents))
    step = 1e-6
    ahead, behind = (
        dot_product_attention(*(x + sign * step * t for x, t in zip(inputs, tangents, strict=True))) for sign in (1, -1)
    )
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_compiled_call_looks_at_lengths_when_it_runs(place, requires_grad):
    inputs = tensors(place, 2, 2, 5, 6, 8, 8, requires_grad=requires_grad)
    compiled = torch.compile(
        lambda *arguments, **options: dot_product_attention(*arguments, **options), fullgraph=True, backend="aot_eager"
    )
    lengths = torch.tensor([4, 6], device=place)
    torch.testing.assert_close(
        compiled(*inputs, key_lengths=lengths), dot_product_attention(*inputs, key_lengths=lengths)
    )
    with pytest.raises(ValueError, match=re.escape("key_lengths[0] is 7, expected 0 to 6")):
        compiled(*inputs, key_lengths=lengths + 3)


def test_the_check_of_lengths_passes_opcheck(place):
    lengths = torch.tensor([4, 6], device=place)
    torch.library.opcheck(torch.ops.metafast.checked_key_lengths.default, (lengths, 6))


def test_vmap_of_lengths(place):
    inputs = tensors(place, 2, 2, 5, 6, 8, 8, requires_grad=False)
    lengths = torch.tensor([[4, 6], [0, 1], [2, 5]], device=place)

    def attend(lengths):
        return dot_product_attention(*inputs, key_lengths=lengths)

    results = torch.func.vmap(attend)(lengths)
    for one, result in zip(lengths, results, strict=True):
        torch.testing.assert_close(result, attend(one))
    with pytest.raises(ValueError, match="is 7, expected 0 to 6"):
        torch.func.vmap(attend)(lengths + 3)


@pytest.mark.parametrize("zero", range(6))
def test_any_extent_may_be_zero(place, zero):
    extents = [2, 2, 5, 6, 8, 3]
    extents[zero] = 0
    inputs = tensors(place, *extents)
    for options in ({}, {"key_mask": torch.ones(extents[0], extents[3], device=place)}, {"causal": True}):
        context = dot_product_attention(*inputs, **options)
        assert context.shape == (*extents[:3], extents[5])
        gradients = torch.autograd.grad(context.sum(), inputs, create_graph=True)
        for gradient, tensor in zip(gradients, inputs, strict=True):
            assert gradient.shape == tensor.shape
            assert gradient.isfinite().all()
        if zero == 3:
            assert not context.any()
        elif zero == 4 and not options:
            torch.testing.assert_close(context, inputs[2].mean(2, keepdim=True).expand(context.shape))


@pytest.mark.parametrize("scale", [0.0, -0.7, 1e-3])
@pytest.mark.parametrize("options", [{"causal": True}, {"key_lengths": torch.tensor([3, 6])}, {}], ids=list)
def test_any_scale(place, scale, options):
    options = {name: option if option is True else option.to(place) for name, option in options.items()}
    inputs = tensors(place, 2, 2, 5, 6, 8, 8, dtype=torch.float64)
    found = []
    for return_weights in (False, True):
        context = dot_product_attention(*inputs, **options, scale=scale, return_weights=return_weights)
        context = context[0] if return_weights else context
        found.append((context, *torch.autograd.grad(context.sin().sum(), inputs)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("return_weights", [False, True])
def test_memory_that_runs_out_is_named(place, monkeypatch, return_weights):
    def refuse(*arguments, **options):
        raise torch.OutOfMemoryError("nothing left")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    monkeypatch.setattr(torch, "softmax", refuse)
    inputs = tensors(place, 2, 2, 5, 6, 8, 8)
    with pytest.raises(
        torch.OutOfMemoryError, match=re.escape("query of shape (2, 2, 5, 8) and key of shape (2, 2, 6")
    ):
        dot_product_attention(*inputs, return_weights=return_weights)
