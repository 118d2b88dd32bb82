"""Looks through a user's functions: what they must not use, the helpers they call, and everything that they depend on.

Numba compiles the values of global and enclosing variables into the code, so they belong to the key under which
machine code is cached.
"""

import builtins
import contextlib
import dis
import enum
import inspect
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

__all__ = ["UserFunctions", "add_note", "check_signatures", "place"]

PARAMETERS = {"reset": ("state", "rng"), "step": ("state", "action", "rng"), "observe": ("state", "observation")}
# Never compiled.
OPTIONAL = {"render": ("state",)}

# Bytes of an array that is compiled in. Of a larger one Numba keeps the address, which is another process's.
LARGEST_CONSTANT = 1_000_000

_MISSING = object()
_DEBUG_ONLY = (print, input, open, breakpoint)
_LIBRARIES = ("numpy", "math", "cmath", "numba", "builtins", "operator")


def check_signatures(owner: type) -> dict[str, Callable[..., Any]]:
    """The functions of a class, by name; ``render`` only where there is one.

    Raises TypeError where one is missing or takes other arguments.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for name, parameters in (PARAMETERS | OPTIONAL).items():
        function = inspect.getattr_static(owner, name, None)
        if function is None and name in OPTIONAL:
            continue
        wanted = f"def {name}({', '.join(parameters)})"
        if isinstance(function, staticmethod):
            function = function.__func__
        if not isinstance(function, types.FunctionType):
            raise TypeError(f"{owner.__qualname__} must define the function `{wanted}`")
        found = inspect.signature(function).parameters
        plain = all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in found.values())
        if not plain or len(found) != len(parameters):
            raise TypeError(
                f"{place(function)}: {owner.__qualname__}.{name} must be `{wanted}`, not "
                f"`def {name}{inspect.signature(function)}`; its first argument is the state: there is no self"
            )
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"{place(function)}: {owner.__qualname__}.{name} must be a plain function")
        functions[name] = function
    return functions


def place(function: Callable[..., Any], line: int | None = None) -> str:
    """Where a function is, or one of its lines, as a traceback has it."""
    code = function.__code__
    return f'File "{code.co_filename}", line {line or code.co_firstlineno}, in {function.__qualname__}'


class UserFunctions:
    """The functions of a user's class, looked through.

    Attributes
    ----------
    helpers : list
        The plain Python functions that they call, directly or through one another.
    debug_only : list
        Messages about what runs as plain Python only.
    description : str
        Everything that their compiled form depends on.
    """

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.helpers: list[Callable[..., Any]] = []
        self.debug_only: list[str] = []
        self._seen: dict[int, str] = {}
        self._parts: list[str] = []
        for function in functions.values():
            self._parts.append(self._describe_function(function))
        self.description = "\n".join(self._parts)

    def _describe_function(self, function: Callable[..., Any]) -> str:
        if id(function) in self._seen:
            return self._seen[id(function)]
        name = f"function {len(self._seen)}"
        self._seen[id(function)] = name
        self.debug_only += [f"{message}: make_vec(..., debug=True)" for message in _debug_only_instructions(function)]
        defaults = [self._describe(function, "a default", value, None) for value in function.__defaults__ or ()]
        used = [
            f"{path} = {self._describe(function, path, value, line)}" for path, value, line in _used_values(function)
        ]
        self._parts.append("\n".join([name, _describe_code(function.__code__), *defaults, *used]))
        return name

    def _describe(self, function: Callable[..., Any], path: str, value: Any, line: int | None) -> str:
        where = place(function, line)
        _refuse_other_randomness(where, path, value)
        if any(value is function for function in _DEBUG_ONLY):
            self.debug_only.append(f"{where}: {path} works in debug mode only: make_vec(..., debug=True)")
            return path
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, np.dtype, enum.Enum)):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError(f"{where}: {path} is an array of objects, which does not compile")
            # Of others too it keeps the address.
            if not (value.flags.c_contiguous or value.flags.f_contiguous):
                raise TypeError(
                    f"{where}: {path} is a view of a part of another array, which cannot be compiled in as a constant; "
                    "use numpy.ascontiguousarray"
                )
            if value.nbytes > LARGEST_CONSTANT:
                raise TypeError(
                    f"{where}: {path} has {value.nbytes} bytes, and an array that is compiled in as a constant at most "
                    f"{LARGEST_CONSTANT}; keep what is larger in the state"
                )
            return f"array {value.dtype.descr} {value.shape} {value.strides} {value.tobytes().hex()}"
        if isinstance(value, tuple):
            parts = [self._describe(function, f"{path}[{k}]", part, line) for k, part in enumerate(value)]
            return f"{type(value).__name__} ({', '.join(parts)})"
        module = getattr(value, "__module__", None) or ""
        if isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)) and (
            isinstance(value, np.ufunc) or module.split(".")[0] in _LIBRARIES
        ):
            return f"{module}.{getattr(value, '__qualname__', value.__name__)}"
        if isinstance(value, type) and issubclass(value, BaseException):
            return f"exception {module}.{value.__qualname__}"
        if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            return f"named tuple {module}.{value.__qualname__} {value._fields}"
        if isinstance(value, types.FunctionType) and module.split(".")[0] in ("numpy", "numba"):
            return f"{module}.{value.__qualname__}"
        if type(value).__name__ == "_ArrayFunctionDispatcher":
            return f"numpy {value.__name__}"
        numba_function = getattr(value, "py_func", None)
        if isinstance(numba_function, types.FunctionType):
            options = getattr(value, "targetoptions", {})
            if not options.get("boundscheck") and _uses_indices(numba_function):
                raise TypeError(
                    f"{where}: numba compiled {path} without checks of its indices, so that a wrong one would write "
                    "into other memory; leave its decorator away, or give it boundscheck=True"
                )
            return f"{self._describe_function(numba_function)} {sorted(map(repr, options.items()))}"
        if isinstance(value, types.FunctionType):
            if module != "metafast.envs.math":
                if value not in self.helpers:
                    self.helpers.append(value)
            elif value.__name__ in ("_bits_of", "_number_of"):
                return f"{module}.{value.__name__}"
            return self._describe_function(value)
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        raise TypeError(
            f"{where}: {path} is {_a(value)}, which cannot be compiled in as a constant; use numbers, tuples, NumPy "
            "arrays and functions, and keep what changes in the state"
        )


def _a(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _refuse_other_randomness(where: str, path: str, value: Any) -> None:
    owner = getattr(value, "__self__", None)
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", "") or ""
    own = (random.Random, np.random.Generator, np.random.RandomState)
    if name.split(".")[0] in ("random", "secrets") or name.startswith("numpy.random") or isinstance(owner, own):
        refuse_randomness(where, path)
    if isinstance(value, own):
        refuse_randomness(where, path)


def refuse_randomness(where: str, path: str) -> NoReturn:
    """Raise the TypeError for any generator but `rng`."""
    raise TypeError(
        f"{where}: {path} is not reproducible in an environment; use the argument rng, which has uniform, normal, "
        "integers and random"
    )


def _uses_indices(function: Callable[..., Any]) -> bool:
    instructions = (each for code in _nested(function.__code__) for each in dis.get_instructions(code))
    return any("SUBSCR" in each.opname or "SLICE" in each.opname or each.argrepr == "[]" for each in instructions)


def _debug_only_instructions(function: Callable[..., Any]) -> Iterator[str]:
    """Messages about what Numba does not compile, or not safely."""
    for code in _nested(function.__code__):
        line = None
        for instruction in dis.get_instructions(code):
            if instruction.starts_line:
                line = _line(instruction, line)
            where = place(function, line)
            if instruction.opname == "IMPORT_NAME":
                name = str(instruction.argval)
                if name.split(".")[0] in ("random", "secrets") or name.startswith("numpy.random"):
                    refuse_randomness(where, name)
                yield f"{where}: import {name} inside of a function works in debug mode only"
            elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval == "flat":
                yield f"{where}: .flat has no checks of its indices (use .reshape(-1)) and works in debug mode only"


def _used_values(function: Callable[..., Any]) -> Iterator[tuple[str, Any, int | None]]:
    """Each global or enclosing variable that is read, followed through modules to what is used of them."""
    closure = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        # A variable that has no value yet is Numba's to refuse.
        with contextlib.suppress(ValueError):
            closure[name] = cell.cell_contents
    for code in _nested(function.__code__):
        path, value, line = "", _MISSING, None
        for instruction in dis.get_instructions(code):
            if instruction.starts_line:
                line = _line(instruction, line)
            follows = isinstance(value, types.ModuleType) and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
            if follows:
                path, value = f"{path}.{instruction.argval}", getattr(value, str(instruction.argval), _MISSING)
                if value is _MISSING:
                    raise TypeError(f"{place(function, line)}: there is no {path}")
                continue
            if value is not _MISSING:
                yield path, value, line
                value = _MISSING
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                path = str(instruction.argval)
                value = function.__globals__.get(path, getattr(builtins, path, _MISSING))
                if value is _MISSING:
                    raise TypeError(f"{place(function, line)}: the name {path!r} is not defined")
            elif instruction.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF") and instruction.argval in closure:
                path, value = str(instruction.argval), closure[instruction.argval]
            elif instruction.opname in ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL") and (
                instruction.opname != "STORE_DEREF" or instruction.argval in code.co_freevars
            ):
                raise TypeError(
                    f"{place(function, line)}: assigns to {instruction.argval!r}, which is shared by all environments; "
                    "keep it in the state"
                )


def _line(instruction: dis.Instruction, line: int | None) -> int | None:
    if sys.version_info >= (3, 13):
        return instruction.line_number
    return int(instruction.starts_line) if instruction.starts_line else line


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _describe_code(code: types.CodeType) -> str:
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(_describe_code(constant))
        else:
            # The order of a set is another in every process.
            value = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
            constants.append(f"{type(constant).__name__} {value}")
    return repr((code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))


def add_note(error: BaseException, note: str) -> None:
    """Add to what is told of an exception."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    else:
        # Python 3.10 does not print it.
        error.__notes__ = [*getattr(error, "__notes__", []), note]
