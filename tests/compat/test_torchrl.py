"""torchrl's face beyond its values: signatures, time anywhere, gradients, compilation, errors, and torchrl's own."""

import inspect
import math

import pytest
import torch
from compat import cases, peers

from metafast.compat import torchrl

NAMES = torchrl.__all__
LOOPS = [name for name in NAMES if not name.startswith("vec_") and name != "reward2go"]


def tensors(shape=(2, 6, 3), *, seed=0, rate=0.25):
    """Random float64 tensors [B, T, F] by torchrl's names of arguments."""
    generator = torch.Generator().manual_seed(seed)
    names = "state_value", "next_state_value", "reward", "log_pi", "log_mu"
    p = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name in names}
    p["done"] = torch.rand(shape, generator=generator) < rate
    p["terminated"] = p["done"] & (torch.rand(shape, generator=generator) < 0.5)
    p["gamma"] = torch.rand(shape, dtype=torch.float64, generator=generator) * 0.2 + 0.8
    p["lmbda"] = torch.rand(shape, dtype=torch.float64, generator=generator)
    return p


def arguments_of(name, p, **replaced):
    parameters = inspect.signature(getattr(torchrl, name)).parameters
    return {key: value for key, value in {**p, **replaced}.items() if key in parameters}


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (torchrl, peers.torchrl))
    assert list(ours) == list(theirs)
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        assert (mine.kind, mine.default) == (other.kind, other.default)


def test_nothing_is_missing():
    assert set(peers.torchrl.__all__) | {"reward2go"} == set(NAMES)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (2, 5, 1), (2, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if "td0" not in name])
