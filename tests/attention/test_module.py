"""The AdditiveAttention module, and keys prepared for step-by-step queries."""

import numpy as np
import pytest
import torch
from attention import additive_reference as reference

import metafast
from metafast.attention import AdditiveAttention, additive_attention, prepare


def make(num_heads=1, dropout=0.0, bias=True):
    torch.manual_seed(0)
    attention = AdditiveAttention(8, 6, 12, num_heads=num_heads, dropout=dropout, bias=bias)
    return attention, torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 4)


@pytest.mark.parametrize("bias", [False, True])
def test_one_head_is_bahdanaus_formula(bias):
    attention, query, key, value = make(bias=bias)
    assert (attention.key_projection.bias is not None) == bias
    projected = attention.query_projection(query), attention.key_projection(key)
    context, weights = attention(query, key, value, return_weights=True)
    expected = reference.eager(*projected, value, attention.score_weight)
    torch.testing.assert_close(context, expected[0])
    torch.testing.assert_close(weights, expected[1])


def test_values_default_to_the_keys():
    attention, query, key, _ = make()
    torch.testing.assert_close(attention(query, key), attention(query, key, key))


def test_heads_score_and_average_their_own_share():
    attention, query, key, value = make(num_heads=2)
    lengths = torch.tensor([7, 0, 3])
    context, weights = attention(query, key, value, key_lengths=lengths, return_weights=True)
    assert weights.shape == (3, 2, 5, 7)
    projected = attention.query_projection(query), attention.key_projection(key)
    for head in range(2):
        columns, values = slice(6 * head, 6 * head + 6), slice(2 * head, 2 * head + 2)
        expected = additive_attention(
            *(tensor[..., columns].contiguous() for tensor in projected), value[..., values].contiguous(),
            attention.score_weight[head], key_lengths=lengths, return_weights=True,
        )  # fmt: skip
        torch.testing.assert_close(context[..., values], expected[0])
        torch.testing.assert_close(weights[:, head], expected[1])
    with pytest.raises(ValueError, match="does not divide into 2 heads"):
        attention(query, key, torch.randn(3, 7, 5))


@pytest.mark.parametrize("num_heads", [1, 2])
def test_dropout_drops_weights_in_training_only(num_heads):
    attention, query, key, value = make(num_heads=num_heads, dropout=0.5)
    value = torch.ones_like(value)
    value[0, 4:] = torch.nan
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 4:] = False
    torch.manual_seed(1)
    context, weights = attention(query, key, value, key_mask=mask, return_weights=True)
    assert not context.isnan().any()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    # Of values that are all 1 the context is the sum of the weights that are left, doubled.
    assert (context - 1).abs().max() > 0.1
    torch.manual_seed(1)
    torch.testing.assert_close(attention(query, key, value, key_mask=mask), context)
    attention.eval()
    torch.testing.assert_close(attention(query, key, value, key_mask=mask), torch.ones_like(context))


def test_dropout_keeps_the_mean():
    attention, query, key, value = make(dropout=0.3)
    many = [tensor[:1].expand(3000, -1, -1) for tensor in (query, key, value)]
    with torch.no_grad():
        mean = attention(*many).mean(0, keepdim=True)
        torch.testing.assert_close(mean, attention.eval()(query, key, value)[:1], rtol=0, atol=0.08)


def test_state_is_saved_and_trained():
    attention, query, key, value = make(num_heads=2)
    other = AdditiveAttention(8, 6, 12, num_heads=2)
    other.load_state_dict(attention.state_dict())
    torch.testing.assert_close(other(query, key, value), attention(query, key, value))
    attention(query, key, value).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())
    assert "num_heads=2" in repr(attention)


def test_compiles_as_one_graph():
    attention, query, key, value = make(num_heads=2)
    compiled = torch.compile(attention, fullgraph=True)
    torch.testing.assert_close(compiled(query, key, value), attention(query, key, value))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_autocast(dropout):
    attention, query, key, value = make(num_heads=2, dropout=dropout)
    expected = attention.eval()(query, key, value)
    with torch.autocast("cpu", torch.bfloat16):
        context = attention(query, key, value)
        attention.train()(query, key, value).float().sum().backward()
    assert context.dtype == torch.bfloat16
    torch.testing.assert_close(context.float(), expected, rtol=0.05, atol=0.05)
    assert attention.score_weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_prepared_keys_attend_step_by_step(isa, dtype, scale):
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((3, n, 10)).astype(dtype) * dtype(scale) for n in (20, 7))
    value, score_weight = rng.standard_normal((3, 7, 4)).astype(dtype), rng.standard_normal(10).astype(dtype)
    lengths, mask = np.array([7, 0, 5]), rng.random((3, 7)) < 0.8
    attend = prepare(key, value, score_weight, key_lengths=lengths, key_mask=mask)
    expected = additive_attention(
        query, key, value, score_weight, key_lengths=lengths, key_mask=mask, return_weights=True
    )
    # Nothing of the caller's arrays is kept.
    for array in (key, value, score_weight, lengths, mask):
        array[...] = 0
    tolerance = {"rtol": 0, "atol": 2e-6 if dtype == np.float32 else 1e-14}
    for step in range(20):
        context, weights = attend(query[:, step : step + 1], return_weights=True)
        np.testing.assert_allclose(context, expected[0][:, step : step + 1], **tolerance)
        np.testing.assert_allclose(weights, expected[1][:, step : step + 1], **tolerance)
    np.testing.assert_allclose(attend(query), expected[0], **tolerance)


def test_prepared_keys_with_heads_tensors_and_halves():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 6)
    score_weight = torch.randn(3, 8)
    attend = prepare(key, value, score_weight)
    torch.testing.assert_close(attend(query), additive_attention(query, key, value, score_weight))
    halves = [tensor.bfloat16() for tensor in (query, key, value, score_weight)]
    context = prepare(*halves[1:])(halves[0])
    assert context.dtype == torch.bfloat16
    torch.testing.assert_close(context, additive_attention(*halves), rtol=0.02, atol=0.02)


def test_prepared_keys_of_many_threads_give_the_same_bits(restore_num_threads):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((30, n, 64)).astype(np.float32) for n in (40, 50, 50))
    attend = prepare(key, value, rng.standard_normal(64).astype(np.float32))
    results = []
    for num_threads in (1, 3):
        metafast.set_num_threads(num_threads)
        results.append(attend(query))
    np.testing.assert_array_equal(*results)
