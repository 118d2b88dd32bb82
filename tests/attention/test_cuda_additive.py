"""Additive attention on CUDA devices: the CPU's checks, and what is particular to the card's kernels."""

import numpy as np
import pytest
import torch
from attention import additive_reference as reference
from attention import test_additive as values
from attention import test_additive_accuracy as accuracy
from attention import test_additive_bad_input as bad_input
from attention import test_additive_gradients as gradients
from common import cards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metafast import _device
from metafast.attention import AdditiveAttention, additive_attention, prepare

# Each thread of a block is a context switch on the host: few and small examples there.
few = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
one_order = pytest.mark.parametrize("device", [*cards.CUDA, "host"], indirect=True)


def tensors_of(problem, device):
    """The arrays of a problem of test_additive.py, in its layout, and its flags."""
    arrays = [
        values.lay_out(array, problem.layout)
        for array in (problem.query, problem.key, problem.value, problem.score_weight)
    ]
    if problem.query.shape[1] == 1:
        arrays = [array[:, 0] for array in arrays[:3]] + [arrays[3][0]]
    flags = {"key_mask": problem.key_mask, "key_lengths": problem.key_lengths}
    # torch knows no negative strides; where there are none, this keeps them.
    tensors = [torch.from_numpy(array if min(array.strides, default=0) >= 0 else array.copy()) for array in arrays]
    return [tensor.to(device) for tensor in tensors], {
        name: None if flag is None else torch.from_numpy(flag).to(device) for name, flag in flags.items()
    }


def call(problem, device, **options):
    tensors, flags = tensors_of(problem, device)
    context, weights = additive_attention(*tensors, **flags, return_weights=True, **options)
    shape = problem.query.shape[:2]
    results = [result.cpu().numpy() for result in (context, weights)]
    return [result.reshape(*shape, *result.shape[-2:]) for result in results]


@few
@given(problem=values.problems())
def test_equals_the_reference(device, problem):
    problem.check(*call(problem, device))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("shape", [(1, 2, 65, 66, 33, 130), (2, 1, 1, 64, 5, 3), (1, 1, 64, 129, 4, 64)])
def test_sizes_around_the_tiles(device, shape, scale, dtype):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, shape[3] + 1, shape[0]) if scale == 3.0 else None
    mask = rng.random((shape[0], shape[3])) < 0.7 if scale == 1.0 else None
    problem = values.random_problem(shape, dtype, scale, mask=mask, lengths=lengths)
    problem.check(*call(problem, device))


def test_the_context_alone(device):
    """Without weights to write; values wider than the forward kernel sums up take them all the same."""
    for columns in (5, 70, 131):
        problem = values.random_problem((1, 2, 20, 70, 12, columns))
        tensors, _ = tensors_of(problem, device)
        context, _ = additive_attention(*tensors, return_weights=True)
        torch.testing.assert_close(additive_attention(*tensors), context, rtol=0, atol=0)


def test_tiles_without_active_keys_are_passed_over(device):
    mask = np.zeros((2, 200), bool)
    mask[0, [3, 130]] = True
    problem = values.random_problem((2, 1, 3, 200, 9, 4), mask=mask)
    context, weights = call(problem, device)
    problem.check(context, weights)
    assert not context[1].any()
    assert not weights[1].any()


def test_rows_without_keys_are_zero(device):
    problem = values.random_problem((3, 2, 5, 37, 10, 4), lengths=np.array([0, 37, 5]))
    context, weights = call(problem, device)
    assert not context[0].any()
    assert not weights[0].any()
    problem.check(context, weights)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_keys_that_take_no_part_may_hold_anything(device, poison, scale):
    mask = np.random.default_rng(1).random((3, 37)) < 0.6
    shape = (3, 2, 5, 37, 10, 140)
    clean, poisoned = (values.random_problem(shape, scale=scale, mask=mask) for _ in range(2))
    for array in (poisoned.key, poisoned.value):
        array[np.broadcast_to(~mask[:, None], array.shape[:3])] = poison
    for result, expected in zip(call(poisoned, device), call(clean, device), strict=True):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("scale", [1.0, 6.0, 30.0])
def test_nan_stays_in_its_row_or_problem(device, scale):
    problem = values.random_problem((3, 2, 5, 37, 10, 4), scale=scale)
    problem.score_weight[1, 7] = 0.0  # 0 x NaN is NaN
    expected = call(problem, device)[0].copy()
    problem.query[1, 1, 4, 7] = np.nan
    problem.key[1, 0, 3, 4] = np.nan
    problem.value[2, 1, 5, 2] = np.nan
    expected[1, 1, 4] = expected[1, 0] = expected[2, 1, :, 2] = np.nan
    np.testing.assert_array_equal(call(problem, device)[0], expected)


