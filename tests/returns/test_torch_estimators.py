"""The estimators beside gae and discounted_returns on torch tensors: gradients, torch.compile, torch.func."""

import numpy as np
import pytest
import torch
from returns.estimator_calls import ALONG_TIME, CONSTANT, DIFFERENTIABLE, as_tuple, estimate, loop, problem

import metafast
from metafast import _torch_calls
from metafast.returns import _estimator

EVERY = DIFFERENTIABLE + CONSTANT
# Each with time first, and second where it has time.
WITH_TIME_AXIS = [(name, axis) for name in EVERY for axis in (0, 1) if axis == 0 or name in ALONG_TIME]
DIFFERENTIABLE_WITH_TIME_AXIS = [case for case in WITH_TIME_AXIS if case[0] in DIFFERENTIABLE]


def tensors(name, time_axis=0, dtype=torch.float64, requires_grad=False):
    """Split the arguments of an estimator into those that can have gradients and the others."""
    floats, others = {}, {}
    for key, value in problem(name, time_axis).items():
        if not isinstance(value, np.ndarray):
            others[key] = value
        elif value.dtype == np.float64:
            floats[key] = torch.from_numpy(value).to(dtype).requires_grad_(requires_grad)
        else:
            others[key] = torch.from_numpy(value)
    if name in ALONG_TIME:
        others["time_axis"] = time_axis
    return floats, others


def positional(name, floats, others):
    """The estimator as a function of its floats alone."""
    return lambda *values: estimate(name, {**dict(zip(floats, values, strict=True)), **others})


def as_arrays(name, floats, others):
    arrays = {k: v.detach().numpy() if isinstance(v, torch.Tensor) else v for k, v in {**floats, **others}.items()}
    return [torch.from_numpy(result) for result in as_tuple(estimate(name, arrays))]


def assert_same(results, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-12, "atol": 1e-12}
    for result, wanted in zip(as_tuple(results), as_tuple(expected), strict=True):
        torch.testing.assert_close(result, wanted, **tolerance)


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_plain_tensors_give_what_arrays_give(name, time_axis):
    floats, others = tensors(name, time_axis)
    results = as_tuple(estimate(name, {**floats, **others}))
    assert_same(results, tuple(as_arrays(name, floats, others)), rtol=0, atol=0)
    if name in ALONG_TIME:
        out = tuple(torch.full_like(floats["rewards"], 9.0) for _ in results)
        given = estimate(name, {**floats, **others}, out=out if len(out) == 2 else out[0])
        assert all(result is target for result, target in zip(as_tuple(given), out, strict=True))
        assert_same(out, results, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_where_bindings_take_arrays_alone(name, monkeypatch):
    """As before torch 2.9, whose tensors have no table of functions to be read through."""
    floats, others = tensors(name)
    expected = as_tuple(estimate(name, {**floats, **others}))
    monkeypatch.setattr(_torch_calls, "bindings_take_tensors", False)
    monkeypatch.setattr(_estimator, "_plain_tensor", None)
    assert_same(estimate(name, {**floats, **others}), expected, rtol=0, atol=0)
    if name in ALONG_TIME:
        out = tuple(torch.zeros_like(result) for result in expected)
        estimate(name, {**floats, **others}, out=out if len(out) == 2 else out[0])
        assert_same(out, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "time_axis"), DIFFERENTIABLE_WITH_TIME_AXIS)
def test_gradients(name, time_axis):
    floats, others = tensors(name, time_axis, requires_grad=True)
    function = positional(name, floats, others)
    inputs = tuple(floats.values())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    with torch.no_grad():
        assert_same(function(*inputs), tuple(result.detach() for result in as_tuple(function(*inputs))))


@pytest.mark.parametrize(("name", "time_axis"), DIFFERENTIABLE_WITH_TIME_AXIS)
def test_gradients_are_those_of_a_loop(name, time_axis):
    floats, others = tensors(name, time_axis, requires_grad=True)
    results = as_tuple(estimate(name, {**floats, **others}))
    others.pop("time_axis", None)
    expected = as_tuple(loop(name, {**floats, **others}, time_axis))
    assert_same(results, expected)
    weights = [torch.randn_like(result) for result in results]
    loss = lambda results: sum((w * r.square()).sum() for w, r in zip(weights, results, strict=True))  # noqa: E731
    inputs = tuple(floats.values())
    first = torch.autograd.grad(loss(results), inputs, create_graph=True)
    wanted = torch.autograd.grad(loss(expected), inputs, create_graph=True)
    assert_same(first, wanted)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)
    assert_same(second, torch.autograd.grad(sum(gradient.square().sum() for gradient in wanted), inputs))


