"""The CUDA kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

def devices() -> list[dict[str, Any]]: ...

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
