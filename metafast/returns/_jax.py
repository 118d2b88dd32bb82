"""The return estimators where JAX traces: under jax.jit, jax.vmap, jax.lax.scan and jax.grad.

Arrays with memory do not come here: they share it with NumPy. What is traced has none until the compiled program runs,
which then calls the kernel (see :mod:`metafast._jax_calls`).

Gradients are those of the same operations that torch's graphs are made of, around a scan whose adjoint is itself run
the other way; they can be differentiated again. Forward mode (jax.jvp, jax.jacfwd, jax.hessian) is JAX's own TypeError.
What only the arrays' elements tell, such as a missing final value, is an error when the program runs.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metafast._jax_calls import HostCalls, HostFunction
from metafast.returns import _batching, _graphs
from metafast.returns._checks import check
from metafast.returns._estimator import ESTIMATORS, FLAGS, INTEGERS, OPTIONS, SEGMENT_RETURNS, Estimator


def call(estimator: Estimator, arguments: tuple[Any, ...]) -> Any:
    """Call an estimator from a traced function.

    Parameters
    ----------
    estimator
        Which one.
    arguments
        Those of its binding, in its order, without ``out``.
    """
    named = estimator.named(arguments)
    check(estimator, named, traced=True)
    dtype = named["rewards"].dtype
    options = tuple((name, _plain(value)) for name, value in named.items() if name in OPTIONS)
    others = {name: _prepared(name, value, dtype) for name, value in named.items() if name in FLAGS | INTEGERS}
    floats = {
        name: _prepared(name, value, dtype) for name, value in named.items() if name not in FLAGS | INTEGERS | OPTIONS
    }
    if estimator.constant:
        results = _on_host(estimator, options, {**jax.lax.stop_gradient(floats), **others})
    else:
        results = _differentiable(estimator, options)(floats, others)
    return jax.tree.map(lambda result: result.astype(dtype), results)


def _plain(option: Any) -> Any:
    """Give an option as a Python value, which text can describe."""
    return option.item() if isinstance(option, np.generic) else option


def _prepared(name: str, value: Any, dtype: Any) -> Any:
    if name in FLAGS:
        return value if value.dtype == bool else value != 0
    if name in INTEGERS:
        return value
    computed = jnp.float32 if dtype.itemsize == 2 else dtype
    return jnp.asarray(value, computed)


def _on_host(estimator: Estimator, options: tuple[tuple[str, Any], ...], arrays: dict[str, Any]) -> Any:
    """Call the binding when the compiled program runs."""
    leading = arrays[estimator.leading]
    result = jax.ShapeDtypeStruct(leading.shape, leading.dtype)  # type: ignore[no-untyped-call]
    pair = bool(estimator.results) or (estimator is SEGMENT_RETURNS and "values" in arrays)
    ndims = [(name, array.ndim) for name, array in arrays.items()]
    results = _host_calls(json.dumps([estimator.name, options, ndims]), [result] * (1 + pair), *arrays.values())
    return tuple(results) if pair else results[0]


@functools.lru_cache(maxsize=1024)
def _host_function(description: str) -> HostFunction:
    """Give the function that :func:`_on_host` describes: it takes arrays with any number of batch axes in front."""
    name, options, ndims = json.loads(description)
    estimator = next(estimator for estimator in (*ESTIMATORS, _AFFINE_SCAN) if estimator.name == name)
    chosen = dict(options)

    names, own_ndims = [name for name, _ in ndims], [ndim for _, ndim in ndims]

    def function(arrays: Sequence[np.ndarray], out: Sequence[np.ndarray]) -> None:
        if all(array.ndim == ndim for array, ndim in zip(arrays, own_ndims, strict=True)):
            _write(estimator, ordered(arrays), out)
            return
        leading = [array.shape[: array.ndim - ndim] for array, ndim in zip(arrays, own_ndims, strict=True)]
        batch = np.broadcast_shapes(*leading)
        size = math.prod(batch)
        arguments = ordered(
            [_with_one_batch_axis(array, batch, ndim) for array, ndim in zip(arrays, own_ndims, strict=True)]
        )
        out = [array.reshape((size, *array.shape[len(batch) :])) for array in out]
        if _batching.has_room_for_a_batch(estimator):
            folded = _batching.fold(np, estimator, arguments, size)
            shape = folded[estimator.arguments.index(estimator.leading)].shape
            _write(estimator, folded, [array.reshape(shape) for array in out])
            return
        for index, entry in enumerate(_batching.entries(arguments, size)):
            _write(estimator, entry, [array[index] for array in out])

    def ordered(arrays: Sequence[np.ndarray]) -> list[Any]:
        named = {**chosen, **dict(zip(names, arrays, strict=True))}
        return [named.get(name) for name in estimator.arguments]

    return function


def _write(estimator: Estimator, arguments: Sequence[Any], out: Sequence[np.ndarray]) -> None:
    if estimator.takes_out:
        estimator.kernel(*arguments, out[0] if len(out) == 1 else tuple(out))
        return
    results = estimator.kernel(*arguments)
    for target, result in zip(out, results if isinstance(results, tuple) else (results,), strict=True):
        target[...] = result


def _with_one_batch_axis(array: np.ndarray, batch: tuple[int, ...], own_ndim: int) -> np.ndarray:
    leading, own = array.shape[: array.ndim - own_ndim], array.shape[array.ndim - own_ndim :]
    if all(size == 1 for size in leading):
        return array.reshape((1, *own))
    return np.broadcast_to(array, batch + own).reshape((-1, *own))


_host_calls = HostCalls("metafast_returns", _host_function)


@functools.lru_cache(maxsize=256)
def _differentiable(estimator: Estimator, options: tuple[tuple[str, Any], ...]) -> Any:
    """An estimator with its gradients: the fused kernel where none are asked for."""

    @jax.custom_vjp
    def function(floats: dict[str, Any], others: dict[str, Any]) -> Any:
        return _on_host(estimator, options, {**floats, **others})

    def forward(floats: dict[str, Any], others: dict[str, Any]) -> Any:
        graph = getattr(_graphs, estimator.name)
        results, pull = jax.vjp(lambda floats: graph(jnp, _scan, **floats, **others, **dict(options)), floats)
        if not _only_the_kernel_can_check({**floats, **others}):
            return results, (pull, None)
        results = function(floats, others)
        return results, (pull, results)

    def backward(residuals: Any, cotangents: Any) -> Any:
        pull, checked = residuals
        if checked is not None:
            zero = _zero_behind(checked)
            cotangents = jax.tree.map(lambda cotangent: cotangent + zero, cotangents)
        return pull(cotangents)[0], None

    function.defvjp(forward, backward)
    return function


def _zero_behind(results: Any) -> Any:
    """Give a 0 that JAX must believe to depend on results: else it leaves them, and with them a check, out."""
    part = jax.lax.stop_gradient(jax.tree.leaves(results)[0].ravel()[:1])
    return (jnp.isnan(part).astype(part.dtype) * 0).sum()


def _only_the_kernel_can_check(arrays: dict[str, Any]) -> bool:
    """Tell whether an error may lie in what the arrays hold: lengths, or a truncation without its final value."""
    bootstrapped = "values" in arrays and arrays.get("next_values", arrays["values"]).ndim < arrays["values"].ndim
    return "lengths" in arrays or (bootstrapped and "truncated" in arrays and "final_values" not in arrays)


_AFFINE_SCAN = Estimator("affine_scan", "offsets decays time_axis forwards")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scan(offsets: Any, decays: Any, time_axis: int, forwards: bool = False) -> Any:
    options = (("time_axis", time_axis), ("forwards", forwards))
    return _on_host(_AFFINE_SCAN, options, {"offsets": offsets, "decays": decays})


def _scan_forward(offsets: Any, decays: Any, time_axis: int, forwards: bool) -> Any:
    result = _scan(offsets, decays, time_axis, forwards)
    return result, (decays, result)


def _scan_backward(time_axis: int, forwards: bool, residuals: Any, cotangent: Any) -> Any:
    decays, result = residuals
    step = 1 if forwards else -1
    # What a step passes on comes back to it: lambda_t = g_t + decay_{t-1} lambda_{t-1}.
    adjoint = _scan(cotangent, _graphs.earlier(jnp, decays, step, time_axis), time_axis, not forwards)
    return adjoint, adjoint * _graphs.earlier(jnp, result, -step, time_axis)


_scan.defvjp(_scan_forward, _scan_backward)
