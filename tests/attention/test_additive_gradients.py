"""Additive attention's derivatives: kernels against eager torch, and as torch sees them."""

import numpy as np
import pytest
import torch
from attention import additive_reference as reference
from hypothesis import given
from hypothesis import strategies as st

import metafast
from metafast.attention import additive_attention

NAMES = "query", "key", "value", "score_weight", "context_gradient", "weights_gradient"


def make(batch, heads, queries, keys, width, columns, *, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch,) if heads == 0 else (batch, heads)

    def normal(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator)

    arrays = (
        normal(*shape, queries, width) * scale,
        normal(*shape, keys, width) * scale,
        normal(*shape, keys, columns),
        normal(*((width,) if heads == 0 else (heads, width))) / max(width, 1) ** 0.5,
    )
    gradients = normal(*shape, queries, columns), normal(*shape, queries, keys)
    # Rounded at once, so that the reference computes from the very same numbers.
    return [tensor.to(dtype).double() for tensor in arrays], [tensor.to(dtype).double() for tensor in gradients]


def derivatives(function, arrays, gradients, dtype, *, with_weights, second, device="cpu"):
    """First derivatives, or with `second` those of a weighted sum of them."""
    inputs = [tensor.to(device, dtype).requires_grad_() for tensor in arrays]
    outer = [tensor.to(device, dtype).requires_grad_() for tensor in gradients]
    results = function(*inputs)
    used = 2 if with_weights else 1
    first = torch.autograd.grad(results[:used], inputs, outer[:used], create_graph=second)
    if not second:
        return first
    cotangents = [torch.cos(torch.arange(g.numel(), dtype=torch.float64)).view(g.shape).to(g) for g in first]
    return torch.autograd.grad(first, [*inputs, *outer[:used]], cotangents)


def compare(shape, *, scale=1.0, dtype=torch.float64, part=None, key_mask=None, key_lengths=None, seed=0,
            with_weights=True, second=False, device="cpu"):  # fmt: skip
    arrays, gradients = make(*shape, scale=scale, dtype=dtype, seed=seed)
    options = {"with_weights": with_weights, "second": second}

    def ours(*inputs):
        flags = {"key_mask": key_mask, "key_lengths": key_lengths}
        flags = {name: flag if flag is None else flag.to(device) for name, flag in flags.items()}
        return additive_attention(*inputs, **flags, return_weights=True)

    found = [result.cpu() for result in derivatives(ours, arrays, gradients, dtype, device=device, **options)]
    exact = derivatives(lambda *inputs: reference.eager(*inputs, part), arrays, gradients, torch.float64, **options)
    eager = derivatives(lambda *inputs: reference.eager(*inputs, part), arrays, gradients, dtype, **options)
    for name, ours_, right, peer in zip(NAMES, found, exact, eager, strict=False):
        if right.numel() == 0:
            continue
        limit = (2e-5 if dtype == torch.float32 else 1e-11) * max(right.abs().max(), 1e-3)
        assert (ours_ - right).abs().max() <= max(limit, 3 * (peer - right).abs().max()), name


@given(
    batch=st.integers(0, 3), heads=st.integers(0, 3), queries=st.integers(0, 40), keys=st.integers(1, 40),
    width=st.integers(0, 40), columns=st.integers(0, 20), scale=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]), masked=st.booleans(), second=st.booleans(),
    with_weights=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equal_eager(batch, heads, queries, keys, width, columns, scale, dtype, masked, second, with_weights, seed):
    part = key_mask = None
    if masked:
        key_mask = torch.rand(batch, keys, generator=torch.Generator().manual_seed(seed)) < 0.6
        part = key_mask
    compare((batch, heads, queries, keys, width, columns), scale=scale, dtype=dtype, part=part, key_mask=key_mask,
            seed=seed, with_weights=with_weights, second=second)  # fmt: skip


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.05, 2.0, 30.0])
@pytest.mark.parametrize("queries", [1, 3, 45])
def test_every_level_equals_eager(isa, queries, scale, dtype, second):
    lengths = torch.tensor([37, 0, 20])
    part = torch.arange(37) < lengths[:, None]
    compare((3, 2, queries, 37, 50, 23), scale=scale, dtype=dtype, part=part, key_lengths=lengths, second=second)


