"""The return estimators on CUDA tensors: checks, allocates, queues the kernels.

Kernels take arrays as (address, outer, time and inner stride); whatever has such strides is taken as it lies.
Nothing waits for the card, except for errors that only memory tells, and not for those while a CUDA graph is recorded.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _device
from metafast.returns._cuda_checks import DTYPES, check_arguments, check_out
from metafast.returns._estimator import FLAGS, Estimator
from metafast.returns._layout import Layout, Steps

_BYTES = (torch.bool, torch.uint8, torch.int8)
_INPUTS = frozenset({"rewards", "values", "final_values", "log_rhos", "next_q_expected", "next_q"})
_CLIPS = ("clip_rho", "clip_c", "clip_pg_rho")


def call(estimator: Estimator, arguments: tuple[Any, ...], out: Any = None) -> Any:
    """Call an estimator on plain CUDA tensors.

    Parameters
    ----------
    estimator
        Which one.
    arguments
        Those of its binding, in its order, without ``out``.
    out
        The caller's own tensor for the result, or a pair of them, if any.
    """
    named = dict(zip(estimator.arguments, arguments, strict=True))
    check_arguments(estimator, named)
    if out is not None:
        check_out(estimator, named, out)
    rewards = named["rewards"]
    if rewards.dtype.itemsize == 2 and any(_is_wider(named.get(name), rewards) for name in _arrays.COEFFICIENTS):
        return _in_float32(estimator, named, out)
    if estimator.name == "group_advantages":
        return group_advantages(rewards, named["group_ids"], named["kind"])
    if estimator.name == "segment_returns":
        return _segment_returns(**named)
    return _solve(estimator, named, out)


def affine_scan(offsets: Tensor, decays: Tensor, time_axis: int, forwards: bool) -> Tensor:
    """Solve ``result_t = offsets_t + decays_t * result_{t+1}``, or ``result_{t-1}`` with `forwards`."""
    call = _Call("affine_scan", Layout(offsets, time_axis))
    result = _device.empty("the result of a scan", tuple(offsets.shape), offsets)
    call.input("offsets", offsets)
    call.input("decays", decays)
    call.result(0, result)
    if forwards:
        call.reverse_time()
    call.queue()
    return result  # type: ignore[no-any-return]


def group_advantages(rewards: Tensor, group_ids: Tensor, kind: str) -> Tensor:
    """Give the advantages of :func:`metafast.group_advantages`.

    Sorted by group, the sums over groups are returns without discount, whose episodes are the groups.
    """
    size = rewards.shape[0]
    result = _device.empty("advantages", (size,), rewards)
    if size == 0:
        return result  # type: ignore[no-any-return]
    ids, order = torch.sort(group_ids.long(), stable=True)
    differs = ids[1:] != ids[:-1]
    starts, ends = (torch.nn.functional.pad(differs, sides, value=True) for sides in ((1, 0), (0, 1)))
    places = torch.arange(size, device=rewards.device)
    first = torch.where(starts, places, 0).cummax(0).values
    in_order = rewards.detach()[order].double()
    in_order = in_order - in_order[first]

    def sums(terms: Tensor) -> Tensor:
        call = _Call("discounted_returns", Layout(terms, 0))
        returns = _device.empty("sums over groups", (size,), terms)
        call.input("rewards", terms)
        call.flag("terminated", ends)
        call.coefficient("gamma", 1.0)
        call.result(0, returns)
        call.queue()
        return returns[first]  # type: ignore[no-any-return]

    counts = sums(torch.ones_like(in_order))
    differences = in_order - sums(in_order) / counts
    others = counts - 1
    scales = counts / others if kind == "rloo" else 1 / ((sums(differences.square()) / others).sqrt() + 1e-6)
    result[order] = torch.where(others > 0, differences * scales, 0.0).to(rewards.dtype)
    return result  # type: ignore[no-any-return]


class _Call:
    """The arguments of one kernel, as its binding takes them."""

    def __init__(self, kernel: str, layout: Layout) -> None:
        self.kernel, self.layout = kernel, layout
        self.inputs: list[Any] = [None] * len(_slots("inputs"))
        self.flags: list[Any] = [None] * len(_slots("flags"))
        self.factors: list[Any] = [None] * len(_slots("factors"))
        self.numbers = [1.0] * len(self.factors)
        self.clips = [1.0] * len(_CLIPS)
        self.results: list[Any] = [None, None]
        self.bootstrapped = False
        self.n = 0
        self._keep: list[Tensor] = []  # until the kernels are queued; then the allocator knows in which order

    def input(self, name: str, tensor: Tensor) -> None:
        self.inputs[_slots("inputs")[name]] = self._place(*self.layout.view(_resolved(tensor)))

    def row(self, name: str, tensor: Tensor) -> None:
        self.inputs[_slots("inputs")[name]] = self._place(*self.layout.row(_resolved(tensor)))

    def flag(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype not in _BYTES:
            tensor = tensor != 0
        self.flags[_slots("flags")[name]] = self._place(*self.layout.view(tensor))

    def coefficient(self, name: str, value: Any) -> None:
        slot = _slots("factors")[name]
        if not _is_tensor_of_device(value):
            self.numbers[slot] = float(value)
            return
        tensor = _resolved(value.to(self.layout.leading.dtype)).expand(self.layout.shape)
        self.factors[slot] = self._place(*self.layout.view(tensor))

    def result(self, index: int, tensor: Tensor) -> None:
        self.results[index] = self._place(*self.layout.view(tensor))

    def reverse_time(self) -> None:
        last, size = self.layout.extents[1] - 1, self.layout.leading.element_size()
        for arrays in (self.inputs, self.results):
            for index, array in enumerate(arrays):
                if array is not None:
                    address, outer, time, inner = array
                    arrays[index] = (address + last * time * size, outer, -time, inner)

    def queue(self) -> None:
        leading = self.layout.leading
        if leading.numel() == 0:
            return
        solve = functools.partial(
            _device.kernels().solve_returns, self.kernel, DTYPES[leading.dtype], self.layout.extents, self.inputs,
            self.flags, self.factors, self.numbers, self.clips, self.bootstrapped, self.results, self.n,
            stream=_device.stream_of(leading),
        )  # fmt: skip
        with _device.current(leading):
            scratch_bytes = solve(scratch=0)
            if scratch_bytes > 0:
                scratch = _device.empty("maps of chunks of time", (scratch_bytes // 8,), leading, torch.float64)
                solve(scratch=scratch.data_ptr())

    def _place(self, tensor: Tensor, steps: Steps) -> tuple[int, int, int, int]:
        self._keep.append(tensor)
        return (tensor.data_ptr(), *steps)


def _solve(estimator: Estimator, named: dict[str, Any], out: Any) -> Any:
    rewards, time_axis = named["rewards"], named["time_axis"]
    layout = Layout(rewards, time_axis)
    call = _Call("lambda_returns" if estimator.name == "q_lambda" else estimator.name, layout)
    for name, value in named.items():
        if value is None:
            continue
        if name in _INPUTS:
            call.input(name, value)
        elif name in FLAGS:
            call.flag(name, value)
        elif name in _arrays.COEFFICIENTS:
            call.coefficient(name, value)
        elif name == "next_values" and value.ndim != rewards.ndim:
            call.bootstrapped = True
            call.row("next_values", value)
        elif name in ("next_values", "next_q_max"):
            call.input("next_values", value)
        elif name == "bootstrap":
            call.row("next_values", value)
        elif name in _CLIPS:
            call.clips[_CLIPS.index(name)] = float(value)
        elif name == "n":
            call.n = min(int(value), 1 << 62)
    if named.get("truncated") is None:
        call.inputs[_slots("inputs")["final_values"]] = None
    elif call.bootstrapped and named.get("final_values") is None:
        _require_final_values(named, time_axis)
    if call.kernel == "n_step_returns" and call.n >= layout.extents[1]:
        call.kernel = "lambda_returns"  # no window ends before its episode
        call.coefficient("lam", 1.0)
    names = estimator.results or (f"the result of {estimator.name}",)
    given = () if out is None else tuple(out) if estimator.results else (out,)
    made = tuple(result if layout.takes(result) else layout.empty("out") for result in given)
    results = made or tuple(layout.empty(name) for name in names)
    for index, result in enumerate(results):
        call.result(index, result)
    call.queue()
    for target, result in zip(given, made, strict=True):
        if target is not result:
            target.copy_(result)
    if out is not None:
        torch.autograd.graph.increment_version(given)
        return out
    return results if estimator.results else results[0]


def _segment_returns(
    rewards: Tensor, lengths: Tensor, gamma: Any, values: Tensor | None, last_values: Tensor | None, lam: Any
) -> Any:
    from metafast.returns._torch import require_lengths

    size, lengths = rewards.shape[0], lengths.long()
    require_lengths(lengths, size)
    # One element more, for segments without steps.
    last = torch.where(lengths > 0, lengths.cumsum(0) - 1, size).clamp_(0, size)
    ends = torch.zeros(size + 1, dtype=torch.bool, device=rewards.device).index_fill_(0, last, True)[:size]
    call = _Call("discounted_returns" if values is None else "gae", Layout(rewards, 0))
    call.input("rewards", rewards)
    call.coefficient("gamma", gamma)
    if last_values is None:
        call.flag("terminated", ends)
    else:
        final_values = rewards.new_zeros(size + 1).scatter_(0, last, last_values.detach())[:size]
        call.flag("truncated", ends)
        call.input("final_values", final_values)
    if values is not None:
        call.input("values", values)
        call.coefficient("lam", lam)
        call.bootstrapped = True
        call.row("next_values", rewards.new_zeros(()))
    results = tuple(call.layout.empty(name) for name in (("returns",) if values is None else ("advantages", "returns")))
    for index, result in enumerate(results):
        call.result(index, result)
    call.queue()
    return results[0] if values is None else results


def _require_final_values(named: dict[str, Any], time_axis: int) -> None:
    from metafast.returns._torch import require_final_values

    mask = named.get("mask")
    require_final_values(
        (named["truncated"] != 0) & (named["terminated"] == 0), None if mask is None else mask != 0, time_axis
    )


def _in_float32(estimator: Estimator, named: dict[str, Any], out: Any) -> Any:
    """Compute a call in half precision whose coefficients without axes are of more precision than its arrays."""
    dtype = named["rewards"].dtype
    wide = {
        name: value.float() if isinstance(value, Tensor) and value.is_floating_point() and name not in FLAGS else value
        for name, value in named.items()
    }
    results = call(estimator, tuple(wide.values()))
    if out is None:
        return tuple(result.to(dtype) for result in results) if estimator.results else results.to(dtype)
    targets, made = (out, results) if estimator.results else ((out,), (results,))
    for target, result in zip(targets, made, strict=True):
        target.copy_(result)
    return out


@functools.cache
def _slots(kind: str) -> dict[str, int]:
    slots: dict[str, int] = _device.kernels().RETURNS_SLOTS[kind]
    return slots


def _is_tensor_of_device(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.ndim > 0 or _device.is_on_device(value))


def _is_wider(value: Any, rewards: Tensor) -> bool:
    return _is_tensor_of_device(value) and value.dtype != rewards.dtype


def _resolved(tensor: Tensor) -> Tensor:
    return tensor.resolve_neg()
