"""The values of dot-product attention, against the definition in float64."""

import numpy as np
import pytest
import torch
from attention import dot_product_reference as reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import metafast
from metafast.attention import dot_product_attention

TOLERANCE = {np.float32: {"rtol": 2e-5, "atol": 2e-5}, np.float64: {"rtol": 1e-11, "atol": 1e-12}}
LAYOUTS = ("contiguous", "heads inside", "every second", "backwards", "transposed", "offset")


def arrange(array, layout):
    """Give an array [B, heads, rows, columns] the same numbers in another place in memory."""
    if layout == "heads inside":
        return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    if layout == "every second":
        wide = np.full([2 * size for size in array.shape], np.nan, array.dtype)
        view = wide[::2, ::2, ::2, ::2]
    elif layout == "backwards":
        view = np.empty_like(array)[:, :, ::-1]
    elif layout == "transposed":
        view = np.empty(array.shape[::-1], array.dtype).T
    elif layout == "offset":
        view = np.empty([size + 1 for size in array.shape], array.dtype)[1:, 1:, 1:, 1:]
    else:
        return np.ascontiguousarray(array)
    view[...] = array
    return view


def attend(place, *arrays, **options):
    """Attend to arrays on the CPU, or to tensors with their numbers elsewhere; return arrays."""
    if place is None:
        return dot_product_attention(*arrays, **options)

    def tensor(array):
        return torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy()).to(place)

    options = {name: tensor(option) if isinstance(option, np.ndarray) else option for name, option in options.items()}
    results = dot_product_attention(*map(tensor, arrays), **options)
    return tuple(map(to_array, results)) if isinstance(results, tuple) else to_array(results)


def to_array(tensor):
    return tensor.cpu().numpy()


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    batch, heads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    queries = draw(st.sampled_from([0, 1, 2, 4, 5, 7, 24, 25, 60]))
    keys = draw(st.sampled_from([0, 1, 2, 3, 15, 16, 17, 64, 127, 128, 129, 150]))
    width, value_width = (draw(st.sampled_from([0, 1, 3, 4, 8, 15, 16, 17, 37, 64, 65])) for _ in range(2))
    arrays = [
        arrange(rng.standard_normal(shape).astype(dtype), draw(st.sampled_from(LAYOUTS)))
        for shape in ((batch, heads, queries, width), (batch, heads, keys, width), (batch, heads, keys, value_width))
    ]
    options = {"causal": draw(st.booleans()), "scale": draw(st.sampled_from([None, None, 0.0, 1.0, -0.7, 3.0]))}
    if draw(st.booleans()):
        share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
        flag_dtype = draw(st.sampled_from([np.bool_, np.uint8, np.int64, np.float32]))
        options["key_mask"] = (rng.random((batch, keys)) < share).astype(flag_dtype)
    if draw(st.booleans()):
        integers = draw(st.sampled_from([np.int64, np.int32, np.uint8]))
        options["key_lengths"] = rng.integers(0, keys + 1, batch).astype(integers)
    return arrays, options


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_context_and_weights_are_those_of_the_definition(place, problem):
    arrays, options = problem
    context, weights = attend(place, *arrays, **options, return_weights=True)
    expected_context, expected_weights = reference.dot_product_attention(*arrays, **options)
    assert context.dtype == weights.dtype == arrays[0].dtype
    tolerance = TOLERANCE[arrays[0].dtype.type]
    assert_allclose(context, expected_context, **tolerance)
    assert_allclose(weights, expected_weights, **tolerance)
    assert not weights[expected_weights == 0].any()
    alone = attend(place, *arrays, **options)
    if place is None:
        assert_array_equal(alone, context)
    else:  # by other kernels of torch's
        assert_allclose(alone, expected_context, **tolerance)


def random_problem(*extents, dtype=np.float32, seed=0):
    batch, heads, queries, keys, width, value_width = extents
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((batch, heads, *shape)).astype(dtype)
        for shape in ((queries, width), (keys, width), (keys, value_width))
    ]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_float32_is_as_close_as_one_softmax_in_float32(place, scale):
    query, key, value = random_problem(1, 2, 40, 700, 64, 64)
    expected, _ = reference.dot_product_attention(query, key, value, scale=scale)
    scores = np.float32(scale) * query @ np.swapaxes(key, 2, 3)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    plain = powers / powers.sum(-1, keepdims=True) @ value
    error, plain_error = (np.abs(context - expected).max() for context in (
        attend(place, query, key, value, scale=scale), plain
    ))  # fmt: skip
    assert error <= max(2 * plain_error, 1e-6 * np.abs(value).max())