def test_time_anywhere(name, shape):
    p = tensors(shape)
    for time_dim in range(-len(shape), len(shape)) if len(shape) > 1 else (-1,):
        given = arguments_of(name, p, gamma=cases.GAMMA, lmbda=cases.LAM, time_dim=time_dim)
        ours, theirs = (as_tuple(getattr(module, name)(**given)) for module in (torchrl, peers.torchrl))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_the_only_axis_counted_from_the_front():
    """Which torchrl's time_dim=0, unlike its -1, makes a column or a square of."""
    given = arguments_of("td_lambda_advantage_estimate", tensors((5,)), gamma=0.875, lmbda=0.75)
    front, back = (torchrl.td_lambda_advantage_estimate(**given, time_dim=time_dim) for time_dim in (0, -1))
    torch.testing.assert_close(front, back)
    assert peers.torchrl.td_lambda_advantage_estimate(**given, time_dim=0).shape == (5, 5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    """Those of torchrl's loops, also to gamma and lmbda; the vec_ versions are held to the loops too."""
    p = tensors()
    if "td0" in name or name == "reward2go":
        p["gamma"] = torch.tensor(0.875, dtype=torch.float64)
    loop = getattr(peers.torchrl, name.removeprefix("vec_"))
    gradients = []
    for function in (getattr(torchrl, name), loop):
        given = {
            key: value.clone().requires_grad_() if value.is_floating_point() else value
            for key, value in arguments_of(name, p).items()
        }
        if function is peers.torchrl.reward2go:
            given["gamma"] = 0.875  # theirs takes it out of the graph
        leaves = [value for value in given.values() if isinstance(value, torch.Tensor) and value.requires_grad]
        results = as_tuple(function(**given))
        weighted = sum((result * torch.arange(result.numel()).reshape(result.shape).cos()).sum() for result in results)
        gradients.append(torch.autograd.grad(weighted, leaves[:1] if name == "reward2go" else leaves))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_gradients_without_rolling_gamma():
    p = tensors()
    gradients = []
    for module in (torchrl, peers.torchrl):
        given = {
            key: value.clone().requires_grad_() if value.is_floating_point() else value
            for key, value in arguments_of("td_lambda_return_estimate", p).items()
        }
        result = module.td_lambda_return_estimate(**given, rolling_gamma=False)
        leaves = [value for value in given.values() if value.requires_grad]
        gradients.append(torch.autograd.grad(result.sin().sum(), leaves))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_gradient_that_torchrl_loses():
    p = tensors()
    of_lmbda = []
    for function in (torchrl.vec_generalized_advantage_estimate, peers.torchrl.vec_generalized_advantage_estimate):
        lmbda = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
        values = p["state_value"].clone().requires_grad_()
        given = arguments_of("generalized_advantage_estimate", p, gamma=0.875, lmbda=lmbda, state_value=values)
        (gradient,) = torch.autograd.grad(function(**given)[0].sum(), lmbda, allow_unused=True)
        of_lmbda.append(gradient)
    assert of_lmbda[1] is None
    assert abs(of_lmbda[0]) > 0.1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reward2go"])
def test_a_value_behind_a_terminal_step_may_be_nan(name):
    p = tensors()
    p["terminated"][0, 2] = p["done"][0, 2] = True
    given = arguments_of(name, p, gamma=cases.GAMMA, lmbda=cases.LAM)
    expected = as_tuple(getattr(torchrl, name)(**given))
    given["next_state_value"] = p["next_state_value"].masked_fill(p["terminated"], math.nan)
    ours, theirs = (as_tuple(getattr(module, name)(**given)) for module in (torchrl, peers.torchrl))
    for mine, other, clean in zip(ours, theirs, expected, strict=True):
        torch.testing.assert_close(mine, clean, rtol=0, atol=0)
        assert other.isnan().any()


@pytest.mark.parametrize("name", [name for name in LOOPS if "td0" not in name])
def test_nan_stays_behind_the_end_of_its_trajectory(name):
    p = tensors()
    p["done"][:, 3], p["terminated"][:, 3] = True, False
    p["reward"][:, 4:] = math.nan
    given = arguments_of(name, p, gamma=cases.GAMMA, lmbda=cases.LAM)
    ours, theirs = (as_tuple(getattr(module, name)(**given)) for module in (torchrl, peers.torchrl))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[:, :4].isfinite().all()
        assert other[:, :4].isnan().any()


@pytest.mark.parametrize("name", LOOPS)
def test_what_is_terminated_is_done(name):
    p = tensors()
    given = arguments_of(name, {**p, "done": p["done"] | p["terminated"]}, gamma=cases.GAMMA, lmbda=cases.LAM)
    careless = arguments_of(name, {**p, "done": p["done"] & ~p["terminated"]}, gamma=cases.GAMMA, lmbda=cases.LAM)
    for mine, other in zip(*(as_tuple(getattr(torchrl, name)(**each)) for each in (careless, given)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_gamma_is_not_rounded():
    p = tensors(rate=0.0)
    given = arguments_of("generalized_advantage_estimate", p, gamma=0.99, lmbda=1.0)
    ours, theirs = (module.generalized_advantage_estimate(**given)[0] for module in (torchrl, peers.torchrl))
    last = p["reward"][:, -1] + 0.99 * p["next_state_value"][:, -1] - p["state_value"][:, -1]
    assert (ours[:, -1] - last).abs().max() < 1e-15
    assert (theirs[:, -1] - last).abs().max() > 1e-9


@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "td_lambda_return_estimate"])
def test_coefficients_of_other_dtypes(name):
    p = tensors()
    for coefficient in (torch.tensor(1), torch.tensor([[0.5]]), p["gamma"].float(), p["gamma"][:1, :, :1]):
        given = arguments_of(name, p, gamma=coefficient, lmbda=coefficient)
        ours, theirs = (as_tuple(getattr(module, name)(**given)) for module in (torchrl, peers.torchrl))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "td_lambda_return_estimate"])
