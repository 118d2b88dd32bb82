"""Registers the environments with gymnasium, in whichever order the two packages are imported.

Gymnasium 1.x reads no entry points, and importing it with metafast would make every ``import metafast`` wait for it.
So where gymnasium is not there yet, its import is followed by that of ``metafast.envs``, which registers them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_with_gymnasium"]


class _AfterGymnasium(importlib.abc.MetaPathFinder):
    """Stands first among the finders until gymnasium is sought, and never again."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("metafast.envs")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_gymnasium() -> None:
    """Register the environments now, or as soon as gymnasium is imported."""
    if "gymnasium" in sys.modules:
        importlib.import_module("metafast.envs")
    else:
        sys.meta_path.insert(0, _AfterGymnasium())
