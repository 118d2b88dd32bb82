"""The estimators on torch tensors: sharing memory, gradients, torch.compile, torch.func."""

import numpy as np
import pytest
import torch

import metafast

SHAPES = {0: (7, 3), 1: (3, 7)}


def problem(time_axis, *, requires_grad=True):
    generator = torch.Generator().manual_seed(time_axis)
    shape = SHAPES[time_axis]

    def floats(*size):
        tensor = torch.randn(*size, dtype=torch.float64, generator=generator)
        return tensor.requires_grad_(requires_grad)

    return {
        "rewards": floats(*shape),
        "values": floats(*shape),
        "bootstrap": floats(3),
        "next_values": floats(*shape),
        "final_values": floats(*shape),
        "terminated": torch.rand(shape, generator=generator) < 0.2,
        "truncated": torch.rand(shape, generator=generator) < 0.2,
        "mask": torch.rand(shape, generator=generator) < 0.7,
        "gamma": torch.tensor(0.9, dtype=torch.float64).requires_grad_(requires_grad),
        "lam": torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_(requires_grad),
    }


def gae_of(p, time_axis, *, mask):
    def function(rewards, values, next_values, final_values, gamma, lam):
        return metafast.gae(
            rewards, values, next_values, p["terminated"], p["truncated"],
            gamma=gamma, lam=lam, final_values=final_values, mask=p["mask"] if mask else None, time_axis=time_axis,
        )  # fmt: skip

    return function