def attend_with_weights(*inputs):
    return additive_attention(*inputs, return_weights=True)


@pytest.mark.parametrize("shape", [(1, 0, 700, 300, 64, 32), (40, 0, 30, 40, 64, 32), (2, 3, 300, 100, 64, 7)])
def test_same_bits_for_any_number_of_threads(shape, restore_num_threads):
    arrays, gradients = make(*shape, dtype=torch.float32)
    for second in (False, True):
        results = []
        for num_threads in (1, 2, 5):
            metafast.set_num_threads(num_threads)
            options = {"with_weights": True, "second": second}
            results.append(derivatives(attend_with_weights, arrays, gradients, torch.float32, **options))
        for other in results[1:]:
            for found, expected in zip(other, results[0], strict=True):
                assert torch.equal(found, expected)


def test_what_masked_keys_hold_reaches_no_gradient():
    arrays, _ = make(2, 0, 9, 12, 10, 5)
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    results = []
    for poison in (0.0, torch.nan, torch.inf):
        query, key, value, score_weight = (tensor.clone() for tensor in arrays)
        key[~mask], value[~mask] = poison, poison
        inputs = [tensor.requires_grad_() for tensor in (query, key, value, score_weight)]
        context = additive_attention(*inputs, key_mask=mask)
        first = torch.autograd.grad(context.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
        results.append([*first, *second])
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.equal(found, expected)
    assert not results[0][1][~mask].any()
    assert not results[0][2][~mask].any()


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("return_weights", [False, True])
def test_gradcheck_of_both_orders(heads, return_weights):
    arrays, _ = make(2, heads, 3, 4, 5, 3)
    inputs = [tensor.requires_grad_() for tensor in arrays]
    mask = torch.tensor([[True, True, False, True], [False, False, False, False]])

    def function(*inputs):
        return additive_attention(*inputs, key_mask=mask, return_weights=return_weights)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_gradient_of_the_weights_alone():
    arrays, _ = make(2, 0, 3, 4, 5, 3)
    inputs = [tensor.requires_grad_() for tensor in arrays]
    _, weights = additive_attention(*inputs, return_weights=True)
    gradients = torch.autograd.grad(weights[..., 0].sum(), inputs)
    _, expected = reference.eager(*inputs)
    for found, right in zip(
        gradients, torch.autograd.grad(expected[..., 0].sum(), inputs, allow_unused=True), strict=True
    ):
        torch.testing.assert_close(found, torch.zeros_like(found) if right is None else right)


def test_third_order_raises():
    arrays, _ = make(1, 0, 2, 3, 4, 2)
    score_weight = arrays[3].requires_grad_()
    loss = additive_attention(*arrays).sin().sum()
    (first,) = torch.autograd.grad(loss, score_weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), score_weight, create_graph=True)
    with pytest.raises(RuntimeError, match="not of third"):
        torch.autograd.grad(second.square().sum(), score_weight)


def test_some_arguments_without_gradient():
    arrays, _ = make(2, 0, 3, 4, 5, 3)
    value = arrays[2].requires_grad_()
    (found,) = torch.autograd.grad(additive_attention(*arrays).square().sum(), value)
    (expected,) = torch.autograd.grad(reference.eager(*arrays)[0].square().sum(), value)
    torch.testing.assert_close(found, expected)


