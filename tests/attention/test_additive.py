"""Additive attention's values: against the float64 reference, over shapes, layouts, dtypes, masks and levels."""

import threading
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from attention import additive_reference as reference
from hypothesis import given
from hypothesis import strategies as st
from returns.problems import FLAG_DTYPES, LAYOUTS, lay_out

import metafast
from metafast.attention import additive_attention, prepare


@dataclass(repr=False)
class Problem:
    """Arrays with a heads axis, and how the call under test should see them."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    score_weight: np.ndarray
    key_mask: np.ndarray | None
    key_lengths: np.ndarray | None
    layout: str

    def __repr__(self):
        masked = f"mask={self.key_mask is not None}, lengths={self.key_lengths is not None}"
        shapes = f"{self.query.shape}, {self.key.shape}, {self.value.shape}"
        return f"Problem({shapes}, {self.query.dtype}, {self.layout}, {masked})"

    def call(self, **options):
        arrays = [lay_out(array, self.layout) for array in (self.query, self.key, self.value, self.score_weight)]
        if self.query.shape[1] == 1:
            arrays = [array[:, 0] for array in arrays[:3]] + [arrays[3][0]]
        context, weights = additive_attention(
            *arrays, key_mask=self.key_mask, key_lengths=self.key_lengths, return_weights=True, **options
        )
        if self.query.shape[1] == 1:
            context, weights = context[:, None], weights[:, None]
        return context, weights

    def expected(self):
        part = reference.takes_part(len(self.key), self.key.shape[2], self.key_mask, self.key_lengths)
        return reference.additive_attention(self.query, self.key, self.value, self.score_weight, part)

    def check(self, context, weights):
        expected_context, expected_weights = self.expected()
        tolerance = 5e-6 if self.query.dtype == np.float32 else 1e-13
        np.testing.assert_allclose(weights, expected_weights, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(context, expected_context, rtol=tolerance, atol=tolerance)
        assert context.dtype == weights.dtype == self.query.dtype


@st.composite
def problems(draw):
    batch, heads = draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    queries, keys = draw(st.integers(0, 40)), draw(st.integers(0, 50))
    width, columns = draw(st.integers(0, 70)), draw(st.integers(0, 40))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    # Half ranges to either side of where the form of the sums changes.
    scale = draw(st.sampled_from([0.01, 1.0, 4.0, 12.0, 60.0, 1e4]))
    offset = draw(st.sampled_from([0.0, 0.0, 30.0, -30.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    score_weight = rng.standard_normal((heads, width)) / np.sqrt(width + 1)
    if draw(st.booleans()):
        score_weight *= rng.random((heads, width)) < 0.5
    mask = rng.random((batch, keys)) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    return Problem(
        query=(rng.standard_normal((batch, heads, queries, width)) * scale - offset).astype(dtype),
        key=(rng.standard_normal((batch, heads, keys, width)) * scale + offset).astype(dtype),
        value=rng.standard_normal((batch, heads, keys, columns)).astype(dtype),
        score_weight=score_weight.astype(dtype),
        key_mask=mask.astype(draw(st.sampled_from(FLAG_DTYPES))) if draw(st.booleans()) else None,
        key_lengths=rng.integers(0, keys + 1, batch) if draw(st.booleans()) else None,
        layout=draw(st.sampled_from(LAYOUTS)),
    )


@given(problems())
def test_equals_the_reference(problem):
    problem.check(*problem.call())


def random_problem(shape=(3, 2, 45, 37, 50, 23), dtype=np.float32, scale=1.0, mask=None, lengths=None):
    batch, heads, queries, keys, width, columns = shape
    rng = np.random.default_rng(0)
    return Problem(
        query=(rng.standard_normal((batch, heads, queries, width)) * scale).astype(dtype),
        key=(rng.standard_normal((batch, heads, keys, width)) * scale).astype(dtype),
        value=rng.standard_normal((batch, heads, keys, columns)).astype(dtype),
        score_weight=(rng.standard_normal((heads, width)) / np.sqrt(width)).astype(dtype),
        key_mask=mask,
        key_lengths=lengths,
        layout="contiguous",
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
@pytest.mark.parametrize("queries", [1, 2, 45])
def test_every_level_equals_the_reference(isa, dtype, scale, queries):
    problem = random_problem((2, 2, queries, 37, 50, 23), dtype, scale)
    problem.check(*problem.call())


@pytest.mark.parametrize("shape", [(1, 1, 700, 300, 64, 32), (40, 1, 30, 40, 64, 32), (4, 3, 128, 64, 100, 7)])
def test_same_bits_for_any_number_of_threads(shape, restore_num_threads):
    problem = random_problem(shape)
    results = []
    for num_threads in (1, 2, 5):
        metafast.set_num_threads(num_threads)
        results.append(problem.call())
    for context, weights in results[1:]:
        np.testing.assert_array_equal(context, results[0][0])
        np.testing.assert_array_equal(weights, results[0][1])


def test_context_does_not_depend_on_whether_weights_are_returned():
    problem = random_problem()
    arrays = problem.query, problem.key, problem.value, problem.score_weight
    np.testing.assert_array_equal(additive_attention(*arrays), problem.call()[0])


def test_rows_without_keys_are_zero():
    problem = random_problem(lengths=np.array([0, 37, 5]))
    context, weights = problem.call()
    assert not context[0].any()
    assert not weights[0].any()
    problem.check(context, weights)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_keys_that_take_no_part_may_hold_anything(poison):
    mask = np.random.default_rng(1).random((3, 37)) < 0.6
    clean, poisoned = random_problem(mask=mask), random_problem(mask=mask)
    for array in (poisoned.key, poisoned.value):
        array[np.broadcast_to(~mask[:, None], array.shape[:3])] = poison
    for result, expected in zip(poisoned.call(), clean.call(), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("queries", [1, 2, 45])
def test_nan_in_a_query_stays_in_its_row(queries):
    problem = random_problem((3, 2, queries, 37, 50, 23))
    expected = problem.call()[0].copy()
    problem.query[1, 1, queries - 1, 7] = np.nan
    expected[1, 1, queries - 1] = np.nan
    np.testing.assert_array_equal(problem.call()[0], expected)


def test_nan_in_a_key_or_value_stays_in_its_problem():
    problem = random_problem()
    expected = problem.call()[0].copy()
    problem.key[1, 0, 3, 4] = np.nan
    problem.value[2, 1, 5, 6] = np.nan
    expected[1, 0] = np.nan
    expected[2, 1, :, 6] = np.nan
    np.testing.assert_array_equal(problem.call()[0], expected)


def test_infinite_inputs_saturate():
    problem = random_problem(dtype=np.float64)
    problem.query[0, 0, 0, 0] = np.inf
    problem.query[0, 0, 1, 1] = -np.inf
    problem.key[1, 1, 2, 3] = np.inf
    problem.check(*problem.call())


def test_a_batch_of_one_stands_for_every_entry():
    problem = random_problem((3, 1, 9, 11, 12, 5))
    arrays = problem.query[:, 0], problem.key[:1, 0], problem.value[:1, 0], problem.score_weight[0]
    repeated = arrays[0], np.repeat(arrays[1], 3, 0), np.repeat(arrays[2], 3, 0), arrays[3]
    np.testing.assert_array_equal(additive_attention(*arrays), additive_attention(*repeated))
    tensors = [torch.from_numpy(array) for array in arrays]
    np.testing.assert_array_equal(additive_attention(*tensors), additive_attention(*repeated))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    problem = random_problem((3, 1, 9, 11, 12, 5))
    arrays = problem.query[:, 0], problem.key[:, 0], problem.value[:, 0], problem.score_weight[0]
    halves = [torch.from_numpy(array).to(dtype) for array in arrays]
    context, weights = additive_attention(*halves, return_weights=True)
    expected = additive_attention(*(half.float() for half in halves), return_weights=True)
    assert context.dtype == weights.dtype == dtype
    torch.testing.assert_close(context, expected[0].to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(weights, expected[1].to(dtype), rtol=0, atol=0)


def test_jax_arrays_come_back_as_jax_arrays():
    problem = random_problem((3, 1, 9, 11, 12, 5))
    arrays = problem.query[:, 0], problem.key[:, 0], problem.value[:, 0], problem.score_weight[0]
    context = additive_attention(*(jnp.asarray(array) for array in arrays), key_lengths=jnp.array([11, 0, 3]))
    assert isinstance(context, jax.Array)
    expected = additive_attention(*arrays, key_lengths=np.array([11, 0, 3]))
    np.testing.assert_array_equal(context, expected)


@pytest.mark.parametrize(("queries", "keys"), [(1, 10_000), (15, 9_000)])
def test_many_keys(queries, keys):
    problem = random_problem((1, 1, queries, keys, 128, 3))
    problem.check(*problem.call())
    attend = prepare(problem.key, problem.value, problem.score_weight)
    np.testing.assert_allclose(attend(problem.query), problem.expected()[0], atol=5e-6)


def test_weights_so_large_that_scores_overflow():
    problem = random_problem((1, 1, 2, 5, 4, 3))
    problem.score_weight[...] = 1e38
    problem.check(*problem.call())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_masks_of_any_float(dtype, requires_grad):
    problem = random_problem((3, 1, 9, 11, 12, 5))
    arrays = problem.query[:, 0], problem.key[:, 0], problem.value[:, 0], problem.score_weight[0]
    mask = np.random.default_rng(0).random((3, 11)) < 0.5
    tensors = [torch.from_numpy(array).requires_grad_(requires_grad) for array in arrays]
    context = additive_attention(*tensors, key_mask=torch.from_numpy(mask).to(dtype))
    np.testing.assert_array_equal(context.detach().numpy(), additive_attention(*arrays, key_mask=mask))


def test_a_negative_view_of_a_complex_tensor():
    values = torch.imag(torch.randn(2, 3, 4, dtype=torch.complex64).conj())
    expected = additive_attention(values.clone(), values.clone(), values.clone(), torch.ones(4))
    torch.testing.assert_close(additive_attention(values, values, values, torch.ones(4)), expected)


def test_another_number_of_threads_set_during_calls(restore_num_threads):
    problem = random_problem((8, 1, 300, 256, 32, 8))
    expected = problem.call()[0]
    done = threading.Event()

    def change():
        while not done.is_set():
            metafast.set_num_threads(1)
            metafast.set_num_threads(16)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            np.testing.assert_array_equal(problem.call()[0], expected)
    finally:
        done.set()
        thread.join()


def test_several_threads_may_call_at_once():
    problem = random_problem((8, 2, 45, 37, 50, 23))
    expected = problem.call()[0]
    failures = []

    def work():
        for _ in range(20):
            if not np.array_equal(problem.call()[0], expected):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