def test_a_query_that_sees_no_key_gets_zeros(place):
    arrays = random_problem(3, 2, 30, 140, 16, 5)
    mask = np.ones((3, 140), bool)
    mask[1] = False
    mask[2, 0:3] = False
    context, weights = attend(
        place, *arrays, key_mask=mask, key_lengths=np.array([0, 140, 140]), causal=True, return_weights=True
    )
    alone = attend(place, *arrays, key_mask=mask, key_lengths=np.array([0, 140, 140]), causal=True)
    assert_allclose(alone, context, rtol=1e-5, atol=1e-6)
    assert_array_equal(alone[context == 0], 0)
    assert_array_equal(context[:2], 0)
    assert_array_equal(weights[:2], 0)
    assert_array_equal(context[2, :, :3], 0)
    assert np.abs(context[2, :, 3:]).min() > 0
    assert_array_equal(attend(place, *random_problem(1, 1, 3, 0, 4, 2)), np.zeros((1, 1, 3, 2)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("queries", [2, 50])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("return_weights", [False, True])
def test_garbage_in_a_masked_key_reaches_nothing(place, garbage, queries, causal, return_weights):
    query, key, value = random_problem(2, 2, queries, 200, 20, 20)
    mask = np.random.default_rng(1).random((2, 200)) < 0.6
    lengths = np.array([130, 200])
    takes = (mask & (np.arange(200) < lengths[:, None]))[:, None, :, None]
    options = {"key_mask": mask, "key_lengths": lengths, "causal": causal, "return_weights": return_weights}
    clean = attend(place, query, key, value, **options)
    dirty = attend(
        place, query, np.where(takes, key, np.float32(garbage)), np.where(takes, value, np.float32(garbage)), **options
    )
    for was, became in zip(*((clean, dirty) if return_weights else ([clean], [dirty])), strict=True):
        assert np.isfinite(was).all()
        assert_array_equal(became, was)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [3, 150])
def test_garbage_in_a_later_key_reaches_no_earlier_query(isa, garbage, queries):
    query, key, value = random_problem(1, 2, queries, queries, 20, 20)
    clean = dot_product_attention(query, key, value, causal=True)
    first = queries // 2
    key[:, :, first], value[:, :, first] = garbage, garbage
    dirty = dot_product_attention(query, key, value, causal=True)
    assert_array_equal(dirty[:, :, :first], clean[:, :, :first])
    assert not np.isfinite(dirty[:, :, first:]).any()


@pytest.mark.parametrize("return_weights", [False, True])
def test_garbage_in_a_key_after_the_last_query_reaches_nothing(place, return_weights):
    query, key, value = random_problem(1, 2, 50, 90, 20, 20)
    expected, _ = reference.dot_product_attention(query, key, value, causal=True)
    key[:, :, 50:], value[:, :, 50:] = np.nan, np.inf
    result = attend(place, query, key, value, causal=True, return_weights=return_weights)
    assert_allclose(result[0] if return_weights else result, expected, rtol=1e-5, atol=1e-6)


def test_garbage_in_a_query_that_sees_no_key_reaches_nothing(place):
    arrays = random_problem(2, 2, 30, 40, 8, 8)
    lengths = np.array([0, 40])
    clean = attend(place, *arrays, key_lengths=lengths)
    arrays[0][0] = np.nan
    assert_array_equal(attend(place, *arrays, key_lengths=lengths), clean)
    assert_array_equal(attend(place, *arrays, key_lengths=lengths, return_weights=True)[0][0], 0)


def test_nan_in_one_query_stays_there(place):
    query, key, value = random_problem(1, 2, 50, 200, 20, 20)
    clean = attend(place, query, key, value)
    query[0, 1, 17, 3] = np.nan
    dirty = attend(place, query, key, value)
    assert np.isnan(dirty[0, 1, 17]).all()
    dirty[0, 1, 17] = clean[0, 1, 17]
    assert_array_equal(dirty, clean)


def test_scores_of_minus_infinity_weigh_nothing_beside_others(place):
    query, key, value = random_problem(1, 1, 10, 300, 4, 3, dtype=np.float64)
    query[..., 0], key[:, :, :130, 0] = 1.0, -np.inf
    expected = attend(place, query, key[:, :, 130:], value[:, :, 130:])
    assert_allclose(attend(place, query, key, value), expected, rtol=1e-13)


@pytest.mark.parametrize("magnitude", [1e-30, 1e4, 1e15])
def test_huge_and_tiny_scores(place, magnitude):
    query, key, value = random_problem(1, 2, 9, 150, 8, 3, dtype=np.float64)
    query = query * magnitude
    expected, _ = reference.dot_product_attention(query, key, value)
    assert_allclose(attend(place, query, key, value), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extents", [(2, 3, 500, 300, 33, 20), (40, 4, 30, 30, 16, 16)])
def test_any_number_of_threads_gives_the_same_bits(restore_num_threads, extents, causal):
    arrays = random_problem(*extents)
    results = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        results.append(dot_product_attention(*arrays, causal=causal))
    assert_array_equal(results[0], results[1])
    assert_array_equal(results[0], results[2])


def test_inputs_are_left_alone():
    arrays = random_problem(2, 2, 30, 30, 8, 8)
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    dot_product_attention(*arrays, causal=True, return_weights=True)
    for array, copy in zip(arrays, copies, strict=True):
        assert_array_equal(array, copy)
