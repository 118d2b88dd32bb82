"""The CUDA kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

def devices() -> list[dict[str, Any]]: ...

class Envs:
    """The kernels of one batch of environments, at addresses of device memory; a stream is (device, cudaStream_t)."""

    def __init__(
        self,
        name: str,
        parameters: bytes,
        autoreset_mode: str,
        num_envs: int,
        max_episode_steps: int,
        state_bytes: int,
        num_actions: int,
        state: int,
        elapsed_steps: int,
        ended: int,
        seeds: int,
        episodes: int,
        faults: int,
    ) -> None: ...
    def step(
        self,
        stream: tuple[int, int],
        actions: int,
        action_bytes: int,
        observations: int,
        rewards: int,
        terminated: int,
        truncated: int,
        final_observations: int,
        /,
    ) -> None: ...
    def reset(self, stream: tuple[int, int], mask: int, /) -> None: ...
    def observe(self, stream: tuple[int, int], observations: int, /) -> None: ...

class PtxKernels:
    def __init__(self, ptx: str, names: list[str]) -> None: ...
    def load(self, stream: tuple[int, int]) -> dict[str, int]: ...
    def launch(self, stream: tuple[int, int], name: str, blocks: int, threads: int, arguments: list[int]) -> None: ...

def policy_noise(
    stream: tuple[int, int], key: int, num_steps: int, num_envs: int, size: int, normal: bool, noise: int
) -> None: ...

ADDITIVE_CONTEXT_COLUMNS: int

def additive_prepare(is_double: bool, problem: Any, pass_: int, stream: tuple[int, int]) -> None: ...
def additive_forward(
    is_double: bool, problem: Any, query: Any, query_rows: int, context: int, weights: int | None,
    stream: tuple[int, int],
) -> None: ...  # fmt: skip
def additive_backward(
    is_double: bool, problem: Any, query: Any, given: Any, scratch: Any, results: Any, stream: tuple[int, int]
) -> None: ...
def additive_double_backward(
    is_double: bool, problem: Any, query: Any, given: Any, cotangents: Any, scratch: Any, results: Any,
    stream: tuple[int, int],
) -> None: ...  # fmt: skip

# (address, outer stride, time stride, inner stride), the strides in elements.
_ReturnsArray = tuple[int, int, int, int]

# Where the arguments of a return estimator stand in the lists of `solve_returns`: by kind and name.
RETURNS_SLOTS: dict[str, dict[str, int]]

def solve_returns(
    kernel: str,
    floats: str,
    extents: tuple[int, int, int],
    inputs: list[_ReturnsArray | None],
    flags: list[_ReturnsArray | None],
    factors: list[_ReturnsArray | None],
    numbers: list[float],
    clips: list[float],
    bootstrapped: bool,
    results: list[_ReturnsArray | None],
    n: int,
    scratch: int,
    stream: tuple[int, int],
) -> int: ...
