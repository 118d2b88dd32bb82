"""CleanRL's face: in a script of its form, in every array library, and at its edges."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compat import cases, cleanrl_loop

from metafast.compat.cleanrl import compute_gae

SCRIPT = Path(__file__).with_name("cleanrl_ppo.py")


def test_a_script_with_one_changed_import():
    """The same losses and the same parameters after an iteration of PPO."""
    source = SCRIPT.read_text()
    changed = source.replace("from compat.cleanrl_loop import", "from metafast.compat.cleanrl import")
    assert len(set(source.splitlines()) ^ set(changed.splitlines())) == 2
    results = []
    for text in (source, changed):
        script = {"__name__": "script"}
        exec(compile(text, str(SCRIPT), "exec"), script)
        results.append(script["main"](script["Args"]()))
    (dones, losses, parameters), (other_dones, other_losses, other_parameters) = results
    assert dones.any()
    torch.testing.assert_close(dones, other_dones, rtol=0, atol=0)
    np.testing.assert_allclose(losses, other_losses, rtol=1e-4)
    for name, parameter in parameters.items():
        torch.testing.assert_close(other_parameters[name], parameter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
@pytest.mark.parametrize("rows", ["row", "matrix"])
def test_array_libraries(convert, rows):
    arguments = cases.cleanrl_arguments(13, 3, 0.2, "float32")
    expected = cleanrl_loop.compute_gae(*arguments)
    *arrays, gamma, gae_lambda = arguments
    arrays = [convert(array.numpy()) for array in arrays]
    if rows == "row":
        arrays[3] = arrays[3].reshape(-1)
    for result, reference in zip(compute_gae(*arrays, gamma, gae_lambda), expected, strict=True):
        assert type(result) is type(arrays[0])
        np.testing.assert_allclose(np.asarray(result), reference.numpy(), rtol=1e-5, atol=1e-5)


def test_under_jit():
    *arrays, gamma, gae_lambda = cases.cleanrl_arguments(13, 3, 0.2, "float32")
    arrays = [jnp.asarray(array.numpy()) for array in arrays]
    compiled = jax.jit(lambda *arrays: compute_gae(*arrays, gamma, gae_lambda))
    for mine, other in zip(compiled(*arrays), compute_gae(*arrays, gamma, gae_lambda), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_flags_of_several_dtypes():
    rewards, values, dones, next_value, next_done, gamma, gae_lambda = cases.cleanrl_arguments(13, 3, 0.2, "float32")
    expected = compute_gae(rewards, values, dones, next_value, next_done, gamma, gae_lambda)
    for dtype in (torch.bool, torch.int64):
        result = compute_gae(rewards, values, dones, next_value, next_done.to(dtype), gamma, gae_lambda)
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_the_defaults_are_cleanrls():
    *arrays, _, _ = cases.cleanrl_arguments(13, 3, 0.2, "float32")
    torch.testing.assert_close(compute_gae(*arrays), cleanrl_loop.compute_gae(*arrays, 0.99, 0.95))


def test_no_steps():
    *arrays, _, _ = cases.cleanrl_arguments(1, 3, 0.2, "float32")
    empty = [array[:0] for array in arrays[:3]]
    assert [tuple(result.shape) for result in compute_gae(*empty, *arrays[3:])] == [(0, 3), (0, 3)]


def test_nan_stays_behind_the_end_of_its_episode():
    rewards, values, dones, next_value, next_done, gamma, gae_lambda = cases.cleanrl_arguments(13, 3, 0, "float32")
    dones[5], next_done[:] = 1, 0
    next_value[:] = np.nan
    for result in compute_gae(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
        assert result[:5].isfinite().all()
        assert result[5:].isnan().all()


@pytest.mark.parametrize("position", [2, 3, 4], ids=["dones", "next_value", "next_done"])
def test_bad_shapes(position):
    arguments = list(cases.cleanrl_arguments(13, 3, 0.2, "float32"))
    name = ("dones", "next_value", "next_done")[position - 2]
    arguments[position] = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=f"{name} has shape"):
        compute_gae(*arguments)
