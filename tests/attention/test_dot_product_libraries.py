"""Dot-product attention for arrays of libraries other than torch."""

import jax.numpy as jnp
import numpy as np
import pytest
from attention import dot_product_reference as reference

from metafast.attention import dot_product_attention


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, 2, *shape)).astype(dtype) for shape in ((5, 8), (7, 8), (7, 3))]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_jax_in_jax_out(dtype):
    inputs = [jnp.asarray(array).astype(dtype) for array in arrays()]
    mask, lengths = jnp.asarray([[1, 0, 1, 1, 1, 0, 1], [1] * 7]), jnp.asarray([4, 7])
    results = dot_product_attention(*inputs, key_mask=mask, key_lengths=lengths, causal=True, return_weights=True)
    expected = reference.dot_product_attention(
        *(np.asarray(array.astype("float32")) for array in inputs), np.asarray(mask), np.asarray(lengths), causal=True
    )
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    for result, wanted in zip(results, expected, strict=True):
        assert isinstance(result, jnp.ndarray)
        assert str(result.dtype) == dtype
        np.testing.assert_allclose(np.asarray(result.astype("float32")), wanted, rtol=tolerance, atol=tolerance)


def test_numpy_float16():
    inputs = arrays(np.float16)
    result = dot_product_attention(*inputs)
    expected = dot_product_attention(*(array.astype(np.float32) for array in inputs)).astype(np.float16)
    assert result.dtype == np.float16
    np.testing.assert_array_equal(result, expected)