@pytest.mark.parametrize("n", [1, 2, 4, 5, 6, 7, 8, 1000, 10**18])
def test_windows_of_any_length(n):
    floats, others = tensors("n_step_returns", requires_grad=True)
    others["n"] = n
    results = estimate("n_step_returns", {**floats, **others})
    others.pop("time_axis")
    expected = loop("n_step_returns", {**floats, **others})
    assert_same(results, expected)
    inputs = tuple(floats.values())
    assert_same(torch.autograd.grad(results.sum(), inputs), torch.autograd.grad(expected.sum(), inputs))


@pytest.mark.parametrize("name", ["lambda_returns", "n_step_returns"])
def test_gradients_do_not_meet_garbage_behind_an_end(name):
    terminated = torch.tensor([False, True, False, False])
    rewards = torch.tensor([1.0, 1.0, float("nan"), 1.0], requires_grad=True)
    next_values = torch.tensor([1.0, float("nan"), 1.0, 1.0], requires_grad=True)
    gamma = torch.tensor(0.9, requires_grad=True)
    options = {"lam": 0.5} if name == "lambda_returns" else {"n": 3}
    returns = estimate(name, {"rewards": rewards, "next_values": next_values, "terminated": terminated}, gamma=gamma,
                       **options)  # fmt: skip
    returns[:2].sum().backward()
    assert torch.isfinite(gamma.grad)
    for tensor in (rewards, next_values):
        assert torch.isfinite(tensor.grad).all()
        assert torch.equal(tensor.grad[2:], torch.zeros(2))


def test_segments_do_not_touch_each_other():
    rewards = torch.tensor([1.0, 1.0, float("nan"), 1.0], requires_grad=True)
    values = torch.tensor([1.0, 2.0, float("nan"), 1.0], requires_grad=True)
    last_values = torch.tensor([3.0, float("nan")], requires_grad=True)
    lengths = torch.tensor([2, 2])
    advantages, _ = metafast.segment_returns(
        rewards, lengths, gamma=0.9, values=values, last_values=last_values, lam=0.5
    )
    advantages[:2].sum().backward()
    assert torch.isfinite(rewards.grad).all()
    assert torch.isfinite(values.grad).all()
    assert torch.isfinite(last_values.grad).all()


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_sizes_zero_and_one(name):
    for size in (0, 1):
        floats, others = tensors(name, requires_grad=True)
        cut = lambda k, v, size=size: v[:size] if isinstance(v, torch.Tensor) and k != "last_values" else v  # noqa: E731
        floats = {k: cut(k, v) for k, v in floats.items()}
        others = {k: cut(k, v) for k, v in others.items()}
        if "lengths" in others:
            others["lengths"] = torch.tensor([0, size, 0, 0])
        results = as_tuple(estimate(name, {**floats, **others}))
        assert_same(tuple(result.detach() for result in results), tuple(as_arrays(name, floats, others)))
        sum(result.sum() for result in results).backward()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_compiles_whole(name, requires_grad):
    torch._dynamo.reset()
    floats, others = tensors(name, requires_grad=requires_grad)
    function, inputs = positional(name, floats, others), tuple(floats.values())
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, results = as_tuple(function(*inputs)), as_tuple(compiled(*inputs))
    assert_same(results, expected)
    assert all(result.requires_grad == (requires_grad and name in DIFFERENTIABLE) for result in results)
    if requires_grad and name in DIFFERENTIABLE:
        loss = lambda results: sum(result.square().sum() for result in results)  # noqa: E731
        assert_same(torch.autograd.grad(loss(results), inputs), torch.autograd.grad(loss(expected), inputs))


