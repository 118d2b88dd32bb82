"""The estimators on JAX arrays: without copying, and under jit, vmap, scan and grad."""

import numpy as np
import pytest
import torch
from returns.estimator_calls import ALONG_TIME, CONSTANT, DIFFERENTIABLE, as_tuple, estimate, loop, problem

import metafast
from metafast.returns._estimator import LAMBDA_RETURNS

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

BESIDE = DIFFERENTIABLE + CONSTANT
WITH_TIME_AXIS = [(name, axis) for name in BESIDE for axis in (0, 1) if axis == 0 or name in ALONG_TIME]
DIFFERENTIABLE_WITH_TIME_AXIS = [case for case in WITH_TIME_AXIS if case[0] in DIFFERENTIABLE]


@pytest.fixture
def float64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def arrays(name, time_axis=0, dtype=np.float32, seed=0):
    """Split the arguments of an estimator into JAX's arrays of floats, its other arrays, and options."""
    floats, others, options = {}, {}, {}
    for key, value in problem(name, time_axis, seed=seed).items():
        if not isinstance(value, np.ndarray):
            options[key] = value
        elif value.dtype == np.float64:
            floats[key] = jnp.asarray(value, dtype)
        else:
            others[key] = jnp.asarray(value)
    if name in ALONG_TIME:
        options["time_axis"] = time_axis
    return floats, others, options


def assert_same(results, expected, rtol=1e-5, atol=1e-5):
    for result, wanted in zip(as_tuple(results), as_tuple(expected), strict=True):
        assert isinstance(result, jax.Array)
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(np.asarray(result, np.float64), np.asarray(wanted, np.float64), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_arrays_in_arrays_out(name, time_axis):
    floats, others, options = arrays(name, time_axis)
    results = estimate(name, {**floats, **others, **options})
    as_numpy = {key: np.asarray(value) for key, value in {**floats, **others}.items()}
    expected = as_tuple(estimate(name, {**as_numpy, **options}))
    assert_same(results, tuple(jnp.asarray(result) for result in expected), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5, 3), (64, 64), (1024, 300)])
def test_nothing_is_copied(shape, monkeypatch):
    """Neither eagerly nor in a compiled program: what the kernel reads and writes is JAX's own memory."""
    rewards, flags = jnp.ones(shape), jnp.zeros(shape, bool)
    seen = []
    kernel = LAMBDA_RETURNS.kernel

    def spy(*arguments):
        seen.append([array.ctypes.data for array in (arguments[0], arguments[-1])])
        return kernel(*arguments)

    monkeypatch.setattr(LAMBDA_RETURNS, "kernel", spy)
    function = lambda rewards: metafast.lambda_returns(rewards, rewards, flags, gamma=0.9, lam=0.9)  # noqa: E731
    for result in (function(rewards), jax.jit(function)(rewards)):
        addresses = [np.asarray(rewards).ctypes.data, np.asarray(result.block_until_ready()).ctypes.data]
        assert seen.pop(0) == addresses


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_jit_gives_the_same_bits(name, time_axis):
    floats, others, options = arrays(name, time_axis)
    compiled = jax.jit(lambda floats, others: estimate(name, {**floats, **others, **options}))
    assert_same(compiled(floats, others), estimate(name, {**floats, **others, **options}), rtol=0, atol=0)


def test_jit_of_gae_and_discounted_returns():
    floats, others, _ = arrays("upgo")
    mask = jnp.asarray(np.random.default_rng(0).random((7, 3)) < 0.7)
    function = lambda floats, others: metafast.gae(**floats, **others, lam=0.9, mask=mask)  # noqa: E731
    assert_same(jax.jit(function)(floats, others), function(floats, others), rtol=0, atol=0)
    floats = {key: floats[key] for key in ("rewards", "final_values", "gamma")}
    function = lambda floats, others: metafast.discounted_returns(**floats, **others)  # noqa: E731
    assert_same(jax.jit(function)(floats, others), function(floats, others), rtol=0, atol=0)