def returns_of(p, time_axis):
    def function(rewards, bootstrap, final_values, gamma):
        return metafast.discounted_returns(
            rewards, p["terminated"], p["truncated"],
            gamma=gamma, bootstrap=bootstrap, final_values=final_values, time_axis=time_axis,
        )  # fmt: skip

    return function


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("successors", ["bootstrap", "next_values"])
def test_gae_gradients(time_axis, mask, successors):
    p = problem(time_axis)
    inputs = [p[name] for name in ("rewards", "values", successors, "final_values", "gamma", "lam")]
    function = gae_of(p, time_axis, mask=mask)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    with torch.no_grad():
        fused = function(*inputs)
    for differentiable, kernel in zip(function(*inputs), fused, strict=True):
        assert not kernel.requires_grad
        torch.testing.assert_close(differentiable.detach(), kernel, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_discounted_returns_gradients(time_axis):
    p = problem(time_axis)
    inputs = [p[name] for name in ("rewards", "bootstrap", "final_values", "gamma")]
    function = returns_of(p, time_axis)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
    with torch.no_grad():
        torch.testing.assert_close(function(*inputs).detach(), function(*inputs), rtol=1e-13, atol=1e-13)


def test_gradients_do_not_meet_garbage_behind_an_end():
    rewards = torch.ones(4, requires_grad=True)
    values = torch.tensor([0.0, 0.0, float("nan"), 0.0], requires_grad=True)
    gamma = torch.tensor(0.9, requires_grad=True)
    terminated = torch.tensor([False, True, False, False])
    advantages, _ = metafast.gae(rewards, values, torch.tensor(0.0), terminated, gamma=gamma)
    advantages[:2].sum().backward()
    assert torch.isfinite(rewards.grad).all()
    assert torch.isfinite(gamma.grad)
    assert torch.equal(values.grad[2:], torch.zeros(2))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_compiles_whole(requires_grad):
    torch._dynamo.reset()
    p = problem(0, requires_grad=requires_grad)
    names = ("rewards", "values", "bootstrap", "final_values", "gamma", "lam")
    inputs = [p[name] for name in names]
    function = gae_of(p, 0, mask=False)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, results = function(*inputs), compiled(*inputs)
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted)
    if requires_grad:
        wanted = torch.autograd.grad(expected[0].square().sum(), inputs)
        for gradient, other in zip(torch.autograd.grad(results[0].square().sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(gradient, other)


def test_compiles_for_transposed_tensors_and_changing_gamma():
    torch._dynamo.reset()
    rewards, values = torch.randn(3, 7).T, torch.randn(3, 7).T.requires_grad_()
    bootstrap, terminated = torch.randn(3), (torch.rand(3, 7) < 0.2).T
    function = lambda gamma: metafast.gae(rewards, values, bootstrap, terminated, gamma=gamma)[0]  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for gamma in (0.99, 0.9, 0.5):
        torch.testing.assert_close(compiled(gamma), function(gamma))


@pytest.mark.parametrize("mask", [False, True], ids=["", "mask"])
def test_forward_mode(mask):
    p = problem(0, requires_grad=False)
    function = gae_of(p, 0, mask=mask)
    inputs = tuple(p[name] for name in ("rewards", "values", "bootstrap", "final_values", "gamma", "lam"))
    tangents = tuple(torch.randn_like(tensor) for tensor in inputs)
    _, derivative = torch.func.jvp(function, inputs, tangents)
    step = 1e-6
    ahead = function(*(x + step * d for x, d in zip(inputs, tangents, strict=True)))
    behind = function(*(x - step * d for x, d in zip(inputs, tangents, strict=True)))
    for result, plus, minus in zip(derivative, ahead, behind, strict=True):
        torch.testing.assert_close(result, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs[0], tangents[0])
        assert torch.autograd.forward_ad.unpack_dual(function(dual, *inputs[1:])[0]).tangent is not None


def test_tracing_records_the_computation():
    p = problem(0, requires_grad=False)
    inputs = [p[name] for name in ("values", "next_values", "terminated")]
    function = lambda rewards: metafast.gae(rewards, *inputs)[0]  # noqa: E731
    traced = torch.fx.experimental.proxy_tensor.make_fx(function)(p["rewards"])
    torch.testing.assert_close(traced(2 * p["rewards"]), function(2 * p["rewards"]))


def test_vmap_over_flags():
    p = problem(0, requires_grad=False)
    batch = torch.stack([p["truncated"], torch.zeros_like(p["truncated"])])
    function = lambda truncated: metafast.gae(  # noqa: E731
        p["rewards"], p["values"], p["next_values"], p["terminated"], truncated
    )[0]
    torch.testing.assert_close(torch.func.vmap(function)(batch), torch.stack([function(flags) for flags in batch]))
    bootstrapped = lambda truncated: metafast.gae(  # noqa: E731
        p["rewards"], p["values"], p["bootstrap"], p["terminated"], truncated
    )[0]
    torch.func.vmap(bootstrapped)(torch.zeros_like(batch))
    with pytest.raises(ValueError, match="final_values"):
        torch.func.vmap(bootstrapped)(torch.ones_like(batch))


def test_a_masked_step_gives_gamma_no_nan():
    p = problem(0, requires_grad=False)
    p["next_values"][2, 0] = p["values"][2, 0] = float("nan")
    mask = torch.ones(7, 3)
    mask[2, 0] = 0
    gamma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    advantages, _ = metafast.gae(p["rewards"], p["values"], p["next_values"], p["terminated"], gamma=gamma, mask=mask)
    (gradient,) = torch.autograd.grad(advantages.sum(), gamma)
    assert torch.isfinite(gradient)


def test_another_default_device():
    p = problem(0)
    arguments = [p[name] for name in ("rewards", "values", "bootstrap", "terminated")]
    expected = metafast.gae(*arguments)[0]
    with torch.device("meta"):
        torch.testing.assert_close(metafast.gae(*arguments)[0], expected)


def test_out_is_known_to_autograd():
    p = problem(0, requires_grad=False)
    arguments = [p[name] for name in ("rewards", "values", "bootstrap", "terminated")]
    out = torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 3, dtype=torch.float64)
    weight = torch.ones(7, 3, dtype=torch.float64, requires_grad=True)
    product = (weight * out[0]).sum()
    metafast.gae(*arguments, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with pytest.raises(ValueError, match=r"out\[1\] requires grad"):
        metafast.gae(*arguments, out=(out[0], out[1].clone().requires_grad_()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_coefficients_are_multiplied_in_float32(dtype, tolerance):
    rewards = torch.ones(400, dtype=dtype, requires_grad=True)
    rest = torch.zeros(400, dtype=dtype), torch.zeros((), dtype=dtype), torch.zeros(400, dtype=torch.bool)
    gamma, lam = torch.tensor(0.995, dtype=dtype), torch.tensor(0.97, dtype=dtype)
    graph = metafast.gae(rewards, *rest, gamma=gamma, lam=lam)[0][0]
    exact = sum((float(gamma) * float(lam)) ** step for step in range(400))
    assert abs(float(graph.detach()) - exact) < tolerance * exact


def test_registered_operation_passes_torchs_own_checks():
    offsets, decays = torch.randn(5, 3), torch.rand(5, 3)
    metafast.gae(offsets, offsets, decays, torch.zeros(5, 3))  # registers the operation
    torch.library.opcheck(torch.ops.metafast.affine_scan, (offsets, decays, 0, False))
    torch.library.opcheck(torch.ops.metafast.affine_scan, (offsets, decays, 1, True))


def test_torch_func_grad_and_vmap():
    p = problem(0, requires_grad=False)
    function = gae_of(p, 0, mask=False)
    inputs = [p[name] for name in ("rewards", "values", "bootstrap", "final_values", "gamma", "lam")]
    loss = lambda rewards: function(rewards, *inputs[1:])[0].square().sum()  # noqa: E731
    rewards = inputs[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(rewards), rewards)
    torch.testing.assert_close(torch.func.grad(loss)(inputs[0]), expected)
    batch = torch.stack([inputs[0], 2 * inputs[0]])
    per_sample = torch.func.vmap(torch.func.grad(loss))(batch)
    torch.testing.assert_close(per_sample, torch.stack([torch.func.grad(loss)(sample) for sample in batch]))


def test_memory_is_shared_and_dtype_kept():
    p = problem(0, requires_grad=False)
    arguments = [p[name] for name in ("rewards", "values", "bootstrap", "terminated")]
    out = (torch.empty(7, 3, dtype=torch.float64), torch.empty(7, 3, dtype=torch.float64))
    results = metafast.gae(*arguments, out=out)
    assert results == out
    expected = metafast.gae(*[tensor.numpy() for tensor in arguments])
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.numpy(), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_half_precision_is_computed_in_float32(dtype, requires_grad):
    p = problem(0, requires_grad=False)
    half = [p[name].to(dtype).requires_grad_(requires_grad) for name in ("rewards", "values", "bootstrap")]
    results = metafast.gae(*half, p["terminated"])
    expected = metafast.gae(*[tensor.detach().float() for tensor in half], p["terminated"])
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert result.requires_grad == requires_grad
        torch.testing.assert_close(result.detach(), wanted.to(dtype), rtol=1e-2, atol=1e-2)


def test_parameters_and_numpy_numbers_as_coefficients():
    p = problem(0, requires_grad=False)
    arguments = [p[name] for name in ("rewards", "values", "bootstrap", "terminated")]
    expected, _ = metafast.gae(*arguments, gamma=0.5)
    for gamma in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)):
        torch.testing.assert_close(metafast.gae(*arguments, gamma=gamma)[0], expected)
        rewards = arguments[0].clone().requires_grad_()
        torch.testing.assert_close(metafast.gae(rewards, *arguments[1:], gamma=gamma)[0].detach(), expected)


def error_cases():
    p = problem(0, requires_grad=False)
    good = {name: p[name] for name in ("rewards", "values", "next_values", "terminated", "truncated")}
    yield "values", TypeError, {**good, "values": p["values"].float()}
    yield "values", ValueError, {**good, "values": p["values"].T}
    yield "terminated", ValueError, {**good, "terminated": p["terminated"][0]}
    yield "next_values", ValueError, {**good, "next_values": p["values"][:2]}
    yield "rewards", TypeError, {**good, **{n: p[n].long() for n in ("rewards", "values", "next_values")}}
    yield "values", TypeError, {**good, "values": p["values"].numpy()}
    yield "values", TypeError, {**good, "values": p["values"].to("meta")}
    for name in ("values", "next_values", "terminated"):
        yield name, TypeError, {**good, name: None}
    yield "gamma", TypeError, {**good, "gamma": True}
    yield "gamma", TypeError, {**good, "gamma": "0.99"}
    yield "lam", TypeError, {**good, "lam": [0.9]}
    yield "gamma", TypeError, {**good, "gamma": torch.rand(7, 3)}
    yield "next_values", TypeError, {**good, "next_values": p["bootstrap"].float()}
    yield "gamma", ValueError, {**good, "gamma": torch.rand(5, dtype=torch.float64)}
    yield "time_axis", ValueError, {**good, "time_axis": 2}
    everywhere = torch.ones_like(p["truncated"])
    yield "final_values", ValueError, {
        **good, "next_values": p["bootstrap"], "terminated": ~everywhere, "truncated": everywhere
    }  # fmt: skip


@pytest.mark.parametrize(("name", "error", "arguments"), list(error_cases()))
@pytest.mark.parametrize("requires_grad", [False, True])
def test_bad_input(name, error, arguments, requires_grad):
    if requires_grad and arguments["rewards"].is_floating_point():
        arguments = {**arguments, "rewards": arguments["rewards"].clone().requires_grad_()}
    with pytest.raises(error, match=name):
        metafast.gae(**arguments)