@pytest.mark.parametrize("name", ["lambda_returns", "vtrace"])
def test_compiles_for_changing_numbers_and_sizes(name):
    torch._dynamo.reset()

    def function(gamma, length):
        floats, others = tensors(name)
        cut = lambda k, v: v[:length] if isinstance(v, torch.Tensor) and k != "next_values" else v  # noqa: E731
        arguments = {**{k: cut(k, v) for k, v in {**floats, **others}.items()}, "gamma": gamma}
        if name == "lambda_returns":
            arguments["next_values"] = floats["next_values"][:length]
        return arguments

    compiled = torch.compile(
        lambda arguments: as_tuple(estimate(name, arguments))[0], fullgraph=True, backend="aot_eager"
    )
    for gamma, length in ((0.99, 7), (0.9, 6), (0.5, 5)):
        arguments = function(gamma, length)
        assert_same(compiled(arguments), as_tuple(estimate(name, arguments))[0])


@pytest.mark.parametrize("name", EVERY)
def test_compiled_calls_check_their_arguments(name):
    torch._dynamo.reset()
    floats, others = tensors(name)
    key = next(key for key in floats if key not in ("rewards", "gamma", "lam")) if len(floats) > 1 else "group_ids"
    wrong = {**floats, **others}
    wrong[key] = wrong[key][:-1]
    compiled = torch.compile(lambda arguments: estimate(name, arguments), fullgraph=True, backend="aot_eager")
    with pytest.raises((ValueError, RuntimeError), match=key):
        compiled(wrong)


@pytest.mark.parametrize("name", CONSTANT)
def test_results_are_constants(name):
    floats, others = tensors(name, requires_grad=True)
    with torch.no_grad():
        expected = as_tuple(estimate(name, {**floats, **others}))
    results = as_tuple(estimate(name, {**floats, **others}))
    assert_same(results, expected, rtol=0, atol=0)
    assert not any(result.requires_grad for result in results)
    rewards = floats["rewards"].detach()
    loss = lambda rewards: as_tuple(estimate(name, {**floats, **others, "rewards": rewards}))[0].sum() + rewards.sum()  # noqa: E731
    floats = {key: value.detach() for key, value in floats.items()}
    ones = torch.ones_like(rewards)
    assert_same(torch.func.grad(loss)(rewards), ones)
    twice = torch.func.grad(lambda rewards: (torch.func.grad(loss)(rewards) * rewards).sum())
    assert_same(twice(rewards), ones)
    _, derivative = torch.func.jvp(loss, (rewards,), (ones,))
    assert_same(derivative, ones.sum())


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_vmap_over_everything(name, time_axis):
    problems = [problem(name, time_axis, seed=seed) for seed in range(3)]
    options = {k: v for k, v in problems[0].items() if not isinstance(v, np.ndarray)}
    if name in ALONG_TIME:
        options["time_axis"] = time_axis
    names = [k for k in problems[0] if k not in options]
    batches = [torch.stack([torch.from_numpy(p[key]) for p in problems], -1) for key in names]
    function = lambda *values: estimate(name, {**dict(zip(names, values, strict=True)), **options})  # noqa: E731
    results = torch.func.vmap(function, in_dims=-1)(*batches)
    one_by_one = [as_tuple(function(*(torch.from_numpy(p[key]) for key in names))) for p in problems]
    assert_same(results, tuple(torch.stack(parts) for parts in zip(*one_by_one, strict=True)))


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_vmap_over_one_argument_twice(name, time_axis):
    floats, others = tensors(name, time_axis)
    key = "gamma" if "gamma" in floats else "rewards"
    shape = floats[key].shape
    batch = torch.rand(2, 4, *shape, dtype=torch.float64)
    function = lambda value: estimate(name, {**floats, **others, key: value})  # noqa: E731
    results = as_tuple(torch.func.vmap(torch.func.vmap(function))(batch))
    expected = [as_tuple(function(value)) for value in batch.flatten(0, 1)]
    for result, parts in zip(results, zip(*expected, strict=True), strict=True):
        assert_same(result, torch.stack(parts).unflatten(0, (2, 4)))


@pytest.mark.parametrize("name", EVERY)
def test_vmap_over_nothing(name):
    floats, others = tensors(name)
    function = lambda rewards: estimate(name, {**floats, **others, "rewards": rewards})  # noqa: E731
    for result in as_tuple(torch.func.vmap(function)(floats["rewards"][None][:0])):
        assert result.shape == (0, *floats["rewards"].shape)