def test_numbers_as_coefficients_and_changing_ones():
    floats, others, options = arrays("lambda_returns")
    floats = {key: floats[key] for key in ("rewards", "next_values")}
    function = lambda gamma: metafast.lambda_returns(**floats, **others, **options, gamma=gamma, lam=0.5)  # noqa: E731
    compiled = jax.jit(function)
    for gamma in (0.5, 0.9, np.float32(0.25), jnp.float32(0.75)):
        assert_same(compiled(gamma), function(gamma), rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_float64(name, time_axis):
    floats, others, options = arrays(name, time_axis, np.float64)
    compiled = jax.jit(lambda floats, others: estimate(name, {**floats, **others, **options}))
    results = compiled(floats, others)
    assert as_tuple(results)[0].dtype == np.float64
    assert_same(results, estimate(name, {**floats, **others, **options}), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", BESIDE)
def test_half_precision_is_computed_in_float32(name, dtype):
    floats, others, options = arrays(name, dtype=jnp.dtype(dtype))
    compiled = jax.jit(lambda floats, others: estimate(name, {**floats, **others, **options}))
    results = compiled(floats, others)
    assert as_tuple(results)[0].dtype == dtype
    assert_same(results, estimate(name, {**floats, **others, **options}), rtol=0, atol=0)


@pytest.mark.parametrize("in_axes", [0, -1])
@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_vmap_over_everything(name, time_axis, in_axes):
    samples = [arrays(name, time_axis, seed=seed) for seed in range(3)]
    options = samples[0][2]
    batch = jax.tree.map(lambda *parts: jnp.stack(parts, in_axes), *({**f, **o} for f, o, _ in samples))
    function = lambda values: estimate(name, {**values, **options})  # noqa: E731
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *(function({**f, **o}) for f, o, _ in samples))
    assert_same(jax.jit(jax.vmap(function, in_axes=in_axes))(batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "time_axis"), WITH_TIME_AXIS)
def test_vmap_over_one_argument_twice(name, time_axis):
    floats, others, options = arrays(name, time_axis)
    key = "gamma" if "gamma" in floats else "rewards"
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.random((2, 4, *floats[key].shape)), jnp.float32)
    function = lambda value: estimate(name, {**floats, **others, **options, key: value})  # noqa: E731
    expected = [jax.tree.map(lambda *parts: jnp.stack(parts), *map(function, row)) for row in batch]
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *expected)
    assert_same(jax.jit(jax.vmap(jax.vmap(function)))(batch), expected)


@pytest.mark.parametrize("name", ["lambda_returns", "vtrace"])
@pytest.mark.parametrize("time_axis", [0, 1])
def test_vmap_with_coefficients_of_fewer_axes(name, time_axis):
    floats, others, options = arrays(name, time_axis)
    rewards = jnp.stack([floats["rewards"], -floats["rewards"]])
    width = rewards.shape[-1]
    for gamma in (jnp.float32(0.9), jnp.linspace(0.1, 0.9, width), jnp.linspace(0.1, 0.9, width)[None]):

        def function(rewards, gamma):
            return estimate(name, {**floats, **others, **options, "rewards": rewards, "gamma": gamma})

        expected = jax.tree.map(lambda *parts: jnp.stack(parts), *(function(sample, gamma) for sample in rewards))
        assert_same(jax.jit(jax.vmap(function, in_axes=(0, None)))(rewards, gamma), expected)
        gammas = jnp.stack([gamma, gamma / 2])
        expected = jax.tree.map(lambda *parts: jnp.stack(parts), *map(function, rewards, gammas))
        assert_same(jax.jit(jax.vmap(function))(rewards, gammas), expected)


