"""The memory of a batch of environments on a CUDA device, and what steps them there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from metafast.envs._environment import Environment

__all__ = ["FAULT_ACTION", "FAULT_ENDED", "FAULT_OWN", "TILE", "DeviceBatch", "DeviceKernels"]

TILE = 256  # environments whose state lies together, as on the CPU (csrc/envs/batch.hpp)

# What a kernel found wrong with an environment, which it then left unchanged: an action that is none, a step after the
# episode's end in disabled mode. From FAULT_OWN on, the kinds are the kernels' own.
FAULT_ACTION, FAULT_ENDED, FAULT_OWN = 1, 2, 3


@dataclass
class DeviceBatch:
    """The environments' memory, laid out as the CPU's (csrc/envs/batch.hpp), in tensors of one device.

    Attributes
    ----------
    num_envs : int
        N.
    autoreset_mode : str
        ``"next_step"``, ``"same_step"`` or ``"disabled"``.
    max_episode_steps : int
        The step at which an episode is truncated.
    parameters : bytes
        The kernels' own ``Parameters``.
    state_bytes : int
        Of one environment.
    device : torch.device
        Where the tensors are.
    state : torch.Tensor
        uint8 [tiles * 256 * state_bytes]; in a tile one array [256] for each field of the state.
    elapsed_steps : torch.Tensor
        int32 [N].
    ended : torch.Tensor
        uint8 [N]: 1 where the episode is over and the environment waits for its reset.
    seeds, episodes : torch.Tensor
        int64 [N], the bits of uint64: each environment's seed, and the number of the episode that comes next.
    faults : torch.Tensor
        int32 [4] in pinned host memory that kernels write to: kind, environment, what the kernels add, nothing. The
        first fault since they were last read stays (atomicCAS of the kind; the others are written after it).
    """

    num_envs: int
    autoreset_mode: str
    max_episode_steps: int
    parameters: bytes
    state_bytes: int
    device: Any
    state: Any
    elapsed_steps: Any
    ended: Any
    seeds: Any
    episodes: Any
    faults: Any

    @classmethod
    def empty(
        cls, environment: Environment, num_envs: int, autoreset_mode: str, max_episode_steps: int, device: Any
    ) -> DeviceBatch:
        """Allocate the memory of a batch whose environments are still to be reset."""
        import torch

        state_bytes = sum(environment.field_bytes)
        tiles = -(-num_envs // TILE)

        def zeros(name: str, size: int, dtype: torch.dtype) -> torch.Tensor:
            try:
                return torch.zeros(size, dtype=dtype, device=device)
            except torch.OutOfMemoryError as error:
                raise torch.OutOfMemoryError(
                    f"no memory on {device} for the {name} of {num_envs} environments: {error}"
                ) from None

        return cls(
            num_envs=num_envs,
            autoreset_mode=autoreset_mode,
            max_episode_steps=max_episode_steps,
            parameters=environment.parameters,
            state_bytes=state_bytes,
            device=device,
            state=zeros("state", tiles * TILE * state_bytes, torch.uint8),
            elapsed_steps=zeros("steps", num_envs, torch.int32),
            ended=zeros("flags", num_envs, torch.uint8),
            seeds=zeros("seeds", num_envs, torch.int64),
            episodes=zeros("episodes", num_envs, torch.int64),
            faults=torch.zeros(4, dtype=torch.int32, pin_memory=device.type == "cuda"),
        )

    def state_to_host(self, field_bytes: list[int]) -> npt.NDArray[np.uint8]:
        """Return the state as records, uint8 [N, state_bytes]: the fields of an environment side by side."""
        tiles = self.state.cpu().numpy().reshape(-1, TILE * self.state_bytes)
        records = np.empty((len(tiles), TILE, self.state_bytes), np.uint8)
        start = 0
        for size in field_bytes:
            field = tiles[:, TILE * start : TILE * (start + size)]
            records[:, :, start : start + size] = field.reshape(len(tiles), TILE, size)
            start += size
        return records.reshape(-1, self.state_bytes)[: self.num_envs]

    def state_from_host(self, records: npt.NDArray[np.uint8], field_bytes: list[int]) -> None:
        """Take the state from records as `state_to_host` returns them."""
        import torch

        padded = np.zeros((self.state.numel() // self.state_bytes, self.state_bytes), np.uint8)
        padded[: self.num_envs] = records
        padded = padded.reshape(-1, TILE, self.state_bytes)
        tiles = np.empty((len(padded), TILE * self.state_bytes), np.uint8)
        start = 0
        for size in field_bytes:
            tiles[:, TILE * start : TILE * (start + size)] = padded[:, :, start : start + size].reshape(len(padded), -1)
            start += size
        self.state.copy_(torch.from_numpy(tiles.reshape(-1)))


class DeviceKernels(Protocol):
    """Queues kernels on the current stream of the batch's device; nothing waits for the card.

    Tensors come checked, contiguous and of the batch's device.
    """

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
        """Step every environment by the rules of csrc/envs/driver.hpp.

        Integer actions are int64 or int32 [N, ...] whatever their values, floats come in the space's dtype;
        `final_observations` is None unless the mode is same_step, and is written where an episode ended. An environment
        with a fault keeps its state; its reward is 0, its flags are False, and it is observed as it was.
        """

    def reset(self, batch: DeviceBatch, mask: Any) -> None:
        """Begin the next episode where the bool tensor `mask` [N] is True, everywhere where it is None."""

    def observe(self, batch: DeviceBatch, observations: Any) -> None:
        """Write the observation of every environment."""

    def explain_fault(self, kind: int, environment: int, detail: int) -> BaseException:
        """Return what to raise for a fault of the kernels' own kinds."""
