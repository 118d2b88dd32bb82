"""What dot-product attention refuses, and what it says."""

import re
import signal

import numpy as np
import pytest
import torch
from common import cards

from metafast import _core
from metafast.attention import dot_product_attention

GOOD = {
    "query": np.zeros((2, 3, 4, 5), np.float32),
    "key": np.zeros((2, 3, 6, 5), np.float32),
    "value": np.zeros((2, 3, 6, 7), np.float32),
}


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": zeros(2, 3, 5)}, ValueError, "query has shape (2, 3, 5)"),
        ({"key": zeros(2, 3, 6, 4)}, ValueError, "key has shape (2, 3, 6, 4), expected (2, 3, any, 5)"),
        ({"key": zeros(2, 1, 6, 5)}, ValueError, "key has shape (2, 1, 6, 5)"),
        ({"value": zeros(2, 3, 5, 7)}, ValueError, "value has shape (2, 3, 5, 7), expected (2, 3, 6, any)"),
        ({"value": zeros(2, 3, 6, 7, dtype=np.float64)}, TypeError, "value has dtype float64, but query has float32"),
        ({"query": zeros(2, 3, 4, 5, dtype=np.int64)}, TypeError, "query has dtype int64"),
        ({"query": [[[[1.0]]]]}, TypeError, "query"),
        ({"key_mask": zeros(2, 5)}, ValueError, "key_mask has shape (2, 5), expected (2, 6)"),
        ({"key_mask": np.full((2, 6), "x")}, TypeError, "key_mask"),
        ({"key_lengths": zeros(3, dtype=np.int64)}, ValueError, "key_lengths has shape (3,), expected (2,)"),
        ({"key_lengths": zeros(2)}, TypeError, "key_lengths has dtype float32; expected integers"),
        ({"key_lengths": np.array([1, 7])}, ValueError, "key_lengths[1] is 7, expected 0 to 6"),
        ({"key_lengths": np.array([-1, 2])}, ValueError, "key_lengths[0] is -1"),
        ({"key": np.ma.masked_array(zeros(2, 3, 6, 5))}, TypeError, "key"),
        ({"key": zeros(2, 3, 6, 5, dtype=">f4")}, TypeError, "key"),
        ({"scale": "large"}, ValueError, "large"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dot_product_attention(**{**GOOD, **changes})


@pytest.mark.parametrize("place", ["cpu", *cards.CUDA, "host"], indirect=True)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": torch.zeros(3, 5)}, ValueError, "query has shape (3, 5)"),
        ({"key": torch.zeros(2, 3, 6, 4)}, ValueError, "key has shape (2, 3, 6, 4)"),
        ({"value": torch.zeros(2, 3, 5, 7)}, ValueError, "value has shape (2, 3, 5, 7)"),
        ({"key": torch.zeros(2, 3, 6, 5, dtype=torch.float64)}, TypeError, "key has dtype float64"),
        ({"query": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, TypeError, "dtype"),
        ({"key_mask": torch.zeros(2, 5)}, ValueError, "key_mask has shape (2, 5)"),
        ({"key_lengths": torch.tensor([1, 7])}, ValueError, "key_lengths[1] is 7"),
        ({"key_lengths": torch.tensor([1])}, ValueError, "key_lengths has shape (1,)"),
        ({"key_lengths": torch.zeros(2)}, TypeError, "key_lengths has dtype float32"),
        ({"key_lengths": torch.ones(2, dtype=torch.bool)}, TypeError, "key_lengths has dtype bool"),
        ({"key_lengths": torch.tensor([3, -2], dtype=torch.int8)}, ValueError, "key_lengths[1] is -2, expected 0 to 6"),
        ({"key_mask": torch.zeros(2, 6, dtype=torch.complex64)}, TypeError, "key_mask has dtype complex64"),
        ({"key_mask": [[1] * 6] * 2}, TypeError, "key_mask must be an array"),
        ({"value": GOOD["value"]}, TypeError, "value is a numpy array, but query is a torch array"),
    ],
)
def test_bad_tensors_are_named(changes, error, message, requires_grad, place):
    tensors = {name: torch.from_numpy(array) for name, array in GOOD.items()}
    arguments = {**tensors, **changes}
    arguments = {
        name: given.to(place) if isinstance(given, torch.Tensor) else given for name, given in arguments.items()
    }
    for argument in arguments.values():
        if isinstance(argument, torch.Tensor) and argument.ndim == 4 and argument.is_floating_point():
            argument.requires_grad_(requires_grad)
    with pytest.raises(error, match=re.escape(message)):
        dot_product_attention(**arguments)


def test_tensors_of_two_devices_are_named():
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    tensors = {name: torch.from_numpy(array) for name, array in GOOD.items()}
    for name, first in (("query", "key"), ("key", "key"), ("value", "value")):
        mixed = {**tensors, name: tensors[name].cuda()}
        with pytest.raises(TypeError, match=f"{first} is on .*, but query is on .*; one call takes one device"):
            dot_product_attention(**mixed)


def test_a_scale_that_requires_grad_is_refused():
    tensors = {name: torch.from_numpy(array) for name, array in GOOD.items()}
    scale = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(TypeError, match="scale requires grad"):
        dot_product_attention(**tensors, scale=scale)
    context = dot_product_attention(**tensors, scale=scale.detach())
    assert torch.equal(context, dot_product_attention(**tensors, scale=0.5))


def views_of_one(batch, queries, keys, width, value_width):
    """Return query, key and value as views of one number, as large as NumPy lets them be."""
    shapes = ((queries, width), (keys, width), (keys, value_width))
    return [np.broadcast_to(np.float32(1), (batch, 1, *shape)) for shape in shapes]


@pytest.mark.parametrize(
    ("extents", "return_weights"),
    [
        ((1, 1, 1, 1 << 58, 1), False),
        ((1, 1, 1, 1, 1 << 58), False),
        ((1, 1 << 58, 1, 1, 1), False),
        ((1, 1 << 32, 1 << 32, 1, 0), True),
        ((1, 1 << 31, 1 << 31, 0, 0), True),
    ],
)
def test_sizes_beyond_all_memory_are_refused(extents, return_weights):
    with pytest.raises((MemoryError, ValueError)):
        dot_product_attention(*views_of_one(*extents), return_weights=return_weights)


def test_products_of_extents_may_have_more_than_64_bits():
    for extents in ((0, 1 << 31, 1 << 31, 1, 1), (0, 1 << 40, 1 << 40, 1, 0), (0, 1, 1, 1 << 58, 1)):
        arrays = views_of_one(*extents)
        context = dot_product_attention(*arrays)
        statistics = np.empty((*context.shape[:-1], 2), np.float32)
        gradients = _core.dot_product_attention_gradient(
            *arrays, None, None, False, 1.0, context, statistics, None, context, None
        )
        assert [gradient.shape for gradient in gradients] == [array.shape for array in arrays]
    query, key, value = views_of_one(1 << 40, 0, 5, 1, 1)  # no query, and more problems than an hour is enough for
    assert dot_product_attention(query, key, value, return_weights=True)[1].shape == (1 << 40, 1, 0, 5)


def test_many_problems_with_nothing_to_multiply_can_be_interrupted():
    """Only the gradients of keys have elements here, and these no columns."""
    arrays = views_of_one(1 << 40, 0, 5, 0, 0)
    context, statistics = np.empty((1 << 40, 1, 0, 0), np.float32), np.empty((1 << 40, 1, 0, 2), np.float32)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            _core.dot_product_attention_gradient(
                *arrays, None, None, False, 1.0, context, statistics, None, context, None
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
