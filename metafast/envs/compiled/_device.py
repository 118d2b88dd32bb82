"""Steps a user's environments on a CUDA device, with kernels made of its three functions."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import llvmlite
import numba

from metafast import _core, _device
from metafast.envs._device_batch import TILE, DeviceBatch
from metafast.envs._environment import ActionLayout
from metafast.envs.compiled import _cache
from metafast.envs.compiled._kernels import ARGUMENTS, MODES, emit_kernels
from metafast.envs.compiled._ptx import Ptx, compile_ptx, exception_of
from metafast.envs.compiled._source import add_note

if TYPE_CHECKING:
    from collections.abc import Callable

    from metafast.envs.compiled._fields import Layout
    from metafast.envs.compiled._source import UserFunctions
    from metafast.envs.compiled._spaces import Element

__all__ = ["LoadedKernels", "UserDeviceKernels", "build_kernels"]

# The version of what this package writes around the user's functions.
_FORMAT = 1


class LoadedKernels:
    """A user's kernels, for every batch of its environments in this process."""

    def __init__(self, name: str, ptx: Ptx) -> None:
        self.name, self.ptx = name, ptx
        self._lock = threading.Lock()
        self._loaded: Any = None

    def on(self, stream: tuple[int, int]) -> Any:
        """The kernels, translated for the device of a stream."""
        with self._lock:
            if self._loaded is None:
                names = [f"{self.name}_{kernel}" for kernel in ARGUMENTS]
                self._loaded = _device.kernels().PtxKernels(self.ptx.text, names)
        self._loaded.load(stream)
        return self._loaded


def build_kernels(
    functions: dict[str, Callable[..., Any]],
    source: UserFunctions,
    layout: Layout,
    action: Element,
    observation: Element,
    actions: ActionLayout,
) -> LoadedKernels:
    """Find the kernels in the cache; where they are not there, compile and store them.

    Raises Numba's errors, with the attribute `user_function`, and UnsupportedError.
    """
    bounds = None if actions.low is None or actions.high is None else (actions.low.tolist(), actions.high.tolist())
    parts = [
        f"ptx {_FORMAT}",
        source.description,
        layout.describe(),
        action.describe(),
        observation.describe(),
        repr(bounds),
        *(module.__version__ for module in (_core, numba, llvmlite)),
    ]
    key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]
    name = f"metafast_{key}"
    found = _cache.load(key)
    if found is not None:
        header, text = found
        return LoadedKernels(name, Ptx(text.decode(), header["can_raise"], list(map(bytes.fromhex, header["raised"]))))
    module = emit_kernels(name, functions, source.helpers, layout, action, observation, actions)
    ptx = compile_ptx(module, name, list(ARGUMENTS))
    header = {"can_raise": ptx.can_raise, "raised": [content.hex() for content in ptx.exceptions]}
    _cache.store(key, header, ptx.text.encode())
    return LoadedKernels(name, ptx)


class UserDeviceKernels:
    """`DeviceKernels` of one batch of a user's environments."""

    def __init__(self, kernels: LoadedKernels, batch: DeviceBatch, has_arrays: bool, env_id: str) -> None:
        self._kernels = kernels
        self._env_id = env_id
        self._anchor = batch.elapsed_steps
        with _device.current(self._anchor):
            self._loaded = kernels.on(_device.stream_of(self._anchor))
        self._saved = None
        if kernels.ptx.can_raise and has_arrays:
            self._saved = _device.empty("the state before a step", tuple(batch.state.shape), batch.state)
        self._blocks = -(-batch.num_envs // TILE)
        self._arguments: dict[str, int] = {
            "state": batch.state.data_ptr(),
            "saved": 0 if self._saved is None else self._saved.data_ptr(),
            "seeds": batch.seeds.data_ptr(),
            "episodes": batch.episodes.data_ptr(),
            "elapsed_steps": batch.elapsed_steps.data_ptr(),
            "ended": batch.ended.data_ptr(),
            "faults": batch.faults.data_ptr(),
            "num_envs": batch.num_envs,
            "mode": MODES[batch.autoreset_mode],
            "max_episode_steps": batch.max_episode_steps,
        }

    def _launch(self, kernel: str, **arguments: int) -> None:
        values = self._arguments | arguments
        with _device.current(self._anchor):
            self._loaded.launch(
                _device.stream_of(self._anchor),
                f"{self._kernels.name}_{kernel}",
                self._blocks,
                TILE,
                [values[name] for name in ARGUMENTS[kernel]],
            )

    def step(
        self,
        batch: DeviceBatch,
        actions: Any,
        observations: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        final_observations: Any,
    ) -> None:
        self._launch(
            "step",
            actions=actions.data_ptr(),
            action_bytes=actions.element_size(),
            rewards=rewards.data_ptr(),
            terminated=terminated.data_ptr(),
            truncated=truncated.data_ptr(),
            observations=observations.data_ptr(),
            final_observations=0 if final_observations is None else final_observations.data_ptr(),
        )

    def reset(self, batch: DeviceBatch, mask: Any) -> None:
        self._launch("reset", mask=0 if mask is None else mask.data_ptr())

    def observe(self, batch: DeviceBatch, observations: Any) -> None:
        self._launch("observe", observations=observations.data_ptr())

    def explain_fault(self, kind: int, environment: int, detail: int) -> BaseException:
        """What the user's code raised."""
        raised: BaseException = RuntimeError("the code raised an exception")
        place = None
        if detail > 0:
            raised, place = exception_of(self._kernels.ptx.exceptions[detail - 1])
        note = f"in environment {environment} of {self._env_id}, which stayed as it was; the others did not"
        add_note(raised, note if place is None else f"{place}\n{note}")
        return raised
