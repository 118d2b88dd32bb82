"""Which torch calls need a graph, and how those that need none reach a binding at little cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metafast import _arrays, _core

HALF_PRECISION = (torch.float16, torch.bfloat16)


# Looked up once, because a small call is made of such look-ups.
_functorch_stack = torch._C._functorch.peek_interpreter_stack
_num_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_forward_ad = torch.autograd.forward_ad
_Parameter = torch.nn.Parameter
# Torch 2.9 and later have a table of C functions through which the bindings of the estimators take tensors as they are.
_exchange_table = getattr(Tensor, "__dlpack_c_exchange_api__", None)
bindings_take_tensors: bool = _exchange_table is not None and _core.use_torch(Tensor, _Parameter, _exchange_table)
_PLAIN_VALUES = (float, int, bool, str)


def quick(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Class decorator: torch asks for the signature of `forward` at every call, which takes 20 us to find out anew."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


def is_watched() -> bool:
    """Tell whether torch.compile, a tracer, forward mode or a torch.func transform is looking at what is called now."""
    return (
        torch.compiler.is_compiling()
        or _functorch_stack() is not None
        or _num_dispatch_modes() > 0
        or _forward_ad._current_level >= 0
        or _tracing_state() is not None
    )


def needs_graph(*tensors: Any, gradients: bool = True) -> bool:
    """Tell whether autograd, torch.compile, a tracer or a torch.func transform is looking at any of these tensors.

    Without `gradients` it does not count that autograd is: for results that are constants.
    """
    if is_watched():
        return True
    differentiates = gradients and torch.is_grad_enabled()
    for tensor in tensors:
        kind = type(tensor)
        if kind is Tensor or kind is _Parameter:
            if differentiates and tensor.requires_grad:
                return True
        elif tensor is not None and kind not in _PLAIN_VALUES and isinstance(tensor, Tensor):
            return True
    return False


def call_directly(kernel: Callable[..., Any], arguments: tuple[Any, ...], out: Any = None) -> Any:
    """Call a binding that takes plain CPU tensors as they are; NotImplemented where there are others among them.

    `out` is a tensor, a pair of them, or None.
    """
    if out is None:
        results = kernel(*arguments) if bindings_take_tensors else NotImplemented
        if results is NotImplemented:  # it takes none that requires grad
            results = call_on_plain_tensors(kernel, *arguments)
        return NotImplemented if results is None else results
    if not bindings_take_tensors:
        return NotImplemented
    _arrays.check_can_be_written(out)
    results = kernel(*arguments, out)
    if results is not NotImplemented:
        torch.autograd.graph.increment_version(out)
    return results


def call_on_plain_tensors(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Call a binding, which checks the arrays itself, on plain CPU tensors; None where an argument is anything else.

    What :func:`metafast._arrays.call_on_host` does for every library costs ten times as much as a small call.
    """
    views: list[Any] = []
    for argument in arguments:
        kind = type(argument)
        if kind is Tensor or kind is _Parameter:
            if not argument.is_cpu or argument.dtype in HALF_PRECISION or argument.is_neg():
                return None
            views.append(argument.detach().numpy() if argument.requires_grad else argument.numpy())
        elif argument is None or kind in _PLAIN_VALUES:
            views.append(argument)
        else:
            return None
    results = kernel(*views)
    if not isinstance(results, tuple):
        return torch.from_numpy(results)
    return tuple(None if result is None else torch.from_numpy(result) for result in results)
