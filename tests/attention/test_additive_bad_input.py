"""Every wrong argument of additive attention is named, before any memory is touched."""

import jax
import numpy as np
import pytest
import torch

from metafast.attention import AdditiveAttention, additive_attention, prepare


def arguments():
    rng = np.random.default_rng(0)
    shapes = {"query": (2, 3, 4), "key": (2, 5, 4), "value": (2, 5, 6), "score_weight": (4,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


VALUE_ERRORS = [
    ({"query": zeros(3, 4)}, r"query has shape \(3, 4\)"),
    ({"query": zeros(2, 1, 3, 1, 4)}, r"query has shape \(2, 1, 3, 1, 4\)"),
    ({"key": zeros(2, 5, 3)}, r"key has shape \(2, 5, 3\), expected \(2, any, 4\)"),
    ({"key": zeros(3, 5, 4)}, r"has shape .*expected \("),
    ({"key": zeros(2, 1, 5, 4)}, r"key has shape \(2, 1, 5, 4\), expected \(2, any, 4\)"),
    ({"value": zeros(2, 4, 6)}, r"value has shape \(2, 4, 6\), expected \(2, 5, any\)"),
    ({"value": zeros(5, 6)}, r"value has shape \(5, 6\)"),
    ({"score_weight": zeros(5)}, r"score_weight has shape \(5,\), expected \(4,\)"),
    ({"score_weight": zeros(1, 4)}, r"score_weight has shape \(1, 4\), expected \(4,\)"),
    ({"key_mask": np.ones((2, 4), bool)}, r"key_mask has shape \(2, 4\), expected \(2, 5\)"),
    ({"key_mask": np.ones(5, bool)}, r"key_mask has shape \(5,\)"),
    ({"key_lengths": np.array([5, 6])}, r"key_lengths\[1\] is 6, expected 0 to 5"),
    ({"key_lengths": np.array([-1, 5])}, r"key_lengths\[0\] is -1"),
    ({"key_lengths": np.array([5, 1, 2])}, r"key_lengths has shape \(3,\), expected \(2,\)"),
    ({"key_lengths": np.array([2**63 + 1, 5], np.uint64)}, r"key_lengths\[0\]"),
]
TYPE_ERRORS = [
    ({"query": [[[1.0]]]}, "query must be an array"),
    ({"key": None}, "key must be an array"),
    ({"key": zeros(2, 5, 4, dtype=np.float64)}, "key has dtype float64, but query has float32"),
    ({"score_weight": np.zeros(4, np.int64)}, "score_weight has dtype int64"),
    ({"query": zeros(2, 3, 4, dtype=np.int32), "key": zeros(2, 5, 4, dtype=np.int32),
      "value": zeros(2, 5, 6, dtype=np.int32), "score_weight": zeros(4, dtype=np.int32)}, "query has dtype int32"),
    ({"query": torch.zeros(2, 3, 4)}, "key is a numpy array, but query is a torch array"),
    ({"value": np.ma.masked_array(zeros(2, 5, 6))}, "value is a masked array"),
    ({"key": zeros(2, 5, 4).astype(">f4")}, "key has dtype >f4"),
    ({"key_mask": np.full((2, 5), "x")}, "key_mask has dtype"),
    ({"key_lengths": np.array([1.0, 2.0])}, "key_lengths has dtype float64; expected integers"),
    ({"key_lengths": [1, 2]}, "key_lengths must be an array"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), VALUE_ERRORS)
def test_value_errors(change, message):
    with pytest.raises(ValueError, match=message):
        additive_attention(**{**arguments(), **change})


@pytest.mark.parametrize(("change", "message"), TYPE_ERRORS)
def test_type_errors(change, message):
    with pytest.raises(TypeError, match=message):
        additive_attention(**{**arguments(), **change})


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("change", "message"), VALUE_ERRORS)
def test_value_errors_of_tensors(change, message, requires_grad):
    arrays = {**arguments(), **change}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    for name in ("query", "key", "value", "score_weight"):
        tensors[name].requires_grad_(requires_grad)
    with pytest.raises(ValueError, match=message):
        additive_attention(**tensors)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_type_errors_of_tensors(requires_grad):
    tensors = {name: torch.from_numpy(array).requires_grad_(requires_grad) for name, array in arguments().items()}
    with pytest.raises(TypeError, match="value has dtype float64, but query has float32"):
        additive_attention(**{**tensors, "value": tensors["value"].double()})
    with pytest.raises(TypeError, match="key is a numpy array, but query is a torch array"):
        additive_attention(**{**tensors, "key": tensors["key"].detach().numpy()})
    with pytest.raises(TypeError, match="query is on meta"):
        additive_attention(**{name: tensor.to("meta") for name, tensor in tensors.items()})


def test_prepared_keys_refuse_what_does_not_fit_them():
    given = arguments()
    query = given.pop("query")
    with pytest.raises(ValueError, match=r"key has shape \(5, 4\)"):
        prepare(**{**given, "key": zeros(5, 4)})
    with pytest.raises(ValueError, match=r"key_lengths\[0\] is 9"):
        prepare(**given, key_lengths=np.array([9, 1]))
    attend = prepare(**given)
    with pytest.raises(ValueError, match=r"query has shape \(2, 3, 5\), expected \(2, any, 4\)"):
        attend(zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"query has shape \(1, 3, 4\)"):
        attend(query[:1])
    with pytest.raises(TypeError, match="query has dtype float64"):
        attend(query.astype(np.float64))
    with pytest.raises(TypeError, match="query is a torch array, but key is a numpy array"):
        attend(torch.from_numpy(query))


def test_prepared_keys_refuse_gradients():
    given = {name: torch.from_numpy(array) for name, array in arguments().items()}
    query = given.pop("query")
    with pytest.raises(ValueError, match="value requires grad"):
        prepare(**{**given, "value": given["value"].clone().requires_grad_()})
    attend = prepare(**given)
    with pytest.raises(ValueError, match="query requires grad"):
        attend(query.requires_grad_())
    with torch.no_grad():
        attend(query)


def test_what_is_no_tensor_beside_tensors():
    tensors = {name: torch.from_numpy(array) for name, array in arguments().items()}
    with pytest.raises(TypeError, match="value must be an array"):
        additive_attention(**{**tensors, "value": None})
    with pytest.raises(TypeError, match="key_mask must be an array"):
        additive_attention(**tensors, key_mask=[[1.0]])
    with pytest.raises(TypeError, match="key_mask is a numpy array, but query is a torch array"):
        additive_attention(**tensors, key_mask=np.ones((2, 5), bool))


def test_traced_jax_arrays():
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda query: additive_attention(query, query, query, query[0, 0]))(jax.numpy.zeros((2, 3, 4)))


