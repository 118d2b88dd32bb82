"""rlax's face beyond its values: signatures, gradients, calls outside of jit, masks, errors, and NaN at an end."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compat import cases, peers

from metafast.compat import rlax
from metafast.compat.rlax import _recurrence

NAMES = [name for name in rlax.__all__ if name != "VTraceOutput"]
OFF_POLICY = "v_tm1", "v_t", "r_t", "discount_t", "rho_tm1"


def theirs(name):
    return getattr(peers.rlax if hasattr(peers.rlax, name) else peers.rlax._src.multistep, name)


def arguments_of(name, dtype="float32", num_steps=9, **replaced):
    """One unbatched set of arguments, by name."""
    arrays = {key: array[0] for key, array in cases.rlax_arguments(num_steps, 1, 0.25, dtype).items()}
    arrays["lambda_"] = arrays["lambda_t"] = jnp.asarray(cases.LAM, dtype)
    arrays["alpha_"] = arrays["alpha"] = jnp.asarray(0.75, dtype)
    arrays["n"] = 4
    del arrays["sample_mask"]
    if name == "retrace_continuous":
        arrays.update(q_tm1=arrays["q_taken"], q_t=arrays["inner_q"], log_rhos=arrays["inner_log_rhos"])
    if name == "general_off_policy_returns_from_q_and_v":
        arrays.update(q_t=arrays["inner_q"], c_t=arrays["inner_c_t"])
    parameters = inspect.signature(getattr(rlax, name)).parameters
    return {key: value for key, value in {**arrays, **replaced}.items() if key in parameters}


def leaves(result):
    return [np.asarray(array) for array in jax.tree.leaves(result)]


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    ours, other = (inspect.signature(function).parameters for function in (getattr(rlax, name), theirs(name)))
    assert list(ours) == list(other)
    assert [mine.default for mine in ours.values()] == [its.default for its in other.values()]


@pytest.mark.parametrize("name", NAMES)
def test_outside_of_jit(name):
    given = arguments_of(name)
    results = getattr(rlax, name)(**given), theirs(name)(**given)
    for mine, other in zip(*map(leaves, results), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["loop", "kernel"])
def in_jit(request, monkeypatch):
    """Both ways to compute the recurrence in a compiled program, whatever its size."""
    monkeypatch.setattr(_recurrence, "KERNEL_FROM", 0 if request.param == "kernel" else 2**60)


def test_batches_of_batches(in_jit):
    with jax.enable_x64(True):
        batches = [
            cases.rlax_arguments(9, 6, 0.25, "float64")[name].reshape(2, 3, 9) for name in ("r_t", "discount_t", "v_t")
        ]
        results = []
        for module in (rlax, peers.rlax):
            # One of the rewards for all of an inner batch.
            inner = jax.vmap(lambda r_t, *rest, module=module: module.lambda_returns(r_t, *rest, 0.75), (None, 0, 0))
            results.append(jax.jit(jax.vmap(inner))(batches[0][:, 0], *batches[1:]))
        np.testing.assert_allclose(*results, rtol=1e-12)


@pytest.mark.parametrize("name", ["lambda_returns", "truncated_generalized_advantage_estimation"])
def test_gradients_of_batches(name, in_jit):
    with jax.enable_x64(True):
        arrays = cases.rlax_arguments(9, 2, 0.25, "float64")
        arrays["lambda_"] = arrays["lambdas"]
        given = [arrays[key] for key in inspect.signature(getattr(rlax, name)).parameters if key in arrays]

        def gradients(function):
            def total(*values):
                return jnp.sin(function(*values)).sum()

            return jax.jit(jax.vmap(jax.grad(total, range(len(given)))))(*given)

        for mine, other in zip(gradients(getattr(rlax, name)), gradients(theirs(name)), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    """rlax's own, to every array of floats, discounts of 0 included, with targets stopped and not; in float64."""
    with jax.enable_x64(True):
        given = arguments_of(name, "float64")
        given = {key: jnp.asarray(value) for key, value in given.items() if key != "n"}
        floats = {key: value for key, value in given.items() if jnp.issubdtype(value.dtype, jnp.floating)}
        rest = {key: value for key, value in given.items() if key not in floats}
        if "n" in inspect.signature(getattr(rlax, name)).parameters:
            rest["n"] = 4

        def gradients(function):
            def total(floats, stop):
                results = jax.tree.leaves(function(**floats, **rest, stop_target_gradients=stop))
                return sum(jnp.sum(result * jnp.cos(jnp.arange(result.size))) for result in results), results

            differentiated = jax.jit(jax.grad(total, has_aux=True))
            return [differentiated(floats, stop) for stop in (False, True)]  # traced: it is compiled once

        ours, other = gradients(getattr(rlax, name)), gradients(theirs(name))
        for (mine, values), (its, their_values) in zip(ours, other, strict=True):
            for value, their_value in zip(values, their_values, strict=True):
                np.testing.assert_allclose(value, their_value, rtol=1e-12, atol=1e-12)
            for key in floats:
                np.testing.assert_allclose(mine[key], its[key], rtol=1e-9, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", ["td_lambda", "vtrace"])
def test_stopped_targets_that_are_known_when_tracing(name):
    given = arguments_of(name)

    def gradient(function, stop):
        return jax.grad(lambda v_t: function(**{**given, "v_t": v_t}, stop_target_gradients=stop).sum())(given["v_t"])

    for stop in (False, True):
        ours, other = (gradient(function, stop) for function in (getattr(rlax, name), theirs(name)))
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)
        assert stop == (abs(ours).max() == 0)