def test_infinite_inputs_saturate(device):
    problem = values.random_problem((3, 2, 5, 37, 10, 4))
    problem.query[0, 0, 0, 0] = np.inf
    problem.query[0, 0, 1, 1] = -np.inf
    problem.key[1, 1, 2, 3] = np.inf
    problem.check(*call(problem, device))


@pytest.mark.parametrize("weight", [1e38, 1e-42, 0.0])
def test_weights_of_any_magnitude(device, weight):
    problem = values.random_problem((1, 1, 2, 5, 4, 3))
    problem.score_weight[...] = weight
    problem.check(*call(problem, device))


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 5, 6), (2, 0, 3, 4, 5, 6), (2, 2, 0, 4, 5, 6), (2, 2, 3, 0, 5, 6),
                                   (2, 2, 3, 4, 0, 6), (2, 2, 3, 4, 5, 0), (1, 1, 1, 1, 1, 1)])  # fmt: skip
def test_empty_and_single_axes(device, shape):
    problem = values.random_problem(shape)
    problem.layout = "contiguous"
    arrays = [problem.query, problem.key, problem.value, problem.score_weight]
    ours, peer = ([torch.from_numpy(array).to(device).requires_grad_() for array in arrays] for _ in range(2))
    results = []
    for inputs, function in ((ours, additive_attention), (peer, reference.eager)):
        context = function(*inputs)
        context = context[0] if isinstance(context, tuple) else context
        first = torch.autograd.grad(context.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs, allow_unused=True)
        results.append([context, *first, *second])
    for found, expected in zip(*results, strict=True):
        # Of no keys torch's sums know no gradient.
        expected = torch.zeros_like(found) if expected is None else expected
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


# The card's compiler fuses products and sums, the host's does not, and rounds the more often.
def slack(device):
    return 0.0 if device.type == "cuda" else 3e-8


@one_order
@pytest.mark.parametrize("case", accuracy.CASES)
def test_scores(device, case):
    accuracy.check_scores(case, "random", 40, device, slack(device))


@one_order
@pytest.mark.parametrize("weights", ["same sign", "far apart", "tiny", "some zero"])
@pytest.mark.parametrize("case", ["scale 0.03", "scale 1.0", "half range 9.05", "half range 12.1", "opposite 1.0",
                                  "offset -30.0"])  # fmt: skip
def test_scores_of_other_weights(device, case, weights):
    accuracy.check_scores(case, weights, 40, device, slack(device))


@one_order
@pytest.mark.parametrize("case", ["scale 0.5", "scale 1.0", "scale 2.0", "half range 11.9", "half range 12.1"])
@pytest.mark.parametrize("weights", ["random", "same sign"])
def test_scores_of_wide_problems(device, case, weights):
    accuracy.check_scores(case, weights, 128, device, slack(device))


@one_order
@pytest.mark.parametrize("case", accuracy.CASES)
def test_context_and_gradients(device, case):
    accuracy.check_context_and_gradients(case, 33, device)


