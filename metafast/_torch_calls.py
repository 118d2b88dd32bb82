"""Which torch calls need a graph, and how those that need none reach a binding at little cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)


# Looked up once, because a small call is made of such look-ups.
_functorch_stack = torch._C._functorch.peek_interpreter_stack
_num_dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_forward_ad = torch.autograd.forward_ad
_Parameter = torch.nn.Parameter
_PLAIN_VALUES = (float, int, bool)


def quick(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Class decorator: torch asks for the signature of `forward` at every call, which takes 20 us to find out anew."""
    function.forward.__signature__ = inspect.signature(function.forward)  # type: ignore[attr-defined]
    return function


def needs_graph(*tensors: Any) -> bool:
    """Tell whether autograd, torch.compile, a tracer or a torch.func transform is looking at any of these tensors."""
    if torch.compiler.is_compiling():
        return True
    if (
        _functorch_stack() is not None
        or _num_dispatch_modes() > 0
        or _forward_ad._current_level >= 0
        or _tracing_state() is not None
    ):
        return True
    differentiates = torch.is_grad_enabled()
    for tensor in tensors:
        kind = type(tensor)
        if kind is Tensor or kind is _Parameter:
            if differentiates and tensor.requires_grad:
                return True
        elif isinstance(tensor, Tensor):
            return True
    return False


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