def test_gradients_of_gradients(in_jit):
    with jax.enable_x64(True):
        given = arguments_of("lambda_returns", "float64")

        def second(function):
            def total(values):
                return (function(**{**given, "v_t": values}) ** 3).sum()

            return jax.grad(lambda values: (jax.grad(total)(values) ** 2).sum())(given["v_t"])

        np.testing.assert_allclose(second(rlax.lambda_returns), second(peers.rlax.lambda_returns), rtol=1e-9)


@pytest.mark.parametrize("lambda_t", [1.0, 0.5])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 9, 12])
def test_numbers_of_steps(n, lambda_t):
    given = arguments_of("n_step_bootstrapped_returns", n=n, lambda_t=lambda_t)
    ours, other = (module.n_step_bootstrapped_returns(**given) for module in (rlax, peers.rlax))
    np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nan_behind_an_end_stays_there(name):
    """Rewards of the next episode are NaN; in rlax that gets into every step before."""
    ended = 4
    given = arguments_of(name)
    given["discount_t"] = given["discount_t"].at[ended].set(0)
    if name == "n_step_bootstrapped_returns":
        given["n"] = 9
    clean = getattr(rlax, name)(**given)
    given["r_t"] = given["r_t"].at[ended + 1 :].set(jnp.nan)
    for mine, before, other in zip(
        leaves(getattr(rlax, name)(**given)), leaves(clean), leaves(theirs(name)(**given)), strict=True
    ):
        np.testing.assert_array_equal(mine[: ended + 1], before[: ended + 1])
        assert np.isnan(mine[ended + 1 :]).all()
        assert np.isnan(other[: ended + 1]).any()


@pytest.mark.parametrize("name", [name for name in NAMES if "v_t" in inspect.signature(getattr(rlax, name)).parameters])
def test_the_value_of_a_terminal_state_may_be_nan(name):
    given = arguments_of(name)
    if given["v_t"].ndim == 0 or name == "discounted_returns":
        given["v_t"] = given["v_t"][-1]
        given["discount_t"] = given["discount_t"].at[-1].set(0)
    else:
        given["v_t"] = jnp.where(given["discount_t"] == 0, 1e9, given["v_t"])
    clean = getattr(rlax, name)(**given)
    terminal = given["discount_t"][-1] == 0 if given["v_t"].ndim == 0 else given["discount_t"] == 0
    assert terminal.any()
    given["v_t"] = jnp.where(terminal, jnp.nan, given["v_t"])
    for mine, before, other in zip(
        leaves(getattr(rlax, name)(**given)), leaves(clean), leaves(theirs(name)(**given)), strict=True
    ):
        np.testing.assert_allclose(mine, before, rtol=1e-6)
        assert np.isnan(other).any()


def test_nan_at_an_end_is_not_in_the_gradients(in_jit):
    given = arguments_of("lambda_returns")
    values = jnp.where(given["discount_t"] == 0, jnp.nan, given["v_t"])

    def total(values, lambda_):
        return rlax.lambda_returns(given["r_t"], given["discount_t"], values, lambda_).sum()

    for gradient in jax.grad(total, argnums=(0, 1))(values, given["lambda_"]):
        assert jnp.isfinite(gradient).all()


def test_half_precision():
    given = arguments_of("lambda_returns", "bfloat16")
    returns = rlax.lambda_returns(**given)
    assert returns.dtype == jnp.bfloat16
    expected = rlax.lambda_returns(**{key: value.astype(jnp.float32) for key, value in given.items()})
    np.testing.assert_allclose(returns.astype(jnp.float32), expected, rtol=0.03, atol=0.03)


def test_output_by_name():
    given = arguments_of("vtrace_td_error_and_advantage")
    ours, other = (module.vtrace_td_error_and_advantage(**given) for module in (rlax, peers.rlax))
    assert ours._fields == other._fields


@pytest.mark.parametrize(
    ("replaced", "error", "message"),
    [
        ({"r_t": jnp.ones((3, 3))}, ValueError, r"r_t has shape \(3, 3\)"),
        ({"r_t": jnp.ones(3)}, ValueError, "length"),
        ({"r_t": jnp.ones(9, int)}, TypeError, "r_t has dtype int"),
        ({"lambda_": jnp.ones(4)}, ValueError, "lambda_ has length 4"),
        ({"lambda_": jnp.ones((9, 1))}, ValueError, "lambda_ has shape"),
        ({"sample_mask": jnp.ones(9)}, TypeError, "sample_mask has dtype float32"),
        ({"sample_mask": jnp.ones(4, bool)}, ValueError, "sample_mask has shape"),
    ],
    ids=str,
)
def test_bad_input(replaced, error, message):
    with pytest.raises(error, match=message):
        rlax.vtrace_td_error_and_advantage(**arguments_of("vtrace_td_error_and_advantage", **replaced))


def test_bad_actions():
    given = arguments_of("q_lambda")
    with pytest.raises(TypeError, match="a_tm1 has dtype float32"):
        rlax.q_lambda(**{**given, "a_tm1": jnp.zeros(9)})
    with pytest.raises(ValueError, match="a_tm1 has shape"):
        rlax.q_lambda(**{**given, "a_tm1": jnp.zeros(4, int)})
    with pytest.raises(ValueError, match="n must be at least 1"):
        rlax.n_step_bootstrapped_returns(**arguments_of("n_step_bootstrapped_returns", n=0))
    given = arguments_of("general_off_policy_returns_from_action_values", pi_t=jnp.ones((9, 2)))
    with pytest.raises(ValueError, match="pi_t has shape"):
        rlax.general_off_policy_returns_from_action_values(**given)
