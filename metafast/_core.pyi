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

# The return estimators take and return NumPy arrays or plain torch tensors, once use_torch has been called; where a
# tensor must be converted first they answer NotImplemented.
def use_torch(tensor_type: type, parameter_type: type, exchange_table: Any) -> bool: ...
def gae(
    rewards: Any, values: Any, next_values: Any, terminated: Any, truncated: Any, gamma: Any, lam: Any,
    final_values: Any, mask: Any, time_axis: int, out: Any = None,
) -> Any: ...  # fmt: skip
def discounted_returns(
    rewards: Any, terminated: Any, truncated: Any, gamma: Any, bootstrap: Any, final_values: Any, time_axis: int,
    out: Any = None,
) -> Any: ...  # fmt: skip
def lambda_returns(
    rewards: Any, next_values: Any, terminated: Any, truncated: Any, gamma: Any, lam: Any, time_axis: int,
    out: Any = None,
) -> Any: ...  # fmt: skip
def n_step_returns(
    rewards: Any, next_values: Any, terminated: Any, truncated: Any, gamma: Any, n: int, time_axis: int,
    out: Any = None,
) -> Any: ...  # fmt: skip
def vtrace(
    log_rhos: Any, rewards: Any, values: Any, next_values: Any, terminated: Any, truncated: Any, gamma: Any, lam: Any,
    clip_rho: float, clip_c: float, clip_pg_rho: float, final_values: Any, time_axis: int, out: Any = None,
) -> Any: ...  # fmt: skip
def retrace(
    q: Any, next_q_expected: Any, next_q: Any, log_rhos: Any, rewards: Any, terminated: Any, truncated: Any,
    gamma: Any, lam: Any, time_axis: int, out: Any = None,
) -> Any: ...  # fmt: skip
def q_lambda(
    next_q_max: Any, rewards: Any, terminated: Any, truncated: Any, gamma: Any, lam: Any, time_axis: int,
    out: Any = None,
) -> Any: ...  # fmt: skip
def upgo(
    rewards: Any, values: Any, next_values: Any, terminated: Any, truncated: Any, gamma: Any, final_values: Any,
    time_axis: int, out: Any = None,
) -> Any: ...  # fmt: skip
def segment_returns(
    rewards: Any, lengths: Any, gamma: Any, values: Any, last_values: Any, lam: Any
) -> Any: ...  # fmt: skip
def group_advantages(rewards: Any, group_ids: Any, kind: str) -> Any: ...
def affine_scan(offsets: Any, decays: Any, time_axis: int, forwards: bool) -> Any: ...
def dot_product_attention(
    query: NDArray[np.floating[Any]],
    key: NDArray[np.floating[Any]],
    value: NDArray[np.floating[Any]],
    key_mask: NDArray[Any] | None,
    key_lengths: NDArray[np.integer[Any]] | None,
    causal: bool,
    scale: float,
    return_weights: bool,
    return_statistics: bool,
) -> Any: ...
def dot_product_attention_gradient(
    query: NDArray[np.floating[Any]],
    key: NDArray[np.floating[Any]],
    value: NDArray[np.floating[Any]],
    key_mask: NDArray[Any] | None,
    key_lengths: NDArray[np.integer[Any]] | None,
    causal: bool,
    scale: float,
    context: NDArray[np.floating[Any]],
    statistics: NDArray[np.floating[Any]],
    weights: NDArray[np.floating[Any]] | None,
    context_gradient: NDArray[np.floating[Any]],
    weights_gradient: NDArray[np.floating[Any]] | None,
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...
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

class PolicyNetwork:
    def __init__(self, description: dict[str, Any]) -> None: ...
    @property
    def distribution_size(self) -> int: ...
    # `hidden` is read and replaced.
    def answer(
        self, parameters: NDArray[Any], observations: NDArray[Any], count: int, statistics: Any,
        hidden: NDArray[Any] | None,
    ) -> tuple[NDArray[Any], NDArray[Any]]: ...  # fmt: skip

def policy_noise(key: int, num_steps: int, num_envs: int, size: int, normal: bool) -> NDArray[np.float32]: ...

# Returns the optimiser's steps so far, a row of sums for each step taken, and whether every gradient was finite.
def update_policy(
    network: PolicyNetwork, parameters: NDArray[Any], optimizer: dict[str, Any], experience: dict[str, Any],
    objective: dict[str, Any], settings: dict[str, Any],
) -> tuple[int, NDArray[np.float64], bool]: ...  # fmt: skip

# Returns the environment where the user's code raised and its step, then the one where the policy's outputs were no
# distribution and its step; -1 for none.
def rollout(
    batch: EnvBatch, network: PolicyNetwork, parameters: NDArray[Any], arrays: dict[str, Any], statistics: Any,
    translation: tuple[Any, ...], num_steps: int, key: int, deterministic: bool,
) -> tuple[int, int, int, int]: ...  # fmt: skip
def ufunc_loop(function: np.ufunc, dtype: np.dtype[Any]) -> tuple[int, int]: ...

class EnvBatch:
    def __init__(
        self,
        phases: str | tuple[int, int, int],
        num_envs: int,
        *,
        parameters: bytes,
        field_bytes: list[int],
        observation_dtype: np.dtype[Any],
        observation_shape: list[int],
        action_dtype: np.dtype[Any],
        action_shape: list[int],
        action_low: list[int],
        action_high: list[int],
        reward_dtype: np.dtype[Any],
        autoreset_mode: str,
        max_episode_steps: int,
        num_threads: int,
        copy: bool,
        undoable: bool,
        streams: bool,
    ) -> None: ...
    # An int is the number of an environment where the user's code raised.
    def step(
        self, actions: object
    ) -> (
        tuple[NDArray[Any], NDArray[np.floating[Any]], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
        | int
        | None
    ): ...
    def reset(
        self,
        mask: NDArray[np.bool_] | None,
        seeds: NDArray[np.uint64] | None,
        seeded: NDArray[np.bool_] | None,
        streams: NDArray[np.uint64] | None = None,
    ) -> NDArray[Any] | int: ...
    def get_state(self) -> dict[str, NDArray[Any]]: ...
    def set_state(
        self,
        state: NDArray[np.generic],
        elapsed_steps: NDArray[np.generic],
        ended: NDArray[np.generic],
        seeds: NDArray[np.generic],
        episodes: NDArray[np.generic],
        streams: NDArray[np.generic] | None = None,
    ) -> None: ...
    @property
    def final_observations(self) -> NDArray[Any] | int: ...
    @property
    def was_reset(self) -> bool: ...
