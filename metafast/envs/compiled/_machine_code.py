"""Compiles a user's functions, or finds their machine code in the cache, and loads it. A cached one needs no Numba."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from metafast import _core
from metafast.envs.compiled import _cache
from metafast.envs.compiled._fields import Layout
from metafast.envs.compiled._source import UserFunctions
from metafast.envs.compiled._spaces import Element

__all__ = ["MachineCode", "build", "key_of"]

# The version of what this package writes around the user's functions.
_FORMAT = 4


@dataclass(frozen=True)
class MachineCode:
    """Three functions in memory, which live as long as this object."""

    phases: tuple[int, int, int]
    can_raise: bool
    engine: Any
    cached: bool


def key_of(source: UserFunctions, layout: Layout, action: Element, observation: Element) -> str:
    """The hash of everything that machine code depends on."""
    parts = [
        str(_FORMAT),
        source.description,
        layout.describe(),
        action.describe(),
        observation.describe(),
        _core.__version__,
        platform.python_version(),
        platform.machine(),
        *(importlib.metadata.version(name) for name in ("numba", "llvmlite", "numpy")),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
    ]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def build(
    key: str,
    functions: dict[str, Callable[..., Any]],
    source: UserFunctions,
    layout: Layout,
    action: Element,
    observation: Element,
) -> MachineCode:
    """Load the machine code from the cache; where it is not there, compile and store it. Raises Numba's errors."""
    name = f"metafast_{key}"
    found = _cache.load(key)
    if found is None:
        from metafast.envs.compiled._compile import compile_functions

        compiled = compile_functions(name, functions, source.helpers, layout, action, observation)
        header = {"can_raise": compiled.can_raise, "externals": compiled.externals}
        _cache.store(key, header, compiled.machine_code)
        machine_code = compiled.machine_code
    else:
        header, machine_code = found
    engine = _engine(machine_code, header["externals"])
    advance, begin, observe = (engine.get_function_address(f"{name}_{phase}") for phase in _PHASES)
    return MachineCode((advance, begin, observe), bool(header["can_raise"]), engine, found is not None)


_PHASES = ("advance", "begin", "observe")


def _engine(machine_code: bytes, externals: Any) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # What the code calls may be a part of Numba's runtime, which Numba makes known to LLVM when it starts.
    if not all(map(llvm.address_of_symbol, externals)):
        from numba.core.registry import cpu_target

        cpu_target.target_context.refresh()
    # LLVM would end the process.
    missing = [name for name in externals if not llvm.address_of_symbol(name)]
    if missing:
        raise RuntimeError(f"the compiled code calls what cannot be found here: {', '.join(missing)}")
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    return engine