@pytest.mark.parametrize("name", ["n_step_returns", "vtrace"])
def test_inside_a_scan(name):
    floats, others, options = arrays(name)

    def step(carry, rewards):
        result = as_tuple(estimate(name, {**floats, **others, **options, "rewards": rewards}))[0]
        return carry + result.sum(), result

    rewards = jnp.stack([floats["rewards"], 2 * floats["rewards"], -floats["rewards"]])
    total, results = jax.lax.scan(step, 0.0, rewards)
    expected = jnp.stack([step(0.0, sample)[1] for sample in rewards])
    assert_same(results, expected, rtol=0, atol=0)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("name", ["gae", *BESIDE])
def test_without_shared_memory(name, monkeypatch):
    """As on another device than the CPU, where the compiled program calls back through JAX."""
    from metafast.returns import _jax

    monkeypatch.setattr(_jax._host_calls, "shares_memory", False)
    floats, others, options = arrays("upgo" if name == "gae" else name)
    options |= {"lam": 0.9} if name == "gae" else {}
    floats["rewards"] = jnp.stack([floats["rewards"], -floats["rewards"]])
    function = lambda rewards: estimate(name, {**floats, **others, **options, "rewards": rewards})  # noqa: E731
    expected = jax.tree.map(lambda *parts: jnp.stack(parts), *map(function, floats["rewards"]))
    assert_same(jax.jit(jax.vmap(function))(floats["rewards"]), expected, rtol=0, atol=0)
    assert_same(jax.jit(function)(floats["rewards"][0]), function(floats["rewards"][0]), rtol=0, atol=0)


def test_compiled_programs_share_memory():
    from metafast.returns import _jax

    assert _jax._host_calls.shares_memory


def test_large_arrays_under_jit():
    rng = np.random.default_rng(0)
    rewards, values = (jnp.asarray(rng.standard_normal((512, 1024)), jnp.float32) for _ in range(2))
    terminated = jnp.asarray(rng.random((512, 1024)) < 0.01)
    function = lambda rewards: metafast.lambda_returns(rewards, values, terminated, gamma=0.9, lam=0.9)  # noqa: E731
    assert_same(jax.jit(function)(rewards), function(rewards), rtol=0, atol=0)


def gradients_of_a_loop(name, time_axis, floats, others, options, weights):
    """First and second order, by torch's autograd of the plain loop."""
    leaves = {key: torch.tensor(np.asarray(value), requires_grad=True) for key, value in floats.items()}
    rest = {key: torch.tensor(np.asarray(value)) for key, value in others.items()}
    rest |= {key: value for key, value in options.items() if key != "time_axis"}
    results = as_tuple(loop(name, {**leaves, **rest}, time_axis))
    loss = sum((torch.tensor(np.asarray(w)) * r.square()).sum() for w, r in zip(weights, results, strict=True))
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), list(leaves.values()))
    return [dict(zip(leaves, (g.detach().numpy() for g in order), strict=True)) for order in (first, second)]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "time_axis"), DIFFERENTIABLE_WITH_TIME_AXIS)
