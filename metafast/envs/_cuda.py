"""The native environments' CUDA kernels, as a `DeviceBatch` is stepped by."""

from __future__ import annotations

from typing import Any

from metafast import _device
from metafast.envs._device_batch import DeviceBatch
from metafast.envs._environment import Environment

__all__ = ["NativeDeviceKernels"]


class NativeDeviceKernels:
    """`DeviceKernels` of one batch of a built-in environment (csrc/envs/driver.cuh)."""

    def __init__(self, environment: Environment, batch: DeviceBatch) -> None:
        high = environment.actions.high
        self._anchor = batch.elapsed_steps
        self._bound = _device.kernels().Envs(
            environment.phases,
            batch.parameters,
            batch.autoreset_mode,
            batch.num_envs,
            batch.max_episode_steps,
            batch.state_bytes,
            0 if high is None else int(high[0]),
            batch.state.data_ptr(),
            batch.elapsed_steps.data_ptr(),
            batch.ended.data_ptr(),
            batch.seeds.data_ptr(),
            batch.episodes.data_ptr(),
            batch.faults.data_ptr(),
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
        with _device.current(self._anchor):
            self._bound.step(
                _device.stream_of(self._anchor),
                actions.data_ptr(),
                actions.element_size(),
                observations.data_ptr(),
                rewards.data_ptr(),
                terminated.data_ptr(),
                truncated.data_ptr(),
                0 if final_observations is None else final_observations.data_ptr(),
            )

    def reset(self, batch: DeviceBatch, mask: Any) -> None:
        with _device.current(self._anchor):
            self._bound.reset(_device.stream_of(self._anchor), 0 if mask is None else mask.data_ptr())

    def observe(self, batch: DeviceBatch, observations: Any) -> None:
        with _device.current(self._anchor):
            self._bound.observe(_device.stream_of(self._anchor), observations.data_ptr())

    def explain_fault(self, kind: int, environment: int, detail: int) -> Exception:
        raise AssertionError(f"the native kernels have no fault of kind {kind}")