@few
@given(
    batch=st.integers(0, 2), heads=st.integers(0, 2), queries=st.integers(0, 30), keys=st.integers(1, 30),
    width=st.integers(0, 40), columns=st.integers(0, 20), scale=st.sampled_from([0.01, 1.0, 5.0, 60.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]), masked=st.booleans(), second=st.booleans(),
    with_weights=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_gradients_equal_eager(device, batch, heads, queries, keys, width, columns, scale, dtype, masked, second,
                               with_weights, seed):  # fmt: skip
    mask = torch.rand(batch, keys, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    gradients.compare((batch, heads, queries, keys, width, columns), scale=scale, dtype=dtype, part=mask, key_mask=mask,
                      seed=seed, with_weights=with_weights, second=second, device=device)  # fmt: skip


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("scale", [0.05, 2.0])
@pytest.mark.parametrize("shape", [(2, 1, 17, 130, 33, 5), (1, 2, 65, 64, 32, 129), (1, 1, 1, 300, 3, 2)])
def test_gradients_of_sizes_around_the_tiles(device, shape, scale, second):
    """Keys that take several rounds, queries cut into parts, columns beyond a block's."""
    lengths = torch.tensor([shape[3] - 1, 3][: shape[0]])
    part = torch.arange(shape[3]) < lengths[:, None]
    gradients.compare(shape, scale=scale, dtype=torch.float32, part=part, key_lengths=lengths, second=second,
                      device=device)  # fmt: skip


@one_order
def test_gradients_where_many_problems_leave_the_queries_whole(device, monkeypatch):
    from metafast.attention import _additive_cuda

    monkeypatch.setattr(_additive_cuda, "_BLOCKS", 1)
    for second in (False, True):
        gradients.compare((2, 1, 40, 70, 10, 3), dtype=torch.float64, second=second, device=device)


def test_what_masked_keys_hold_reaches_no_gradient(device):
    arrays, _ = gradients.make(2, 0, 9, 12, 10, 5)
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[1] = False
    results = []
    for poison in (0.0, torch.nan, torch.inf):
        query, key, value, score_weight = (tensor.float().clone() for tensor in arrays)
        key[~mask], value[~mask] = poison, poison
        query[1, 0] = poison  # of an entry without keys
        inputs = [tensor.to(device).requires_grad_() for tensor in (query, key, value, score_weight)]
        context = additive_attention(*inputs, key_mask=mask.to(device))
        first = torch.autograd.grad(context.square().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
        results.append([tensor.detach().cpu() for tensor in (*first, *second)])
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.equal(found, expected)
    assert not results[0][1][~mask].any()
    assert not results[0][2][~mask].any()


@pytest.mark.parametrize("sign", [1, -1])
def test_saturated_queries_have_no_gradient(device, sign):
    generator = torch.Generator().manual_seed(0)
    for spread in (0.1, 2.0):
        query = torch.full((1, 8, 16), 30.0 * sign, device=device, requires_grad=True)
        key, value = (torch.randn(1, 40, n, generator=generator).to(device) for n in (16, 8))
        weight = (100 * torch.randn(16, generator=generator)).to(device)
        context = additive_attention(query, spread * key, value, weight)
        assert not torch.autograd.grad(context.square().sum(), query)[0].any()


def test_same_bits_again(device):
    arrays, outer = gradients.make(2, 0, 40, 70, 33, 5, dtype=torch.float32)
    options = {"with_weights": True, "second": True, "device": device}
    results = [
        gradients.derivatives(gradients.attend_with_weights, arrays, outer, torch.float32, **options) for _ in range(2)
    ]
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(device, dtype):
    problem = values.random_problem((3, 1, 9, 11, 12, 5))
    tensors, _ = tensors_of(problem, device)
    halves = [tensor.to(dtype) for tensor in tensors]
    context, weights = additive_attention(*halves, return_weights=True)
    expected = additive_attention(*(half.float() for half in halves), return_weights=True)
    assert context.dtype == weights.dtype == dtype
    torch.testing.assert_close(context, expected[0].to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(weights, expected[1].to(dtype), rtol=0, atol=0)
    inputs = [half.requires_grad_() for half in halves]
    assert all(
        gradient.dtype == dtype for gradient in torch.autograd.grad(additive_attention(*inputs).float().sum(), inputs)
    )


def test_a_batch_of_one_stands_for_every_entry(device):
    tensors, _ = tensors_of(values.random_problem((3, 1, 9, 11, 12, 5)), device)
    query, key, value, score_weight = tensors
    found = additive_attention(query, key[:1], value[:1], score_weight)
    expected = additive_attention(query, key[:1].repeat(3, 1, 1), value[:1].repeat(3, 1, 1), score_weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_prepared_keys_attend_step_by_step(device):
    problem = values.random_problem((3, 1, 20, 7, 10, 4), mask=np.random.default_rng(0).random((3, 7)) < 0.8)
    problem.key_lengths = np.array([7, 0, 5])
    (query, key, value, score_weight), flags = tensors_of(problem, device)
    attend = prepare(key, value, score_weight, **flags)
    expected = additive_attention(query, key, value, score_weight, **flags, return_weights=True)
    # Nothing of the caller's tensors is kept.
    for tensor in (key, value, score_weight, *flags.values()):
        tensor.zero_()
    for step in (0, 11, 19):
        found = attend(query[:, step : step + 1], return_weights=True)
        for ours, right in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, right[:, step : step + 1], rtol=0, atol=2e-6)
    torch.testing.assert_close(attend(query), expected[0], rtol=0, atol=0)
    assert attend(query[:, :0]).shape == (3, 0, 4)


def test_prepared_keys_with_heads_and_halves(device):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(1, 3, 5, 8), torch.randn(2, 3, 5, 140)
    halves = [tensor.to(device).bfloat16() for tensor in (query, key, value, torch.randn(3, 8))]
    context = prepare(*halves[1:])(halves[0])
    assert context.dtype == torch.bfloat16
    torch.testing.assert_close(context, additive_attention(*halves), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"query has shape \(2, 3, 4, 5\), expected \(2, 3, any, 8\)"):
        prepare(*halves[1:])(halves[0][..., :5])
    with pytest.raises(ValueError, match="query requires grad"):
        prepare(*halves[1:])(halves[0].requires_grad_())


@one_order
@pytest.mark.parametrize("num_heads", [1, 2])
def test_module(device, num_heads):
    torch.manual_seed(0)
    attention = AdditiveAttention(8, 6, 12, num_heads=num_heads)
    query, key, value = torch.randn(3, 5, 8), torch.randn(3, 7, 6), torch.randn(3, 7, 4)
    mask = torch.rand(3, 7) < 0.7
    projected = [attention.query_projection(query), attention.key_projection(key), value]
    if num_heads > 1:
        projected = [tensor.unflatten(-1, (num_heads, -1)).transpose(1, 2) for tensor in projected]
    expected = reference.eager(*projected, attention.score_weight, mask)[0]
    expected = expected if num_heads == 1 else expected.transpose(1, 2).flatten(-2)
    attention = attention.to(device)
    inputs = [tensor.to(device) for tensor in (query, key, value)]
    context = attention(*inputs, key_mask=mask.to(device))
    torch.testing.assert_close(context.cpu(), expected)
    context.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attention.parameters())
    attention.dropout = 0.5
    assert not torch.equal(attention(*inputs, key_mask=mask.to(device)), context)


@one_order
def test_gradcheck_of_both_orders(device):
    arrays, _ = gradients.make(2, 2, 3, 4, 5, 3)
    inputs = [tensor.to(device).requires_grad_() for tensor in arrays]
    mask = torch.tensor([[True, True, False, True], [False, False, False, False]], device=device)

    def function(*inputs):
        return additive_attention(*inputs, key_mask=mask, return_weights=True)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@one_order
def test_torch_func_and_the_operation_itself(device):
    arrays = [tensor.to(device) for tensor in gradients.make(2, 0, 3, 4, 5, 3)[0]]

    def loss(score_weight, attention=additive_attention):
        return attention(*arrays[:3], score_weight).sin().sum()

    def expected(score_weight):
        return loss(score_weight, lambda *inputs: reference.eager(*inputs)[0])

    score_weight = arrays[3]
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(score_weight)
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.jacrev(expected))(score_weight))
    inputs = [tensor.requires_grad_() for tensor in arrays]
    torch.library.opcheck(torch.ops.metafast.additive_attention, (*inputs, None, None))


@one_order
def test_compiles_as_one_graph(device):
    inputs = [tensor.float().to(device).requires_grad_() for tensor in gradients.make(2, 0, 7, 9, 10, 5)[0]]
    lengths = torch.tensor([9, 4], device=device)

    def loss(*inputs):
        context, weights = additive_attention(*inputs, key_lengths=lengths, return_weights=True)
        return context.sin().sum() + weights.square().sum()

    # What is looked at is how the operations are traced, not the code that is made of the rest.
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(function(*inputs), inputs) for function in (loss, compiled)]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("change", "message"), bad_input.VALUE_ERRORS)
@one_order
def test_value_errors(device, change, message, requires_grad):
    arrays = {**bad_input.arguments(), **change}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}
    for name in ("query", "key", "value", "score_weight"):
        tensors[name].requires_grad_(requires_grad)
    with pytest.raises(ValueError, match=message):
        additive_attention(**tensors)