def test_half_precision_gradients_come_in_half_precision():
    arrays, _ = make(2, 0, 3, 4, 5, 3)
    inputs = [tensor.bfloat16().requires_grad_() for tensor in arrays]
    gradients = torch.autograd.grad(additive_attention(*inputs).float().square().sum(), inputs)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_as_one_graph(masked):
    arrays, _ = make(2, 0, 7, 9, 10, 5, dtype=torch.float32)
    lengths = torch.tensor([9, 4]) if masked else None

    def loss(query, key, value, score_weight):
        context, weights = additive_attention(
            query * 2, key, value, score_weight, key_lengths=lengths, return_weights=True
        )
        return context.sin().sum() + weights.square().sum()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True)):
        inputs = [tensor.float().requires_grad_() for tensor in arrays]
        value = function(*inputs)
        results.append((value, *torch.autograd.grad(value, inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_compiles_where_an_argument_comes_twice():
    query, key, _, score_weight = (tensor.float() for tensor in make(2, 0, 3, 4, 5, 5)[0])

    def function(query, key, score_weight):
        return additive_attention(query, key, key, score_weight).square().sum()

    results = []
    for call in (function, torch.compile(function, fullgraph=True)):
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key, score_weight)]
        results.append(torch.autograd.grad(call(*inputs), inputs))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_operation_itself_has_both_derivatives():
    inputs = [tensor.requires_grad_() for tensor in make(2, 0, 3, 4, 5, 3)[0]]

    def operation(*inputs):
        return torch.ops.metafast.additive_attention(*inputs, None, None)

    assert torch.autograd.gradcheck(operation, inputs)
    assert torch.autograd.gradgradcheck(operation, inputs)
    torch.library.opcheck(torch.ops.metafast.additive_attention, (*inputs, None, None))


def test_batched_gradients():
    inputs = [tensor.requires_grad_() for tensor in make(2, 0, 3, 4, 5, 3)[0]]
    context = additive_attention(*inputs)
    several = torch.randn(6, *context.shape, dtype=torch.float64)
    batched = torch.autograd.grad(context, inputs, several, is_grads_batched=True, retain_graph=True)
    for entry in range(6):
        one_by_one = torch.autograd.grad(context, inputs, several[entry], retain_graph=True)
        for found, expected in zip(batched, one_by_one, strict=True):
            torch.testing.assert_close(found[entry], expected)


def test_saturated_queries_have_no_gradient(isa):
    query = torch.full((1, 8, 16), 30.0, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    key, value = torch.randn(1, 40, 16, generator=generator) * 0.1, torch.randn(1, 40, 8, generator=generator)
    context = additive_attention(query, key, value, 100 * torch.randn(16, generator=generator))
    assert not torch.autograd.grad(context.square().sum(), query)[0].any()


def test_vmap_over_nothing():
    query, key, value, score_weight = make(2, 0, 3, 4, 5, 3)[0]
    mapped = torch.func.vmap(lambda query: additive_attention(query, key, value, score_weight))
    assert mapped(torch.zeros(0, *query.shape, dtype=torch.float64)).shape == (0, 2, 3, 3)


def test_torch_func_transforms():
    arrays, _ = make(2, 0, 3, 4, 5, 3)

    def loss(score_weight, attention=additive_attention):
        return attention(*arrays[:3], score_weight).sin().sum()

    def expected(score_weight):
        return loss(score_weight, lambda *inputs: reference.eager(*inputs)[0])

    score_weight = arrays[3]
    torch.testing.assert_close(torch.func.grad(loss)(score_weight), torch.func.grad(expected)(score_weight))
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(score_weight)
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(expected))(score_weight))
    several = torch.stack([score_weight, 2 * score_weight])
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(loss))(several), torch.func.vmap(torch.func.grad(expected))(several)
    )


def test_maml_step_through_attention():
    """The gradient of the loss after an inner step, with respect to where that step began (Finn et al. 2017)."""
    arrays, _ = make(2, 0, 5, 6, 8, 3)
    target = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def outer(attention):
        score_weight = arrays[3].clone().requires_grad_()
        key = arrays[1].clone().requires_grad_()
        inner = (attention(arrays[0], key, arrays[2], score_weight) - target).square().mean()
        of_key, of_weight = torch.autograd.grad(inner, (key, score_weight), create_graph=True)
        adapted = attention(arrays[0], key - 0.5 * of_key, arrays[2], score_weight - 0.5 * of_weight)
        return torch.autograd.grad((adapted - target).square().mean(), (key, score_weight))

    for found, expected in zip(
        outer(additive_attention), outer(lambda *inputs: reference.eager(*inputs)[0]), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_expanded_gradients_are_taken_as_they_are():
    arrays, _ = make(2, 0, 3, 4, 5, 3)
    inputs = [tensor.requires_grad_() for tensor in arrays]
    context = additive_attention(*inputs)
    found = torch.autograd.grad(context.sum(), inputs)  # the gradient of a sum is one number, expanded
    expected = torch.autograd.grad(reference.eager(*inputs)[0].sum(), inputs)
    for ours, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), right.numpy(), rtol=1e-10, atol=1e-12)
