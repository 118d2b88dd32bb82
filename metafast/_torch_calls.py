"""Which torch calls need a graph, and how those that need none reach a binding at little cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

HALF_PRECISION = (torch.float16, torch.bfloat16)


def needs_graph(*tensors: Any) -> bool:
    """Tell whether autograd, torch.compile, a tracer or a torch.func transform is looking at any of these tensors."""
    if torch.compiler.is_compiling():
        return True
    if (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    ):
        return True
    floats = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in floats):
        return True
    return any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in floats)


def call_on_plain_tensors(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Call a binding, which checks the arrays itself, on plain CPU tensors; None where an argument is anything else.

    What :func:`metafast._arrays.call_on_host` does for every library costs ten times as much as a small call.
    """
    views: list[Any] = []
    for argument in arguments:
        if type(argument) in (Tensor, torch.nn.Parameter):
            if not argument.is_cpu or argument.dtype in HALF_PRECISION:
                return None
            views.append(argument.detach().numpy() if argument.requires_grad else argument.numpy())
        elif argument is None or type(argument) in (float, int, bool):
            views.append(argument)
        else:
            return None
    results = kernel(*views)
    if not isinstance(results, tuple):
        return torch.from_numpy(results)
    return tuple(None if result is None else torch.from_numpy(result) for result in results)