@one_order
@pytest.mark.parametrize("requires_grad", [False, True])
def test_type_errors(device, requires_grad):
    tensors = {
        name: torch.from_numpy(array).to(device).requires_grad_(requires_grad)
        for name, array in bad_input.arguments().items()
    }
    with pytest.raises(TypeError, match="value has dtype float64, but query has float32"):
        additive_attention(**{**tensors, "value": tensors["value"].double()})
    with pytest.raises(TypeError, match="key is a numpy array, but query is a torch array"):
        additive_attention(**{**tensors, "key": tensors["key"].detach().cpu().numpy()})
    with pytest.raises(TypeError, match="value must be an array"):
        additive_attention(**{**tensors, "value": None})
    with pytest.raises(TypeError, match="key is on meta, but query is on"):
        additive_attention(**{**tensors, "key": tensors["key"].to("meta")})
    with pytest.raises(TypeError, match="key_mask is on meta, but query is on"):
        additive_attention(**tensors, key_mask=torch.ones(2, 5, device="meta"))
    with pytest.raises(TypeError, match=r"key_lengths has dtype float32; expected integers"):
        additive_attention(**tensors, key_lengths=torch.ones(2, device=device))
    if not requires_grad:
        integers = {name: tensor.int() for name, tensor in tensors.items()}
        with pytest.raises(TypeError, match="query has dtype int32; expected float32 or float64"):
            additive_attention(**integers)
        with pytest.raises(TypeError, match="query is on meta, but key is on"):
            prepare(tensors["key"], tensors["value"], tensors["score_weight"])(tensors["query"].to("meta"))


def test_lengths_are_not_read_back_while_a_graph_is_recorded(device, monkeypatch):
    """The kernels then take the nearest length that is in range."""
    tensors, _ = tensors_of(values.random_problem((2, 1, 3, 5, 4, 2)), device)
    monkeypatch.setattr(_device, "is_capturing", lambda: True)
    found = additive_attention(*tensors, key_lengths=torch.tensor([9, -1], device=device))
    expected = additive_attention(*tensors, key_lengths=torch.tensor([5, 0], device=device))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
