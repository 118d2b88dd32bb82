"""A torch module as the kernels see it: one vector of parameters, and where each layer's lie in it."""

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metafast import _core

__all__ = ["FlatParameters", "NativePolicy", "list_parts"]

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.SiLU: "silu"}
_MOST_LAYERS = 64  # csrc/nn/network.hpp
_SUPPORTED = "Linear, Tanh, ReLU, SiLU, Flatten and Identity, in Sequential"


def _layers(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested Sequentials in order, with their names."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(f"the native engine calls no hooks, but {name} has some")
    if type(module) is nn.Sequential:
        # Not named_children, which leaves out what comes a second time.
        for child_name, child in module._modules.items():
            assert child is not None
            yield from _layers(f"{name}.{child_name}", child)
    elif type(module) not in (nn.Identity, nn.Flatten):
        yield name, module


def list_parts(module: nn.Module, parts: list[Any]) -> None:
    """All modules and parameters within `module`, faster than torch lists them."""
    parts.extend(module._parameters.values())
    for child in module._modules.values():
        parts.append(child)
        if child is not None:
            list_parts(child, parts)


class FlatParameters:
    """An actor-critic's parameters as one vector that they are views of, on any device."""

    _who = "the updates"

    def __init__(self, policy: Any) -> None:
        self._check(policy)
        self.parameters: list[nn.Parameter] = list(policy.parameters())
        self._parts: list[Any] = []
        list_parts(policy, self._parts)
        self.flat = _joined(self.parameters)
        self._addresses = [parameter.data_ptr() for parameter in self.parameters]

    def is_current(self, policy: Any) -> bool:
        """Whether the layers are those, and every parameter is where it was (``.to()`` and ``.data = `` move them)."""
        parts: list[Any] = []
        list_parts(policy, parts)
        return len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts)) and (
            [parameter.data_ptr() for parameter in self.parameters] == self._addresses
            and all(parameter.requires_grad and parameter.is_contiguous() for parameter in self.parameters)
        )  # fmt: skip

    def _check(self, policy: nn.Module) -> None:
        dtypes = {parameter.dtype for parameter in policy.parameters()}
        if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
            found = ", ".join(sorted(map(str, dtypes)))
            raise TypeError(f"{self._who} take parameters all of float32 or all of float64, not {found}")
        first = next(policy.parameters()).device
        for name, parameter in policy.named_parameters():
            if parameter.device != first:
                raise TypeError(f"parameter {name} is on {parameter.device}, but the first is on {first}")
            if not parameter.requires_grad:
                raise TypeError(f"{self._who} change all parameters, but {name} has requires_grad=False")


class NativePolicy(FlatParameters):
    """The vector, and the network's description for the kernels.

    Raises TypeError, naming it, for what the kernels cannot express.
    """

    _who = "the native engine's kernels"

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self.array: np.ndarray = self.flat.numpy()
        self._offsets, offset = {}, 0
        for parameter in self.parameters:
            self._offsets[id(parameter)] = offset
            offset += parameter.numel()
        distribution = policy.distribution
        description = {
            "observation_size": policy.observation_size,
            "num_parameters": offset,
            "trunk": self._tower("trunk", policy.trunk),
            "gru": self._gru(policy.gru),
            "policy": self._tower("policy", policy.policy),
            "value": self._tower("value", policy.value),
            "head": distribution.native_head,
            "choices": list(distribution.choices),
            "action_size": int(np.prod(distribution.action_shape, dtype=np.int64)),
            "log_sigma": -1 if policy.log_sigma is None else self._offsets[id(policy.log_sigma)],
        }
        self.network = _core.PolicyNetwork(description)
        self.dtype = self.array.dtype
        self.num_parameters = offset
        self.distribution_size: int = self.network.distribution_size

    def _check(self, policy: nn.Module) -> None:
        for name, parameter in policy.named_parameters():
            if parameter.device.type != "cpu":
                raise TypeError(f"the native engine runs on the CPU, but parameter {name} is on {parameter.device}")
        super()._check(policy)

    def _tower(self, name: str, module: nn.Module) -> list[tuple[Any, ...]]:
        tower: list[tuple[Any, ...]] = []
        for layer_name, layer in _layers(name, module):
            if type(layer) is nn.Linear:
                if id(layer.weight) not in self._offsets:
                    raise TypeError(f"the native engine has no parametrised weights as in {layer_name}")
                bias = -1 if layer.bias is None else self._offsets[id(layer.bias)]
                weight = self._offsets[id(layer.weight)]
                tower.append((layer.in_features, layer.out_features, "identity", weight, bias))
                if len(tower) > _MOST_LAYERS:
                    raise TypeError(f"the native engine has at most {_MOST_LAYERS} layers in a row, {name} has more")
            elif type(layer) in _ACTIVATIONS and tower and tower[-1][2] == "identity":
                tower[-1] = (*tower[-1][:2], _ACTIVATIONS[type(layer)], *tower[-1][3:])
            else:
                raise TypeError(
                    f"the native engine has no {type(layer).__name__} as in {layer_name}: it takes {_SUPPORTED}, "
                    "each activation behind a Linear; use the torch engine for other modules"
                )
        return tower

    def _gru(self, gru: nn.GRU | None) -> tuple[int, ...] | None:
        if gru is None:
            return None
        if type(gru) is not nn.GRU or gru.num_layers != 1 or gru.bidirectional or not gru.bias or gru.batch_first:
            raise TypeError(
                f"the native engine has a GRU of one layer, in one direction, with biases, over [T, N, ...]; not {gru}"
            )
        names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
        return gru.hidden_size, *(self._offsets[id(getattr(gru, name))] for name in names)


def _joined(parameters: list[nn.Parameter]) -> Tensor:
    """The vector that all parameters lie in end to end; they are moved there where they do not."""
    first = parameters[0].detach()
    address, total = first.data_ptr(), 0
    together = True
    for parameter in parameters:
        together &= parameter.is_contiguous() and parameter.data_ptr() == address + total * first.element_size()
        total += parameter.numel()
    end = (first.storage_offset() + total) * first.element_size()
    if together and first.untyped_storage().nbytes() >= end:
        return first.as_strided((total,), (1,))
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    offset = 0
    for parameter in parameters:
        size = parameter.numel()
        parameter.data = flat[offset : offset + size].view_as(parameter)
        offset += size
    return flat
