"""How far float32 results are from exact ones, over all ranges in which the form of the sums changes."""

import numpy as np
import pytest
import torch
from attention import additive_reference as reference

from metafast.attention import additive_attention

SCORE_ERROR = 2.5e-7  # relative to the sum of |score_weight|
CONTEXT_ERROR = 1e-6  # relative to the largest |value|
GRADIENT_ERROR = 5e-6  # relative to the gradient's largest element

BATCH, QUERIES, KEYS, COLUMNS = 4, 33, 48, 24


def normal(scale, width, rng):
    return rng.standard_normal((BATCH, QUERIES, width)) * scale, rng.standard_normal((BATCH, KEYS, width)) * scale


def half_range(reach, width, rng):
    """Keys that span exactly +-reach in every column."""
    query, key = normal(3.0, width, rng)
    key = rng.uniform(-reach, reach, key.shape)
    key[:, 0], key[:, 1] = reach, -reach
    return query, key


def opposite(scale, width, rng):
    """Keys near minus a query: sums that cancel."""
    query, key = normal(scale, width, rng)
    key[:, :QUERIES] = -query + rng.standard_normal(query.shape) * 1e-3
    return query, key


def offset(distance, width, rng):
    query, key = normal(1.0, width, rng)
    return query - distance, key + distance


CASES = {
    **{f"scale {scale}": (normal, scale) for scale in (0.01, 0.03, 0.1, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 60.0, 1e4)},
    **{f"half range {reach}": (half_range, reach) for reach in (0.5, 9.05, 11.9, 12.0, 12.1, 16.9, 17.0)},
    **{f"opposite {scale}": (opposite, scale) for scale in (0.1, 1.0, 4.0, 20.0)},
    **{f"offset {distance}": (offset, distance) for distance in (5.0, -9.0, 30.0, -30.0)},
}


def make(case, width, weights="random", seed=0):
    rng = np.random.default_rng(seed)
    function, number = CASES[case]
    query, key = function(number, width, rng)
    value = rng.standard_normal((BATCH, KEYS, COLUMNS))
    score_weight = rng.standard_normal(width) * 0.5
    if weights == "same sign":
        score_weight = np.abs(score_weight) + 0.1
    elif weights == "far apart":
        score_weight *= np.exp2(-rng.integers(0, 40, width))
    elif weights == "tiny":
        score_weight *= 1e-30
    elif weights == "some zero":
        score_weight[::3] = 0.0
    return [array.astype(np.float32) for array in (query, key, value, score_weight)]


def check_scores(case, weights, width, device="cpu", slack=0.0):
    query, key, _, score_weight = make(case, width, weights)
    # The logarithms of the weights are the scores up to a shift per query. With a 1-norm of 1 no weight is small.
    score_weight = (score_weight / np.abs(score_weight).sum()).astype(np.float32)
    exact = reference.scores(query[:, None], key[:, None], score_weight[None])[:, 0]
    tensors = [torch.from_numpy(array).to(device) for array in (query, key, key, score_weight)]
    _, found = additive_attention(*tensors, return_weights=True)
    error = np.log(found.cpu().double().numpy()) - (exact - np.log(np.exp(exact).sum(-1, keepdims=True)))
    # The weights' own rounding, and that of the softmax's sum, are not the score's.
    softmax_error = 2.5e-7
    assert np.abs(error - error.mean(-1, keepdims=True)).max() <= SCORE_ERROR + softmax_error + slack


def check_context_and_gradients(case, queries, device="cpu"):
    query, key, value, score_weight = make(case, 64)
    query = query[:, :queries]
    context_gradient = torch.from_numpy(np.random.default_rng(1).standard_normal((BATCH, queries, COLUMNS)))

    def run(function, dtype, device="cpu"):
        arrays = query, key, value, score_weight
        arguments = [torch.from_numpy(array).to(device, dtype).requires_grad_() for array in arrays]
        context = function(*arguments)
        context = context[0] if isinstance(context, tuple) else context
        gradients = torch.autograd.grad(context, arguments, context_gradient.to(context))
        return [tensor.detach().cpu().double() for tensor in (context, *gradients)]

    exact = run(reference.eager, torch.float64)
    eager = run(reference.eager, torch.float32)
    ours = run(additive_attention, torch.float32, device)
    names = "context", "query", "key", "value", "score_weight"
    for name, right, peer, found in zip(names, exact, eager, ours, strict=True):
        scale = np.abs(value).max() if name == "context" else right.abs().max()
        limit = (CONTEXT_ERROR if name == "context" else GRADIENT_ERROR) * scale
        own_error = (peer - right).abs().max()
        assert (found - right).abs().max() <= max(limit, 2 * own_error), name


@pytest.mark.parametrize("weights", ["random", "same sign", "far apart", "tiny", "some zero"])
@pytest.mark.parametrize("case", CASES)
def test_scores(isa, case, weights):
    for width in (16, 40, 128):
        check_scores(case, weights, width)


@pytest.mark.parametrize("queries", [1, 3, 33])
@pytest.mark.parametrize("case", CASES)
def test_context_and_gradients(case, queries):
    check_context_and_gradients(case, queries)
