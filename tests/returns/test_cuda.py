"""The estimators on CUDA tensors, or with the kernels' source run on the CPU, against the papers' explicit sums."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from returns import reference
from returns.estimator_calls import CONSTANT, DIFFERENTIABLE, as_tuple, estimate
from returns.estimator_calls import problem as problem_of
from returns.estimators import ESTIMATORS, Case, assert_within, options
from returns.problems import make_problem, problems
from returns.test_affine_scan import solve
from returns.test_segment_returns import calls, rounding
from returns.test_torch import error_cases

import metafast
from metafast import _device
from metafast.returns import _cuda, _estimator

few = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on(device, value):
    """An array as a tensor with its strides; torch has no negative ones."""
    if not isinstance(value, np.ndarray):
        return value
    if any(stride < 0 for stride in value.strides):
        value = value.copy("C")
    kept = np.asarray(value[tuple(slice(1) if stride == 0 else slice(None) for stride in value.strides)])
    return torch.from_numpy(kept if kept.flags.writeable else kept.copy()).to(device).expand(value.shape)


def tensors(device, arguments):
    return {name: on(device, value) for name, value in arguments.items()}


def on_host(results):
    return tuple(result.cpu().numpy() for result in as_tuple(results))


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=str)
@few
@given(data=st.data())
def test_against_the_explicit_sum(device, estimator, data):
    problem = data.draw(problems(on_grid=estimator.name == "upgo"), label="problem")
    case = Case(estimator, problem, **data.draw(options(estimator), label="options"))
    results = estimator(**tensors(device, case.arguments()))
    assert all(result.device == device for result in results)
    case.assert_agrees(on_host(results))


# Of time and batch: vectors of columns, single columns, time contiguous; one tile, several, and chunks of several.
SIZES = [
    (129, (32,), 0),
    (260, (37,), 0),
    (1040, (8,), 0),
    (2100, (8,), 0),
    (2049, (), 0),
    (8193, (), 0),
    (8192, (), 0),
    (513, (1,), 1),
    (64, (3,), 1),
    (3, (300,), 1),
    (40, (5, 12), 1),
    (40, (5, 3), 1),
]


@pytest.mark.parametrize(("num_steps", "batch", "time_axis"), SIZES, ids=str)
@pytest.mark.parametrize("name", ["gae", "masked", "vtrace", "retrace", "upgo", "discounted_returns", "n_step_returns"])
def test_sizes_around_those_of_tiles(device, name, num_steps, batch, time_axis):
    estimator = ESTIMATORS["gae" if name == "masked" else name]
    if num_steps * max(1, np.prod(batch)) > 3000 and name not in ("gae", "masked", "retrace"):
        pytest.skip("the same kernel as gae's, of which there is enough")
    problem = make_problem(num_steps, batch, end_rate=0.02, mask_rate=0.2, dtype=np.float32, time_axis=time_axis,
                           on_grid=name == "upgo")  # fmt: skip
    numbers = {"clip_rho": 1.3, "clip_c": 0.9, "clip_pg_rho": 1.1} if name == "vtrace" else {}
    numbers = {"n": 37} if name == "n_step_returns" else numbers
    coefficients = dict.fromkeys(("gamma", "lam"), "full" if name == "retrace" else 0.9)
    case = Case(
        estimator, problem, with_row=True, with_mask=name == "masked", numbers=numbers, coefficients=coefficients
    )
    case.assert_agrees(on_host(estimator(**tensors(device, case.arguments()))))


@few
@given(problem=problems(), forwards=st.booleans())
def test_bare_recurrence_both_ways(device, problem, forwards):
    decays = np.where(problem.terminated, 0, problem.gamma)
    arrays = on(device, problem.arrange(problem.rewards)), on(device, problem.arrange(decays))
    result = _cuda.affine_scan(*arrays, problem.time_axis, forwards)
    assert result.is_contiguous()
    expected = solve(problem.rewards, decays, forwards)
    np.testing.assert_allclose(problem.time_major(result.cpu().numpy()), expected, **problem.tolerance())


@pytest.mark.parametrize("shape", [(1024, 1), (8200, 1), (40, 8), (1, 64)], ids=str)
@pytest.mark.parametrize("forwards", [False, True])
def test_bare_recurrence_in_vectors(device, shape, forwards):
    rng = np.random.default_rng(0)
    offsets, decays = rng.standard_normal(shape), rng.uniform(0, 1, shape) * (rng.random(shape) < 0.95)
    result = _cuda.affine_scan(on(device, offsets), on(device, decays), 0, forwards)
    np.testing.assert_allclose(result.cpu().numpy(), solve(offsets, decays, forwards), rtol=1e-11, atol=1e-11)


def test_garbage_is_seen_at_any_distance_and_crosses_no_end(device):
    # The decays' product is far below the smallest number, and the steps are still joined.
    rewards = torch.zeros(3000, dtype=torch.float32, device=device)
    terminated = torch.zeros(3000, dtype=torch.bool, device=device)
    rewards[2990] = torch.inf
    terminated[100] = True
    returns = metafast.discounted_returns(rewards, terminated, gamma=0.5)
    assert torch.equal(returns[:101], torch.zeros_like(returns[:101]))
    assert torch.equal(returns[101:2991], torch.full_like(returns[101:2991], torch.inf))
    assert torch.equal(returns[2991:], torch.zeros_like(returns[2991:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(30, 8), (30, 3), (40, 1)], ids=str)
def test_half_precision_is_computed_in_float32(device, dtype, shape):
    generator = torch.Generator().manual_seed(0)
    rewards, values, final_values, gamma = (torch.rand(shape, generator=generator).to(device, dtype) for _ in range(4))
    bootstrap, truncated = values[0].clone(), (torch.rand(shape, generator=generator) < 0.1).to(device)
    options = {"gamma": gamma, "lam": 0.97, "final_values": final_values}
    terminated = torch.zeros_like(truncated)
    results = metafast.gae(rewards, values, bootstrap, terminated, truncated, **options)
    wide = {key: value.float() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    expected = metafast.gae(rewards.float(), values.float(), bootstrap.float(), terminated, truncated, **wide)
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == dtype
        assert torch.equal(result, wanted.to(dtype))
    # A coefficient without axes keeps its own precision.
    options["gamma"] = torch.tensor(0.9871, device=device)
    results = metafast.gae(rewards, values, bootstrap, terminated, truncated, **options)
    expected = metafast.gae(
        rewards.float(), values.float(), bootstrap.float(), terminated, truncated, **{**wide, "gamma": 0.9871}
    )
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted.to(dtype))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every second", "three axes apart"])
def test_results_are_written_to_out(device, layout):
    p = {key: value.to(device) for key, value in good_arguments().items()}
    expected = metafast.gae(**p)
    shape = p["rewards"].shape
    out = tuple(
        {
            "contiguous": lambda: torch.zeros(shape, dtype=torch.float64, device=device),
            "transposed": lambda: torch.zeros(shape[::-1], dtype=torch.float64, device=device).T,
            "every second": lambda: torch.zeros(14, 6, dtype=torch.float64, device=device)[::2, ::2],
            "three axes apart": lambda: torch.zeros(7, 4, dtype=torch.float64, device=device)[:, :3],
        }[layout]()
        for _ in range(2)
    )
    results = metafast.gae(**p, out=out)
    assert all(result is target for result, target in zip(results, out, strict=True))
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


def test_out_of_axes_that_cannot_be_walked(device):
    rewards = torch.rand(5, 2, 3, device=device)
    terminated = torch.zeros(5, 2, 3, dtype=torch.bool, device=device)
    out = torch.zeros(5, 4, 5, device=device)[:, ::2, :3]
    metafast.discounted_returns(rewards, terminated, out=out)
    assert torch.equal(out, metafast.discounted_returns(rewards, terminated))


def good_arguments():
    generator = torch.Generator().manual_seed(0)
    floats = lambda *size: torch.randn(size, dtype=torch.float64, generator=generator)  # noqa: E731
    return {"rewards": floats(7, 3), "values": floats(7, 3), "next_values": floats(3),
            "terminated": torch.rand(7, 3, generator=generator) < 0.2}  # fmt: skip


def test_bad_out(device):
    p = {key: value.to(device) for key, value in good_arguments().items()}
    out = torch.zeros(7, 3, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with out\[0\]"):
        metafast.gae(**p, out=(out, out))
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with values"):
        metafast.gae(**p, out=(out, p["values"]))
    with pytest.raises(ValueError, match=r"out\[0\] has shape \(7,\)"):
        metafast.gae(**p, out=(out[:, 0], out))
    with pytest.raises(TypeError, match=r"out\[1\] has dtype float32"):
        metafast.gae(**p, out=(out, out.float()))
    with pytest.raises(TypeError, match="pair"):
        metafast.gae(**p, out=out)
    with pytest.raises(ValueError, match=r"out\[0\] requires grad"):
        metafast.gae(**p, out=(out.clone().requires_grad_(), out))
    interleaved = torch.zeros(7, 3, 2, dtype=torch.float64, device=device)
    results = metafast.gae(**p, out=(interleaved[..., 0], interleaved[..., 1]))
    for result, wanted in zip(results, metafast.gae(**p), strict=True):
        assert torch.equal(result, wanted)


@pytest.mark.parametrize(("name", "error", "arguments"), list(error_cases()))
@pytest.mark.parametrize("requires_grad", [False, True])
def test_bad_input(device, name, error, arguments, requires_grad):
    arguments = {
        key: value.to(device) if isinstance(value, torch.Tensor) and value.device.type == "cpu" else value
        for key, value in arguments.items()
    }
    if requires_grad and arguments["rewards"].is_floating_point():
        arguments["rewards"] = arguments["rewards"].clone().requires_grad_()
    with pytest.raises(error, match=name):
        metafast.gae(**arguments)


def test_truncation_that_needs_final_values(device):
    p = {key: value.to(device) for key, value in good_arguments().items()}
    truncated, terminated = torch.zeros_like(p["terminated"]), torch.zeros_like(p["terminated"])
    truncated[-1] = True
    metafast.gae(**{**p, "terminated": terminated}, truncated=truncated)
    truncated[4, 1] = True
    for estimator in (metafast.gae, functools.partial(metafast.upgo, gamma=1.0)):
        with pytest.raises(ValueError, match="final_values"):
            estimator(**{**p, "terminated": terminated}, truncated=truncated)
    mask = torch.ones_like(truncated)
    mask[5:, 1] = False
    metafast.gae(**{**p, "terminated": terminated}, truncated=truncated, mask=mask)


@few
@given(call=calls())
def test_segments(device, call):
    arguments, dtype, _, length_dtype = call
    in_double = {name: np.asarray(value, np.float64) for name, value in arguments.items() if name != "lengths"}
    for name in ("gamma", "lam"):
        if name in in_double:
            in_double[name] = np.broadcast_to(in_double[name], len(arguments["rewards"]))
    options = {name: in_double.get(name) for name in ("values", "last_values", "lam")}
    shared = (in_double["rewards"], arguments["lengths"], in_double["gamma"])
    expected = np.atleast_2d(reference.segment_returns(*shared, **options))
    bounds = rounding(*shared, dtype, **options)
    arguments["lengths"] = arguments["lengths"].astype(length_dtype)
    results = metafast.segment_returns(**tensors(device, arguments))
    assert isinstance(results, tuple) == ("values" in arguments)
    for result, wanted, bound in zip(on_host(results), expected, bounds, strict=True):
        assert result.dtype == dtype
        assert_within(result, wanted, bound)


@pytest.mark.parametrize("lengths", [[3, 5], [-1, 8], [9, -2], [8]])
def test_lengths_that_do_not_fit(device, lengths):
    with pytest.raises(ValueError, match="lengths"):
        metafast.segment_returns(torch.ones(7, device=device), torch.tensor(lengths, device=device), gamma=0.9)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("id_dtype", [np.int64, np.int32, np.uint8])
def test_groups(device, kind, dtype, id_dtype):
    rng = np.random.default_rng(0)
    rewards, ids = rng.standard_normal(400).astype(dtype), rng.integers(0, 90, 400).astype(id_dtype)
    rewards[ids == 5] = dtype(0.1)
    expected = metafast.group_advantages(rewards, ids, kind=kind)
    found = metafast.group_advantages(on(device, rewards), on(device, ids), kind=kind).cpu().numpy()
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps, atol=1e-12)
    alone = np.isin(ids, np.flatnonzero(np.bincount(ids) == 1))
    assert alone.any()
    assert not found[alone | (ids == 5)].any()
    for size in (0, 1):
        few_samples = metafast.group_advantages(on(device, rewards[:size]), on(device, ids[:size]), kind=kind)
        assert torch.equal(few_samples.cpu(), torch.zeros(size, dtype=few_samples.dtype))


def arguments_of(device, name, requires_grad=False):
    floats, others = {}, {}
    for key, value in problem_of(name).items():
        is_float = isinstance(value, np.ndarray) and value.dtype == np.float64
        (floats if is_float else others)[key] = on(device, value)
    return {key: value.requires_grad_(requires_grad) for key, value in floats.items()}, others


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(device, name):
    floats, others = arguments_of(device, name, requires_grad=True)
    function = lambda *values: estimate(name, {**dict(zip(floats, values, strict=True)), **others})  # noqa: E731
    inputs = tuple(floats.values())
    assert torch.autograd.gradcheck(function, inputs)
    with torch.no_grad():
        fused = as_tuple(function(*inputs))
    for differentiable, kernel in zip(as_tuple(function(*inputs)), fused, strict=True):
        torch.testing.assert_close(differentiable.detach(), kernel, rtol=1e-12, atol=1e-12)


def test_gradients_of_coefficients_on_the_host(device):
    p = {key: value.to(device) for key, value in good_arguments().items()}
    gamma = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(metafast.gae(**p, gamma=gamma)[0].sum(), gamma)
    step = 1e-6
    ahead, behind = (metafast.gae(**p, gamma=0.9 + sign * step)[0].sum() for sign in (1, -1))
    assert abs(gradient.item() - (ahead - behind).item() / (2 * step)) < 1e-6


@pytest.mark.parametrize("name", ["lambda_returns", "segment_advantages", "vtrace", "group_advantages"])
def test_compiles_whole(device, name):
    torch._dynamo.reset()
    floats, others = arguments_of(device, name)
    function = lambda floats: estimate(name, {**floats, **others})  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for result, wanted in zip(as_tuple(compiled(floats)), as_tuple(function(floats)), strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vtrace", "lambda_returns", "group_advantages"])
def test_vmap(device, name):
    floats, others = arguments_of(device, name)
    function = lambda rewards: as_tuple(estimate(name, {**floats, **others, "rewards": rewards}))[0]  # noqa: E731
    batch = torch.stack([floats["rewards"], 2 * floats["rewards"]])
    expected = torch.stack([function(rewards) for rewards in batch])
    torch.testing.assert_close(torch.func.vmap(function)(batch), expected)


@pytest.mark.parametrize("name", DIFFERENTIABLE + CONSTANT)
def test_only_the_kernels_of_the_device_compute(device, name, monkeypatch):
    def never(*_):
        raise AssertionError("computed on the CPU")

    for estimator in _estimator.ESTIMATORS:
        monkeypatch.setattr(estimator, "kernel", never)
    floats, others = arguments_of(device, name)
    estimate(name, {**floats, **others})


def test_nothing_is_read_back(device):
    read = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if "local_scalar" in str(function) or "nonzero" in str(function):
                read.append(str(function))
            return function(*arguments, **(keywords or {}))

    p = {key: value.to(device) for key, value in good_arguments().items()}
    gamma = torch.tensor(0.9, dtype=torch.float64, device=device)
    arguments = (*p.values(), torch.zeros_like(p["terminated"]), gamma, 0.9, torch.zeros_like(p["rewards"]), None, 0)
    groups = torch.zeros(7, dtype=torch.int64, device=device)
    with Watch():
        _cuda.call(_estimator.GAE, arguments)
        _cuda.call(_estimator.GROUP_ADVANTAGES, (p["rewards"][:, 0], groups, "rloo"))
    assert not read


def test_what_only_memory_tells_is_not_read_back_while_a_graph_is_recorded(device, monkeypatch):
    p = {key: value.to(device) for key, value in good_arguments().items()}
    asserted = []
    monkeypatch.setattr(_device, "is_capturing", lambda: True)
    monkeypatch.setattr(torch, "_assert_async", lambda condition, message: asserted.append(message))
    metafast.gae(**p, truncated=torch.ones_like(p["terminated"]))
    metafast.segment_returns(p["rewards"][:, 0], torch.tensor([3, 9], device=device), gamma=0.9)
    assert len(asserted) == 2


def test_same_input_gives_the_same_bits(device):
    problem = make_problem(300, (20,), dtype=np.float32)
    case = Case(ESTIMATORS["gae"], problem, with_row=True)
    arguments = tensors(device, case.arguments())
    first, second = on_host(case.estimator(**arguments)), on_host(case.estimator(**arguments))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_results_lie_in_memory_as_the_rewards_do(device):
    shape = (6, 4)
    rewards, flags = torch.rand(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device)
    for time_axis in (0, 1):
        assert metafast.discounted_returns(rewards, flags, time_axis=time_axis).stride() == (4, 1)
        assert metafast.discounted_returns(rewards.T, flags.T, time_axis=time_axis).stride() == (1, 4)


def needs_a_card(device):
    if device.type != "cuda":
        pytest.skip("only a card has graphs, streams and a CPU beside it")


@pytest.mark.parametrize("name", ["gae", "segment_returns", "group_advantages"])
def test_recorded_in_a_cuda_graph(device, name):
    needs_a_card(device)
    generator = torch.Generator(device).manual_seed(0)
    rewards = torch.rand(9000, device=device, generator=generator)
    never, ids = torch.zeros(9000, dtype=torch.bool, device=device), torch.arange(9000, device=device) // 7
    function = {
        "gae": lambda: metafast.gae(rewards, rewards, rewards[0], never, never)[0],
        "segment_returns": lambda: metafast.segment_returns(rewards, ids[-1:] * 0 + 9000, gamma=0.9),
        "group_advantages": lambda: metafast.group_advantages(rewards, ids),
    }[name]
    function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = function()
    rewards.copy_(torch.rand(9000, device=device, generator=generator))
    graph.replay()
    assert torch.equal(recorded, function())


def test_it_is_queued_on_the_current_stream(device):
    needs_a_card(device)
    rewards, never = torch.zeros(512, 64, device=device), torch.zeros(512, 64, dtype=torch.bool, device=device)
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):
        torch.cuda._sleep(100_000_000)
        rewards.fill_(1.0)
        returns = metafast.discounted_returns(rewards, never, gamma=0.0)
        assert torch.equal(returns, torch.ones_like(returns))
    torch.cuda.synchronize(device)


@pytest.mark.parametrize("moved", ["rewards", "values", "next_values", "terminated"])
def test_one_call_takes_one_device(device, moved):
    needs_a_card(device)
    p = {key: value if key == moved else value.to(device) for key, value in good_arguments().items()}
    with pytest.raises(TypeError, match=r"is on (cpu|cuda:0), but rewards is on (cpu|cuda:0)"):
        metafast.gae(**p)
