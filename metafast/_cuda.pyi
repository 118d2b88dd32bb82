"""The CUDA kernels of metafast. Private: use the functions of the metafast package."""

from typing import Any

def devices() -> list[dict[str, Any]]: ...