@pytest.mark.parametrize("name", ["vtrace", "retrace", "q_lambda", "upgo"])
@pytest.mark.parametrize("time_axis", [0, 1])
def test_vmap_with_coefficients_of_fewer_axes(name, time_axis):
    floats, others = tensors(name, time_axis)
    rewards = torch.stack([floats["rewards"], -floats["rewards"]])
    last_axis = floats["rewards"].shape[-1]
    for gamma in (torch.tensor(0.9).double(), torch.rand(last_axis).double(), torch.rand(1, last_axis).double()):
        function = lambda rewards, gamma: as_tuple(  # noqa: E731
            estimate(name, {**floats, **others, "rewards": rewards, "gamma": gamma})
        )[0]
        expected = torch.stack([function(sample, gamma) for sample in rewards])
        assert_same(torch.func.vmap(function, in_dims=(0, None))(rewards, gamma), expected)
        gammas = torch.stack([gamma, gamma / 2])
        expected = torch.stack([function(sample, g) for sample, g in zip(rewards, gammas, strict=True)])
        assert_same(torch.func.vmap(function)(rewards, gammas), expected)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_per_sample_gradients(name):
    floats, others = tensors(name)
    loss = lambda rewards: sum(  # noqa: E731
        result.square().sum() for result in as_tuple(estimate(name, {**floats, **others, "rewards": rewards}))
    )
    batch = torch.stack([floats["rewards"], 2 * floats["rewards"]])
    expected = torch.stack([torch.func.grad(loss)(sample) for sample in batch])
    assert_same(torch.func.vmap(torch.func.grad(loss))(batch), expected)
    rewards = floats["rewards"].clone().requires_grad_()
    assert_same(expected[0], torch.autograd.grad(loss(rewards), rewards)[0])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode(name):
    floats, others = tensors(name)
    function = positional(name, floats, others)
    inputs = tuple(floats.values())
    tangents = tuple(torch.randn_like(tensor) for tensor in inputs)
    _, derivatives = torch.func.jvp(function, inputs, tangents)
    step = 1e-6
    ahead = function(*(x + step * d for x, d in zip(inputs, tangents, strict=True)))
    behind = function(*(x - step * d for x, d in zip(inputs, tangents, strict=True)))
    expected = tuple((a - b) / (2 * step) for a, b in zip(as_tuple(ahead), as_tuple(behind), strict=True))
    assert_same(derivatives, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_half_precision_is_computed_in_float32(name, requires_grad, dtype):
    floats, others = tensors(name, dtype=dtype, requires_grad=requires_grad)
    results = as_tuple(estimate(name, {**floats, **others}))
    wide = {key: value.detach().float() for key, value in floats.items()}
    for result, wanted in zip(results, as_tuple(estimate(name, {**wide, **others})), strict=True):
        assert result.dtype == dtype
        assert result.requires_grad == (requires_grad and name in DIFFERENTIABLE)
        torch.testing.assert_close(result.detach(), wanted.to(dtype), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", EVERY)
def test_autocast_changes_nothing(name):
    floats, others = tensors(name, dtype=torch.float32, requires_grad=True)
    expected = as_tuple(estimate(name, {**floats, **others}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = as_tuple(estimate(name, {**floats, **others}))
    assert_same(results, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", EVERY)
def test_another_default_device(name):
    floats, others = tensors(name, requires_grad=True)
    expected = estimate(name, {**floats, **others})
    with torch.device("meta"):
        assert_same(estimate(name, {**floats, **others}), expected)


@pytest.mark.parametrize("name", CONSTANT)
def test_registered_operations_pass_torchs_own_checks(name):
    recorded = []
    floats, others = tensors(name)

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            recorded.append((operation, arguments))
            return operation(*arguments, **(options or {}))

    with Recorder():
        estimate(name, {**floats, **others})
    operation, arguments = next(call for call in recorded if call[0].name() == f"metafast::{name}")
    torch.library.opcheck(operation, arguments)


def error_cases():
    for name in EVERY:
        floats, others = tensors(name)
        good = {**floats, **others}
        others_of = [key for key in floats if key not in ("rewards", "gamma", "lam")]
        for key in others_of:
            yield name, key, TypeError, {**good, key: good[key].float()}
            # Where the first argument is of another library than the rest, the second is the one that does not fit it.
            named = f"^({key}|rewards|next_q_expected) "
            yield name, named, TypeError, {**good, key: good[key].numpy()}
            yield name, key, TypeError, {**good, key: good[key].to("meta")}
            yield name, key, ValueError, {**good, key: good[key][:-1]}
        if name in ALONG_TIME:
            yield name, "time_axis", ValueError, {**good, "time_axis": 2}
            yield name, "terminated", ValueError, {**good, "terminated": good["terminated"][0]}
            yield name, "terminated", TypeError, {**good, "terminated": None}
            yield name, "rewards", TypeError, {**good, **{key: good[key].long() for key in floats}}
        if "gamma" in good:
            yield name, "gamma", TypeError, {**good, "gamma": True}
            yield name, "gamma", TypeError, {**good, "gamma": "0.99"}
            yield name, "gamma", TypeError, {**good, "gamma": None}
            yield name, "gamma", TypeError, {**good, "gamma": good["gamma"].float()}
            yield name, "gamma", ValueError, {**good, "gamma": good["gamma"].new_ones(5)}
    good = {**tensors("n_step_returns")[0], **tensors("n_step_returns")[1]}
    for n, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError), (None, TypeError)):
        yield "n_step_returns", "n must", error, {**good, "n": n}
    yield "n_step_returns", "next_values", ValueError, {**good, "next_values": good["next_values"][0]}
    good = {**tensors("vtrace")[0], **tensors("vtrace")[1]}
    for key in ("clip_rho", "clip_c", "clip_pg_rho"):
        for bound, error in ((0.0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
            yield "vtrace", key, error, {**good, key: bound}
    for name in ("vtrace", "upgo"):
        good = {**tensors(name)[0], **tensors(name)[1]}
        everywhere = torch.ones_like(good["truncated"])
        yield name, "final_values", ValueError, {
            **good, "final_values": None, "terminated": ~everywhere, "truncated": everywhere
        }  # fmt: skip
    good = {**tensors("group_advantages")[0], **tensors("group_advantages")[1]}
    yield "group_advantages", "kind", ValueError, {**good, "kind": "ppo"}
    yield "group_advantages", "group_ids", TypeError, {**good, "group_ids": good["rewards"]}
    yield "group_advantages", "group_ids", ValueError, {**good, "group_ids": good["group_ids"][:-1]}
    yield "group_advantages", "rewards", ValueError, {**good, "rewards": good["rewards"][None]}
    good = {**tensors("segment_returns")[0], **tensors("segment_returns")[1]}
    for lengths in ([3, 0, 1, 4], [3, 0, 1, 2], [4, -1, 1, 3]):
        yield "segment_returns", "lengths", ValueError, {**good, "lengths": torch.tensor(lengths)}
    yield "segment_returns", "lengths", TypeError, {**good, "lengths": good["lengths"].double()}
    yield "segment_returns", "lam", ValueError, {**good, "values": good["rewards"]}
    yield "segment_returns", "values", ValueError, {**good, "lam": 0.5}


@pytest.mark.parametrize(("name", "match", "error", "arguments"), list(error_cases()))
@pytest.mark.parametrize("in_graph", [False, True])
def test_bad_input(name, match, error, arguments, in_graph):
    if not in_graph:
        with pytest.raises(error, match=match):
            estimate(name, arguments)
        return
    # Where autograd or a transform looks, the checks are others, and what they raise must be the same.
    if name in DIFFERENTIABLE and arguments["rewards"].is_floating_point():
        rewards = arguments["rewards"].clone().requires_grad_()
        with pytest.raises(error, match=match):
            estimate(name, {**arguments, "rewards": rewards})
    with pytest.raises(error, match=match):
        torch.func.vmap(lambda rewards: estimate(name, {**arguments, "rewards": rewards}))(arguments["rewards"][None])


def test_out_cannot_be_given_where_gradients_are_asked_for():
    floats, others = tensors("lambda_returns", requires_grad=True)
    out = torch.empty_like(floats["rewards"])
    with pytest.raises(ValueError, match="out cannot be given"):
        estimate("lambda_returns", {**floats, **others}, out=out)
    floats, others = tensors("q_lambda", requires_grad=True)
    assert estimate("q_lambda", {**floats, **others}, out=out) is out
    floats, others = tensors("vtrace")
    with pytest.raises(TypeError, match="out must be a pair"):
        estimate("vtrace", {**floats, **others}, out=out)


def test_out_of_discounted_returns():
    rewards, terminated = torch.randn(5, 2), torch.zeros(5, 2)
    out = torch.empty(5, 2)
    assert metafast.discounted_returns(rewards, terminated, out=out) is out
    assert torch.equal(out, metafast.discounted_returns(rewards, terminated))
