"""What rlax's functions have in common: their checks, the recurrence, and products that a factor of 0 cuts."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from metafast import _arrays, _core
from metafast.returns import _graphs, _jax

__all__ = ["action_values", "check", "check_actions", "shielded", "stop", "stop_targets", "suffix_scan", "vector"]

# Steps in all from which a call back to the kernel, 50 us, costs less than the kernel saves over XLA's own loop.
KERNEL_FROM = 2**16


def check(ranks: dict[str, int], **arrays: Any) -> list[Any]:
    """Return the arguments as JAX arrays of floats, of the ranks given (1 where none is) and of one length.

    A scalar is taken for a rank of -1, and then passes as it is.
    """
    checked = []
    length = None
    for name, value in arrays.items():
        array = jnp.asarray(value)
        rank = ranks.get(name, 1)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} has dtype {array.dtype}; expected a float dtype")
        if array.ndim != abs(rank) and not (rank == -1 and array.ndim == 0):
            raise ValueError(
                f"{name} has shape {array.shape}; expected {'at most ' if rank < 0 else ''}{abs(rank)} axes"
            )
        if array.ndim:
            length = (name, len(array)) if length is None else length
            if len(array) != length[1]:
                raise ValueError(f"{name} has length {len(array)}, but {length[0]} has {length[1]}")
        checked.append(array)
    return checked


def check_actions(name: str, actions: Any, length: int) -> Any:
    """Return actions as a JAX array of `length` integers."""
    array = jnp.asarray(actions)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {array.dtype}; expected integers")
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}, expected {(length,)}")
    return array


def vector(value: Any, like: Any) -> Any:
    """Make a number, or a vector, a vector of the length and dtype of `like`."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def action_values(q: Any, actions: Any) -> Any:
    """The values of the actions taken, [T], from those of all, [T, A]."""
    return jnp.take_along_axis(q, actions[:, None], axis=-1)[:, 0]


def shielded(values: Any, *factors: Any) -> Any:
    """The values, but 0 where one is NaN or infinite and a factor that it is multiplied by is 0.

    The product is then 0 there, and no gradient is NaN. Where the value is finite nothing changes, so that the
    gradients, that of the factor at 0 included, are those of the product.
    """
    cut = factors[0] == 0
    for factor in factors[1:]:
        cut = cut | (factor == 0)
    return jnp.where(cut & ~jnp.isfinite(values), 0, values)


def suffix_scan(offsets: Any, decays: Any) -> Any:
    """``x[t] = offsets[t] + decays[t] * x[t + 1]``, in which a decay of 0 cuts and nothing follows the last step."""
    dtype = offsets.dtype
    if dtype.itemsize == 2:
        return suffix_scan(offsets.astype(jnp.float32), decays.astype(jnp.float32)).astype(dtype)
    decays = decays.astype(dtype)
    if _arrays.is_traced_by_jax((offsets, decays)) or _arrays.device_of(offsets) != "cpu":
        return _scan(offsets, decays, False)
    arrays = {"offsets": offsets, "decays": decays}
    return _arrays.call_on_host(_core.affine_scan, arrays, {}, time_axis=0, forwards=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _scan(offsets: Any, decays: Any, forwards: bool) -> Any:
    return _rows(forwards)(offsets[None], decays[None])[0]


def _scan_forward(offsets: Any, decays: Any, forwards: bool) -> Any:
    result = _scan(offsets, decays, forwards)
    return result, (decays, result)


def _scan_backward(forwards: bool, residuals: Any, cotangent: Any) -> Any:
    decays, result = residuals
    step = 1 if forwards else -1
    # What a step passes on comes back to it: adjoint_t = cotangent_t + decay_{t-1} adjoint_{t-1}.
    adjoint = _scan(cotangent, _graphs.earlier(jnp, decays, step, 0), not forwards)
    return adjoint, adjoint * _graphs.earlier(jnp, result, -step, 0)


_scan.defvjp(_scan_forward, _scan_backward)


@functools.cache
def _rows(forwards: bool) -> Any:
    """The recurrence over rows [N, T], which jax.vmap makes more of: only then is the size known."""

    @jax.custom_batching.custom_vmap
    def rows(offsets: Any, decays: Any) -> Any:
        loop = functools.partial(_loop, forwards=forwards)
        if offsets.size < KERNEL_FROM:
            return loop(offsets, decays)
        kernel = functools.partial(_jax._scan, time_axis=1, forwards=forwards)
        return jax.lax.platform_dependent(offsets, decays, cpu=kernel, default=loop)

    @rows.def_vmap
    def batched(size: int, is_batched: list[bool], *arrays: Any) -> tuple[Any, bool]:
        offsets, decays = (
            array if own else jnp.broadcast_to(array, (size, *array.shape))
            for array, own in zip(arrays, is_batched, strict=True)
        )
        flat = (-1, offsets.shape[-1])
        return rows(offsets.reshape(flat), decays.reshape(flat)).reshape(offsets.shape), True

    return rows


def _loop(offsets: Any, decays: Any, forwards: bool) -> Any:
    def step(following: Any, now: Any) -> tuple[Any, Any]:
        offset, decay = now
        result = offset + jnp.where(decay == 0, 0, decay * following)
        return result, result

    start = jnp.zeros_like(offsets[:, :1])[:, 0]
    _, results = jax.lax.scan(step, start, (offsets.T, decays.T), reverse=not forwards)
    return results.T


def stop(stopped: Any, array: Any) -> Any:
    """The array, behind a ``jax.lax.stop_gradient`` where `stopped`, which may be traced, says so."""
    return jax.lax.select(stopped, jax.lax.stop_gradient(array), array)


def stop_targets(stopped: Any, errors: Any, predictions: Any) -> Any:
    """Errors whose targets, the errors plus the predictions, are behind a ``stop_gradient`` where `stopped`."""
    return jax.lax.select(stopped, jax.lax.stop_gradient(errors + predictions) - predictions, errors)
