"""The native CPU kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__version__: str

def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
def isa() -> str: ...
def force_isa(isa: str) -> None: ...
def supported_isas() -> tuple[str, ...]: ...
def gae(
    rewards: NDArray[np.floating[Any]],
    values: NDArray[np.floating[Any]],
    next_values: NDArray[np.floating[Any]],
    terminated: NDArray[Any],
    truncated: NDArray[Any] | None,
    gamma: float | NDArray[np.floating[Any]],
    lam: float | NDArray[np.floating[Any]],
    final_values: NDArray[np.floating[Any]] | None,
    mask: NDArray[Any] | None,
    time_axis: int,
    out: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None = None,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...
def discounted_returns(
    rewards: NDArray[np.floating[Any]],
    terminated: NDArray[Any],
    truncated: NDArray[Any] | None,
    gamma: float | NDArray[np.floating[Any]],
    bootstrap: NDArray[np.floating[Any]] | None,
    final_values: NDArray[np.floating[Any]] | None,
    time_axis: int,
) -> NDArray[np.floating[Any]]: ...
def affine_scan(
    offsets: NDArray[np.floating[Any]],
    decays: NDArray[np.floating[Any]],
    time_axis: int,
    forwards: bool,
) -> NDArray[np.floating[Any]]: ...
def vector_math(
    function: str, x: NDArray[np.float32] | NDArray[np.float64], out: NDArray[np.float32] | NDArray[np.float64]
) -> None: ...
def vector_sincos(
    x: NDArray[np.float32] | NDArray[np.float64],
    sine: NDArray[np.float32] | NDArray[np.float64],
    cosine: NDArray[np.float32] | NDArray[np.float64],
) -> None: ...
def philox(counters: NDArray[np.uint32], keys: NDArray[np.uint32]) -> NDArray[np.uint32]: ...
def uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]: ...
def run_busy_slices(
    num_slices: int, nanoseconds: int, num_inner: int = 1, max_threads: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.uint64]]: ...
def run_empty_slices(calls: int, num_slices: int) -> None: ...
def additive_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, score_weight: np.ndarray, key_mask: np.ndarray | None,
    key_lengths: np.ndarray | None, return_weights: bool,
) -> tuple[np.ndarray, np.ndarray | None]: ...  # fmt: skip
def additive_attention_backward(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, score_weight: np.ndarray, key_mask: np.ndarray | None,
    key_lengths: np.ndarray | None, weights: np.ndarray, context_gradient: np.ndarray,
    weights_gradient: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...  # fmt: skip
def additive_attention_double_backward(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, score_weight: np.ndarray, key_mask: np.ndarray | None,
    key_lengths: np.ndarray | None, weights: np.ndarray, context_gradient: np.ndarray,
    weights_gradient: np.ndarray | None, query_cotangent: np.ndarray | None, key_cotangent: np.ndarray | None,
    value_cotangent: np.ndarray | None, score_weight_cotangent: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]: ...  # fmt: skip

class PreparedAdditiveKeys:
    def __init__(
        self, key: np.ndarray, value: np.ndarray, score_weight: np.ndarray, key_mask: np.ndarray | None,
        key_lengths: np.ndarray | None,
    ) -> None: ...  # fmt: skip
    def attend(self, query: np.ndarray, return_weights: bool) -> tuple[np.ndarray, np.ndarray | None]: ...

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
            NDArray[np.float32],
            NDArray[np.float32],
            NDArray[np.bool_],
            NDArray[np.bool_],
            dict[str, Any],
        ]
        | None
    ): ...
    def reset(
        self,
        mask: NDArray[np.bool_] | None,
        seeds: NDArray[np.uint64] | None,
        seeded: NDArray[np.bool_] | None,
    ) -> NDArray[np.float32]: ...
    def get_state(self) -> dict[str, NDArray[Any]]: ...
    def set_state(
        self,
        state: NDArray[np.generic],
        elapsed_steps: NDArray[np.generic],
        ended: NDArray[np.generic],
        seeds: NDArray[np.generic],
        episodes: NDArray[np.generic],
    ) -> None: ...
    @property
    def final_observations(self) -> NDArray[np.float32]: ...
    @property
    def state_size(self) -> int: ...
    @property
    def was_reset(self) -> bool: ...
