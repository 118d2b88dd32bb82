"""The native CPU kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str

def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def isa() -> str: ...
def force_isa(isa: str) -> None: ...
def supported_isas() -> tuple[str, ...]: ...

class EnvBatch:
    def __init__(
        self,
        kernels: str,
        num_envs: int,
        parameters: list[float],
        num_actions: int,
        autoreset_mode: str,
        max_episode_steps: int,
        num_threads: int,
        copy: bool,
    ) -> None: ...
    def step(
        self, actions: object
    ) -> (
        tuple[
            npt.NDArray[np.float32],
            npt.NDArray[np.float32],
            npt.NDArray[np.bool_],
            npt.NDArray[np.bool_],
            dict[str, Any],
        ]
        | None
    ): ...
    def reset(
        self,
        mask: npt.NDArray[np.bool_] | None,
        seeds: npt.NDArray[np.uint64] | None,
        seeded: npt.NDArray[np.bool_] | None,
    ) -> npt.NDArray[np.float32]: ...
    def get_state(self) -> dict[str, npt.NDArray[Any]]: ...
    def set_state(
        self,
        state: npt.NDArray[np.generic],
        elapsed_steps: npt.NDArray[np.generic],
        ended: npt.NDArray[np.generic],
        seeds: npt.NDArray[np.generic],
        episodes: npt.NDArray[np.generic],
    ) -> None: ...
    @property
    def final_observations(self) -> npt.NDArray[np.float32]: ...
    @property
    def state_size(self) -> int: ...
    @property
    def was_reset(self) -> bool: ...