def test_vmap(name):
    p = tensors()
    given = arguments_of(name, p)
    function = getattr(torchrl, name)
    batched = torch.func.vmap(lambda values: function(**values))(given)
    for mine, other in zip(as_tuple(batched), as_tuple(function(**given)), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", ["generalized_advantage_estimate", "td_lambda_return_estimate"])
def test_mixed_dtypes(name):
    p = tensors()
    for floats in ({"reward": torch.float32}, {"next_state_value": torch.float32}, {"state_value": torch.float32}):
        converted = {key: value.to(floats[key]) if key in floats else value for key, value in p.items()}
        given = arguments_of(name, converted, gamma=cases.GAMMA, lmbda=cases.LAM)
        ours, theirs = (as_tuple(getattr(module, name)(**given)) for module in (torchrl, peers.torchrl))
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == other.dtype
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_integer_rewards():
    p = tensors()
    given = arguments_of("generalized_advantage_estimate", p, gamma=0.875, lmbda=0.75, reward=p["reward"].round().int())
    ours, theirs = (module.generalized_advantage_estimate(**given)[0] for module in (torchrl, peers.torchrl))
    torch.testing.assert_close(ours, theirs)


def test_thresholds_as_tensors():
    p = tensors()
    for threshold in (torch.tensor(0.5), torch.tensor([0.5, 0.75, 1.5], dtype=torch.float64)):
        given = arguments_of("vtrace_advantage_estimate", p, gamma=0.875, rho_thresh=threshold, c_thresh=threshold)
        ours, theirs = (module.vtrace_advantage_estimate(**given) for module in (torchrl, peers.torchrl))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    "name",
    ["generalized_advantage_estimate", "td1_return_estimate", "td_lambda_return_estimate", "vtrace_advantage_estimate"],
)
def test_torch_compile(name):
    p = tensors()
    given = arguments_of(name, p, gamma=cases.GAMMA, lmbda=cases.LAM)
    function = getattr(torchrl, name)
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    for mine, other in zip(as_tuple(compiled(**given)), as_tuple(function(**given)), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit(name):
    p = tensors()
    flags = "terminated" if name == "td0_return_estimate" else "done"
    given = arguments_of(name, {**p, flags: p[flags][:, 1:]}, gamma=0.875, lmbda=0.75)
    with pytest.raises((RuntimeError, ValueError), match=flags):
        getattr(torchrl, name)(**given)


def test_time_that_is_not_there():
    p = tensors((4,))
    given = arguments_of("generalized_advantage_estimate", p, gamma=0.875, lmbda=0.75)
    with pytest.raises(RuntimeError, match="time_dim is -2"):
        torchrl.generalized_advantage_estimate(**given)


@pytest.mark.parametrize("name", ["td1_return_estimate", "td_lambda_return_estimate"])
def test_rolling_gamma_needs_a_gamma_for_each_step(name):
    given = arguments_of(name, tensors(), gamma=0.875, lmbda=0.75, rolling_gamma=False)
    with pytest.raises(RuntimeError, match="rolling_gamma=False needs"):
        getattr(torchrl, name)(**given)


@pytest.mark.parametrize("name", ["td1_return_estimate", "td_lambda_return_estimate"])
def test_rolling_gamma_of_the_vectorised_versions(name):
    """torchrl's have none where gamma is a tensor, and do not look at it where it is a number."""
    p = tensors()
    given = arguments_of(name, p, rolling_gamma=False)
    vectorised = getattr(torchrl, f"vec_{name}")
    torch.testing.assert_close(
        vectorised(**given), torchrl.td_lambda_return_estimate(**{"lmbda": 1.0, **given}, time_dim=-2)
    )
    given = arguments_of(name, p, rolling_gamma=False, gamma=0.875, lmbda=0.75)
    torch.testing.assert_close(
        vectorised(**given), getattr(peers.torchrl, f"vec_{name}")(**given), rtol=1e-5, atol=1e-5
    )


def test_no_steps():
    p = tensors((2, 0, 3))
    for name in NAMES:
        for result in as_tuple(getattr(torchrl, name)(**arguments_of(name, p, gamma=0.875, lmbda=0.75))):
            assert result.shape == (2, 0, 3)