def test_gradients_are_those_of_a_loop(name, time_axis):
    floats, others, options = arrays(name, time_axis, np.float64)
    rng = np.random.default_rng(0)
    weights = [
        rng.standard_normal(result.shape) for result in as_tuple(estimate(name, {**floats, **others, **options}))
    ]

    def loss(floats):
        results = as_tuple(estimate(name, {**floats, **others, **options}))
        return sum((w * r**2).sum() for w, r in zip(weights, results, strict=True))

    first, second = gradients_of_a_loop(name, time_axis, floats, others, options, weights)
    for key, gradient in jax.jit(jax.grad(loss))(floats).items():
        np.testing.assert_allclose(gradient, first[key], rtol=1e-12, atol=1e-12)
    squares = lambda floats: sum((g**2).sum() for g in jax.grad(loss)(floats).values())  # noqa: E731
    for key, gradient in jax.jit(jax.grad(squares))(floats).items():
        np.testing.assert_allclose(gradient, second[key], rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("successors", ["row", "full"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_gae_are_torchs(successors, masked):
    rng = np.random.default_rng(0)
    floats = {key: rng.standard_normal((7, 3)) for key in ("rewards", "values", "final_values", "gamma", "lam")}
    floats["next_values"] = rng.standard_normal(3 if successors == "row" else (7, 3))
    flags = {key: rng.random((7, 3)) < 0.2 for key in ("terminated", "truncated")}
    if masked:
        flags["mask"] = rng.random((7, 3)) < 0.7
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in floats.items()}
    advantages, returns = metafast.gae(**leaves, **{key: torch.tensor(value) for key, value in flags.items()})
    loss = (advantages.square() + returns.sin()).sum()
    expected = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)

    def jax_loss(floats):
        advantages, returns = metafast.gae(**floats, **{key: jnp.asarray(value) for key, value in flags.items()})
        return (advantages**2 + jnp.sin(returns)).sum()

    gradients = jax.jit(jax.grad(jax_loss))({key: jnp.asarray(value) for key, value in floats.items()})
    for key, wanted in zip(leaves, expected, strict=True):
        wanted = np.zeros((7, 3)) if wanted is None else wanted.numpy()
        np.testing.assert_allclose(gradients[key], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_gradients_of_discounted_returns_are_torchs():
    rng = np.random.default_rng(0)
    floats = {key: rng.standard_normal((7, 3)) for key in ("rewards", "final_values", "gamma")}
    floats["bootstrap"] = rng.standard_normal(3)
    flags = {key: rng.random((7, 3)) < 0.2 for key in ("terminated", "truncated")}
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in floats.items()}
    returns = metafast.discounted_returns(**leaves, **{key: torch.tensor(value) for key, value in flags.items()})
    expected = torch.autograd.grad(returns.square().sum(), list(leaves.values()))

    def loss(floats):
        flags_of_jax = {key: jnp.asarray(value) for key, value in flags.items()}
        return (metafast.discounted_returns(**floats, **flags_of_jax) ** 2).sum()

    # Without jit, as the arrays with memory have it.
    gradients = jax.grad(loss)({key: jnp.asarray(value) for key, value in floats.items()})
    for key, wanted in zip(leaves, expected, strict=True):
        np.testing.assert_allclose(gradients[key], wanted.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_per_sample_gradients(name):
    floats, others, options = arrays(name)

    def loss(rewards):
        results = as_tuple(estimate(name, {**floats, **others, **options, "rewards": rewards}))
        return sum((result**2).sum() for result in results)

    batch = jnp.stack([floats["rewards"], 2 * floats["rewards"]])
    gradient = jax.jit(jax.grad(loss))
    expected = jnp.stack([gradient(sample) for sample in batch])
    assert_same(jax.jit(jax.vmap(jax.grad(loss)))(batch), expected)


def test_gradients_in_half_precision():
    floats, others, options = arrays("lambda_returns", dtype=jnp.bfloat16)
    loss = lambda floats: estimate("lambda_returns", {**floats, **others, **options}).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(floats)
    wide = {key: value.astype(jnp.float32) for key, value in floats.items()}
    for key, gradient in jax.jit(jax.grad(loss))(wide).items():
        assert gradients[key].dtype == jnp.bfloat16
        np.testing.assert_allclose(gradients[key].astype(jnp.float32), gradient, rtol=2e-2, atol=2e-2)


def test_forward_mode_is_refused():
    floats, others, options = arrays("lambda_returns")
    function = lambda rewards: estimate(  # noqa: E731
        "lambda_returns", {**floats, **others, **options, "rewards": rewards}
    )
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(function, (floats["rewards"],), (floats["rewards"],))


@pytest.mark.parametrize("name", CONSTANT)
def test_results_are_constants(name):
    floats, others, options = arrays(name)

    def loss(rewards):
        results = as_tuple(estimate(name, {**floats, **others, **options, "rewards": rewards}))
        return sum(result.sum() for result in results) + rewards.sum()

    rewards = floats["rewards"]
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(rewards), np.ones(rewards.shape))
    _, derivative = jax.jit(lambda rewards: jax.jvp(loss, (rewards,), (rewards * 0 + 1,)))(rewards)
    assert derivative == rewards.size


def test_an_error_in_the_data_reaches_the_caller_of_a_jitted_function():
    rewards, flags = jnp.ones((4, 2)), jnp.zeros((4, 2), bool)
    cut = flags.at[1].set(True)
    function = lambda rewards: metafast.gae(rewards, rewards, rewards[0], flags, cut)[0].sum()  # noqa: E731
    with pytest.raises(ValueError, match="final_values is missing"):
        metafast.gae(rewards, rewards, rewards[0], flags, cut)
    packed = lambda rewards: metafast.segment_returns(rewards, jnp.array([3, 2]), gamma=0.9).sum()  # noqa: E731
    for wrong, argument, match in ((function, rewards, "final_values"), (packed, jnp.ones(4), "lengths")):
        with pytest.raises(RuntimeError, match=match):
            jax.jit(wrong)(argument).block_until_ready()
        # A program that wants the gradient alone does not compute the result; it must not pass for that.
        with pytest.raises(RuntimeError, match=match):
            jax.jit(jax.grad(wrong))(argument).block_until_ready()


def error_cases():
    for name in BESIDE:
        floats, others, options = arrays(name)
        good = {**floats, **others, **options}
        for key in (key for key in floats if key not in ("rewards", "gamma", "lam")):
            yield name, key, TypeError, {**good, key: good[key].astype(jnp.float16)}
            yield name, key, ValueError, {**good, key: good[key][:-1]}
        if name in ALONG_TIME:
            yield name, "time_axis", ValueError, {**good, "time_axis": 2}
            yield name, "terminated", ValueError, {**good, "terminated": good["terminated"][0]}
            yield name, "terminated", TypeError, {**good, "terminated": None}
            yield name, "terminated is a numpy", TypeError, {**good, "terminated": np.asarray(good["terminated"])}
            yield name, "rewards", TypeError, {**good, **{key: good[key].astype(int) for key in floats}}
        if "gamma" in good:
            yield name, "gamma", TypeError, {**good, "gamma": True}
            yield name, "gamma", TypeError, {**good, "gamma": "0.99"}
            yield name, "gamma", ValueError, {**good, "gamma": jnp.ones(5)}
    good = {key: value for part in arrays("n_step_returns") for key, value in part.items()}
    for n, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        yield "n_step_returns", "n must", error, {**good, "n": n}
    good = {key: value for part in arrays("vtrace") for key, value in part.items()}
    for bound, error in ((0.0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        yield "vtrace", "clip_c", error, {**good, "clip_c": bound}
    good = {key: value for part in arrays("group_advantages") for key, value in part.items()}
    yield "group_advantages", "kind", ValueError, {**good, "kind": "ppo"}
    yield "group_advantages", "group_ids", TypeError, {**good, "group_ids": good["rewards"]}
    good = {key: value for part in arrays("segment_returns") for key, value in part.items()}
    yield "segment_returns", "lam", ValueError, {**good, "values": good["rewards"]}


@pytest.mark.parametrize(("name", "match", "error", "arguments"), list(error_cases()))
@pytest.mark.parametrize("traced", [False, True])
def test_bad_input(name, match, error, arguments, traced):
    function = lambda rewards: estimate(name, {**arguments, "rewards": rewards})  # noqa: E731
    with pytest.raises(error, match=match):
        (jax.jit(function) if traced else function)(arguments["rewards"])


def test_out_cannot_be_an_array_of_jax():
    floats, others, options = arrays("upgo")
    arguments = {**floats, **others, **options}
    out = jnp.zeros((7, 3))
    with pytest.raises(ValueError, match="out"):
        metafast.upgo(**arguments, out=out)
    with pytest.raises(ValueError, match="out cannot be given"):
        jax.jit(lambda rewards: metafast.upgo(**{**arguments, "rewards": rewards}, out=out))(arguments["rewards"])
