"""The one place where CUDA tensors become addresses, and where the module of CUDA kernels is found.

A room's own ``_cuda.py`` checks and prepares what its kernels take, allocates results with torch, whose allocator knows
the streams, and queues the kernels on the current stream of the tensors' device: nothing waits for the card.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from typing import Any

from metafast import _arrays

_AS_IT_IS = contextlib.nullcontext()


@functools.cache
def kernels() -> Any:
    """Return the module of CUDA kernels; ImportError says how to build it where it is missing."""
    try:
        return importlib.import_module("metafast._cuda")
    except ImportError as error:
        raise ImportError(
            "the arrays are on a CUDA device, and metafast was built without its CUDA kernels; with nvcc found, or "
            "CUDACXX=/path/to/nvcc, METAFAST_CUDA=ON pip install --no-binary metafast --force-reinstall metafast"
        ) from error


def is_on_device(array: Any) -> bool:
    """Tell whether an array is a torch tensor of a CUDA device."""
    return _arrays.is_torch(array) and array.is_cuda


def device_of(name: Any) -> Any:
    """Return the CUDA device that ``"cuda"``, ``"cuda:1"`` or a torch.device names, or None for the CPU."""
    if name is None:
        return None
    kind, colon, index = str(name).partition(":")
    if kind == "cpu" and not colon:
        return None
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise ValueError(f"device must be 'cpu', 'cuda', 'cuda:<number>' or such a torch.device, not {name!r}")
    return cuda_device(int(index) if colon else None)


def cuda_device(index: int | None) -> Any:
    """Return torch's device of this number, or the current one where it is None; ValueError where there is none."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("device names a CUDA device, whose arrays are torch's, and torch is not installed") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ValueError("device names a CUDA device, but torch finds none (see torch.cuda.is_available())")
    if index is not None and index >= count:
        raise ValueError(f"device must be one of 'cuda:0' to 'cuda:{count - 1}', not 'cuda:{index}'")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)


def is_capturing() -> bool:
    """Tell whether the current stream records a CUDA graph, during which nothing can be read back."""
    torch = sys.modules["torch"]
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def stream_of(tensor: Any) -> tuple[int, int]:
    """Return a tensor's device and that device's current stream, as the bindings take them."""
    stream = sys.modules["torch"].cuda.current_stream(tensor.device)
    return tensor.device.index, stream.cuda_stream


def current(tensor: Any) -> contextlib.AbstractContextManager[None]:
    """Make a tensor's device the current one.

    The kernels' own launches would do so too, but by cudaSetDevice, which on the way back opens a context on a device
    that nobody may be using.
    """
    cuda = sys.modules["torch"].cuda
    if not tensor.is_cuda or tensor.device.index == cuda.current_device():
        return _AS_IT_IS
    selected: contextlib.AbstractContextManager[None] = cuda.device(tensor.device)
    return selected


def empty(name: str, shape: tuple[int, ...], like: Any, dtype: Any = None) -> Any:
    """Allocate a contiguous tensor on the device of `like`; running out of memory names what it was for."""
    torch = sys.modules["torch"]
    try:
        return torch.empty(shape, dtype=like.dtype if dtype is None else dtype, device=like.device)
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(f"no memory on {like.device} for {name}, shape {tuple(shape)}: {error}") from None