def test_sizes_beyond_any_memory():
    one = torch.zeros(1, 1, 2)
    with pytest.raises(MemoryError):
        additive_attention(one.expand(1, 2**33, 2), one.expand(1, 2**30, 2), one.expand(1, 2**30, 2), torch.ones(2))
    empty = torch.zeros(2**58, 0, 1)
    with pytest.raises(MemoryError):
        prepare(empty, empty, torch.ones(1))


def test_prepared_keys_refuse_tangents():
    given = {name: torch.from_numpy(array) for name, array in arguments().items()}
    query = given.pop("query")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(given["key"], torch.ones_like(given["key"]))
        with pytest.raises(ValueError, match="key requires grad"):
            prepare(**{**given, "key": dual})
        dual = torch.autograd.forward_ad.make_dual(query, torch.ones_like(query))
        with pytest.raises(ValueError, match="query requires grad"):
            prepare(**given)(dual)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 10, "num_heads": 4}, "10 into 4"),
        ({"hidden_dim": 0}, "hidden_dim must divide"),
        ({"hidden_dim": 8, "dropout": 1.0}, "dropout must be"),
        ({"hidden_dim": 8, "num_heads": 0}, "num_heads"),
    ],
)
def test_module_options(options, message):
    with pytest.raises(ValueError, match=message):
        AdditiveAttention(4, 4, **options)
