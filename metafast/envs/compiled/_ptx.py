"""From Numba's LLVM instructions to PTX, the assembly language that every CUDA driver translates for its card.

LLVM's backend for PTX is a part of llvmlite. Products and sums are not fused, so that a kernel's numbers are the CPU's.
What is no single instruction (``math.sin``, ``math.pow``) comes from libdevice, NVIDIA's library of such functions.
"""

import functools
import importlib.util
import itertools
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["RAISED", "Ptx", "UnsupportedError", "compile_ptx", "exception_of", "optimised", "target_machine"]

# An instruction that compiles to nothing: it is left where a user's function can raise.
RAISED = "// raised"
# The oldest cards that metafast supports; the driver compiles for its own.
_PROCESSOR = "sm_75"

# What the backend has instructions for, or takes apart itself. At any other it would end the process.
_INTRINSICS = re.compile(
    r"llvm\.(abs|assume|bitreverse|bswap|ceil|copysign|ctlz|ctpop|cttz|expect|experimental\.noalias\.scope\.decl|fabs|"
    r"floor|fma|fmuladd|fshl|fshr|is\.fpclass|lifetime\.(start|end)|masked|maximum|maxnum|memcpy|memmove|memset|minimum|"
    r"minnum|nearbyint|nvvm|rint|round|roundeven|[su](add|sub|mul)|[su](min|max)|sqrt|trunc|vector\.reduce)\."
)
# C's names of functions that are instructions, with the same result.
_EXACT = "ceil|copysign|fabs|floor|fma|nearbyint|rint|round|sqrt|trunc"
# Numba's own functions that C has too.
_OWN = {"gamma": "tgamma", "ldexp": "ldexp"}
_LIBDEVICE = (
    "acos|acosh|asin|asinh|atan|atan2|atanh|cbrt|cos|cosh|erf|erfc|exp|exp10|exp2|expm1|fmod|hypot|ldexp|lgamma|log|log10|"
    "log1p|log2|nextafter|pow|powi|sin|sinh|tan|tanh|tgamma"
)


class UnsupportedError(Exception):
    """What a user's function calls that there is not on a GPU.

    Attributes
    ----------
    missing : set of str
        The functions that it calls.
    user_function : str
        Which one it is: "step", "reset" or "observe".
    """

    user_function = "step"

    def __init__(self, message: str, missing: set[str]) -> None:
        super().__init__(message)
        self.missing = missing


class Ptx(NamedTuple):
    """Kernels as text, and what their user must know."""

    text: str
    can_raise: bool
    exceptions: list[bytes]  # pickled: class, arguments, place; a kernel reports the number, from 1 on


@functools.cache
def target_machine() -> Any:
    """LLVM's for PTX."""
    # Since then LLVM's pointers have no types, which the expressions below rely on.
    if llvm.llvm_version_info < (20,):
        raise ImportError("environments of compile_env on a CUDA device need numba 0.62 or later: pip install -U numba")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        return llvm.Target.from_triple("nvptx64-nvidia-cuda").create_target_machine(cpu=_PROCESSOR, opt=3)
    except RuntimeError as error:
        raise ImportError(f"this llvmlite was built without LLVM's backend for CUDA: {error}") from error


@global_compiler_lock
def compile_ptx(module: Any, name: str, kernels: Sequence[str]) -> Ptx:
    """Compile a module's kernels, the functions `name`_<kernel>.

    `module` is what `metafast.envs.compiled._kernels.emit_kernels` returns. Raises UnsupportedError.
    """
    machine = target_machine()
    # The values in an exception stay on the card, so what makes Python's of them is not needed.
    text = re.sub(r"ptr @__excinfo_unwrap_args[0-9a-f]+(?![0-9a-f(])", "ptr null", str(module))
    text, exceptions = _numbered_exceptions(text)
    layout = f'target datalayout = "{machine.target_data}"\ntarget triple = "{machine.triple}"'
    text = re.sub(r'target datalayout = ".*"\ntarget triple = ".*"', layout, text)
    roots = [f"{name}_{kernel}" for kernel in kernels]
    unlinked = _on_device(str(optimised(text, machine, roots)))
    try:
        linked = _with_libdevice(unlinked, machine, roots)
    except UnsupportedError as error:
        error.user_function = _culprit(text, machine, name, error.missing)
        raise
    return Ptx(_assembly(linked, machine), RAISED in str(linked), exceptions)


def _assembly(module: Any, machine: Any) -> str:
    return str(machine.emit_assembly(module))


def optimised(text: str, machine: Any, roots: Sequence[str]) -> Any:
    """Parse LLVM instructions and optimise them; of other functions than `roots`, what is not called is dropped."""
    module = llvm.parse_assembly(text)
    module.verify()
    _keep(module, roots)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    passes = builder.getModulePassManager()
    passes.run(module, builder)
    return module


def _keep(module: Any, roots: Sequence[str]) -> None:
    for function in module.functions:
        if not function.is_declaration and function.name not in roots:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = "internal"


def _numbered_exceptions(text: str) -> tuple[str, list[bytes]]:
    """Put the exceptions' numbers into the first bytes of their descriptions, which kernels do not need."""
    exceptions: list[bytes] = []

    def numbered(found: re.Match[str]) -> str:
        content = re.sub(r"\\([0-9A-F]{2})", lambda code: chr(int(code[1], 16)), found[2])
        exceptions.append(content.encode("latin-1"))
        described = len(exceptions).to_bytes(4, "little") + exceptions[-1][4:]
        return found[1] + "".join(f"\\{byte:02X}" for byte in described) + '"'

    pattern = r"(^@\.const\.pickledata\.\w+ = .* constant \[\d+ x i8\] c\")([^\"]*)\""
    return re.sub(pattern, numbered, text, flags=re.MULTILINE), exceptions


def _on_device(text: str) -> str:
    """What is called otherwise on a device."""
    # The first fault of a card is wanted, not of the machine.
    text = re.sub(r"(cmpxchg ptr .*) monotonic monotonic", r'\1 syncscope("device") monotonic monotonic', text)
    text = _scratch_on_stack(text)
    # Counts of references to arrays that nothing has allocated.
    text = re.sub(r"(?m)^ +(?:tail )?call .*void @NRT_(?:inc|dec)ref\(ptr null\).*\n", "", text)
    text = _integers_of_floats(text)
    text = re.sub(r"@numba_(gamma|ldexp)(f?)\(", lambda own: f"@{_OWN[own[1]]}{own[2]}(", text)
    for suffix, kind in (("", "f64"), ("f", "f32")):
        text = re.sub(rf"@({_EXACT}){suffix}\(", rf"@llvm.\1.{kind}(", text)
    # The backend's own remainder is inexact where the quotient is large.
    text, remainders = re.subn(r"frem (?:\w+ )*?(double|float) ([^,\s]+), ([^,\s]+)", _remainder, text)
    if remainders:
        text += "\ndeclare double @__nv_fmod(double, double)\ndeclare float @__nv_fmodf(float, float)\n"
    return _functions_of_libdevice(text)


def _integers_of_floats(text: str) -> str:
    """Floats beyond the integers become what the CPU makes of them: the least int64, of which the last bits are taken.

    A GPU would give the nearest integer of the type instead.
    """
    pattern = r"^( +)(%\S+) = fpto(?:si|ui) (double|float) ([^,\s]+) to i(8|16|32|64)\b.*$"

    numbers = itertools.count()

    def as_on_cpu(found: re.Match[str]) -> str:
        indent, name, kind, value, bits = found.groups()
        if "fptoui" in found[0] and bits == "64":
            return found[0]
        size, inside, whole, wide = (f"%{part}.{next(numbers)}" for part in ("size", "inside", "whole", "wide"))
        result = name if bits == "64" else wide
        lines = [
            f"{size} = call {kind} @llvm.fabs.{'f64' if kind == 'double' else 'f32'}({kind} {value})",
            # 2^63, which LLVM writes as a double where it is a float, too.
            f"{inside} = fcmp olt {kind} {size}, 0x43E0000000000000",
            f"{whole} = fptosi {kind} {value} to i64",
            f"{result} = select i1 {inside}, i64 {whole}, i64 -9223372036854775808",
        ]
        if bits != "64":
            lines.append(f"{name} = trunc i64 {wide} to i{bits}")
        return "\n".join(indent + line for line in lines)

    text, found = re.subn(pattern, as_on_cpu, text, flags=re.MULTILINE)
    if found:
        text += "\ndeclare double @llvm.fabs.f64(double)\ndeclare float @llvm.fabs.f32(float)\n"
    return text


def _remainder(found: re.Match[str]) -> str:
    kind, dividend, divisor = found.groups()
    return f"call {kind} @__nv_fmod{'f' if kind == 'float' else ''}({kind} {dividend}, {kind} {divisor})"


def _functions_of_libdevice(text: str) -> str:
    def suffix(kind: str) -> str:
        return "f" if kind == "float" else ""

    definitions = []
    result = r"(double|float|<(\d+) x (double|float)>)"
    pattern = rf"^declare (?:[\w()-]+ )*?{result} @(?:llvm\.)?({_LIBDEVICE})f?(?:\.[.\w]+)?\((.*)\).*$"
    for found in list(re.finditer(pattern, text, re.MULTILINE)):
        returned, lanes, of_lanes, base, parameters = found.groups()
        called = re.match(r"declare .*?@([\w.]+)\(", found[0])
        assert called is not None
        kinds = [re.sub(r" .*", "", each) if not each.startswith("<") else each[: each.index(">") + 1]
                 for each in re.split(r", (?![^<]*>)", parameters)]  # fmt: skip
        if lanes is None:
            device = f"__nv_{base}{suffix(returned)}"
            text = text.replace(found[0], f"declare {returned} @{device}({', '.join(kinds)})")
            text = re.sub(rf"@{re.escape(called[1])}(?=\()", f"@{device}", text)
        else:
            device = f"__nv_{base}{suffix(of_lanes)}"
            text = text.replace(found[0], "")
            text = re.sub(rf"@{re.escape(called[1])}(?=\()", f"@{base}_of_lanes_{lanes}{of_lanes}", text)
            definitions.append(_lane_by_lane(f"{base}_of_lanes_{lanes}{of_lanes}", device, int(lanes), of_lanes, kinds))
            if not re.search(rf"^declare .*@{device}\(", text, re.MULTILINE):
                each = ", ".join(of_lanes if kind.startswith("<") else kind for kind in kinds)
                text += f"\ndeclare {of_lanes} @{device}({each})\n"
    return _without_repeats(text + "".join(definitions))


def _without_repeats(text: str) -> str:
    """Of the declarations of a function, the first: what C and LLVM call differently may be the same on a device."""
    seen: set[str] = set()
    lines = []
    for line in text.splitlines():
        declared = re.match(r"declare .*?@([\w.]+)\(", line)
        if declared and declared[1] in seen:
            continue
        if declared:
            seen.add(declared[1])
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lane_by_lane(name: str, device: str, lanes: int, kind: str, parameters: list[str]) -> str:
    """A function of vectors, for the loops of helpers, which Numba has optimised for the CPU already."""
    arguments = ", ".join(f"{parameter} %a{k}" for k, parameter in enumerate(parameters))
    lines = [f"\ndefine internal <{lanes} x {kind}> @{name}({arguments}) {{"]
    result = "poison"
    for lane in range(lanes):
        given = []
        for k, parameter in enumerate(parameters):
            if parameter.startswith("<"):
                lines.append(f"  %x{k}.{lane} = extractelement {parameter} %a{k}, i32 {lane}")
                given.append(f"{kind} %x{k}.{lane}")
            else:
                given.append(f"{parameter} %a{k}")
        lines.append(f"  %y{lane} = call {kind} @{device}({', '.join(given)})")
        lines.append(f"  %r{lane} = insertelement <{lanes} x {kind}> {result}, {kind} %y{lane}, i32 {lane}")
        result = f"%r{lane}"
    return "\n".join([*lines, f"  ret <{lanes} x {kind}> {result}", "}\n"])


def _scratch_on_stack(text: str) -> str:
    """Let the copies for which Numba allocates memory, where an assignment's two arrays may overlap, be on the stack.

    Each is freed before its place in the code is reached again; a size that is not constant stays an unknown function.
    """
    allocate = re.compile(r"^( +%\S+ = )(?:tail )?call .*?ptr @NRT_Allocate\(i64 (?:\w+ )*?(\d+)\).*$")
    functions = []
    for function in re.split(r"(?m)^(?=define )", text):
        sizes: list[int] = []

        def on_stack(found: re.Match[str], sizes: list[int] = sizes) -> str:
            sizes.append(int(found[2]))
            return f"{found[1]}getelementptr i8, ptr %scratch.{len(sizes) - 1}, i64 0"

        lines = [allocate.sub(on_stack, line) for line in function.split("\n")]
        if sizes and "@NRT_Allocate(" not in "\n".join(lines):
            lines = [line for line in lines if not re.match(r" +(?:tail )?call void @NRT_Free\(", line)]
            # The line after the head is the first block's label or its first instruction.
            start = 2 if lines[1].endswith(":") or re.match(r"\S+:", lines[1]) else 1
            lines[start:start] = [f"  %scratch.{k} = alloca [{size} x i8], align 16" for k, size in enumerate(sizes)]
            functions.append("\n".join(lines))
        else:
            functions.append(function)
    return "".join(functions)


def _unknown(module: Any) -> set[str]:
    """The functions that a module calls and nothing on a device defines."""
    called = re.sub(r"(?m)^declare .*$", "", str(module))
    return {
        function.name
        for function in module.functions
        if function.is_declaration
        and not _INTRINSICS.match(f"{function.name}.")
        and re.search(rf'@"?{re.escape(function.name)}"?\b', called)
    }


def _with_libdevice(text: str, machine: Any, roots: Sequence[str]) -> Any:
    module = optimised(text, machine, roots)
    used = _unknown(module)
    _refuse({name for name in used if not name.startswith("__nv_")})
    if re.search(r"= frem ", text):
        raise UnsupportedError("for a GPU, it takes the remainders of several floats in a helper's loop", {"frem"})
    if not used:
        return module
    library = _libdevice()
    if library is None:
        names = ", ".join(sorted(name.removeprefix("__nv_") for name in used))
        raise UnsupportedError(
            f"for a GPU, it needs {names} of NVIDIA's libdevice.10.bc, which was found neither with triton, nor in a "
            "CUDA toolkit (CUDA_HOME), nor in NVIDIA's packages (pip install nvidia-nvvm); sin, cos, exp, tanh and log "
            "of metafast.envs.math do without, and give the CPU's bits",
            used,
        )
    device = llvm.parse_bitcode(library)
    device.triple, device.data_layout = machine.triple, str(machine.target_data)
    module.link_in(device)
    linked = optimised(str(module), machine, roots)
    _refuse(_unknown(linked))
    return linked


def _refuse(missing: set[str]) -> None:
    if any(name.startswith("NRT_") for name in missing):
        raise UnsupportedError(
            "for a GPU, it allocates memory (a new array, a list, a string, or an exception with values), which "
            "kernels do not: keep arrays in the state, assign their elements one by one, and raise exceptions with "
            "constant arguments",
            missing,
        )
    if missing:
        raise UnsupportedError(f"for a GPU, it calls {', '.join(sorted(missing))}, which there is not", missing)


def _libdevice() -> bytes | None:
    for folder in _folders():
        for path in (folder / "libdevice.10.bc", folder / "nvvm" / "libdevice" / "libdevice.10.bc"):
            if path.is_file():
                return path.read_bytes()
    return None


def _folders() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    triton = importlib.util.find_spec("triton")
    for place in (triton.submodule_search_locations or ()) if triton else ():
        yield Path(place) / "backends" / "nvidia" / "lib"
    nvidia = importlib.util.find_spec("nvidia")
    for place in (nvidia.submodule_search_locations or ()) if nvidia else ():
        yield from (Path(place) / name for name in ("cu13", "cuda_nvcc", "cu12"))
    compiler = shutil.which("nvcc")
    if compiler:
        yield Path(compiler).resolve().parents[1]
    yield Path("/usr/local/cuda")


def _culprit(text: str, machine: Any, name: str, missing: set[str]) -> str:
    """Which of the user's functions calls one of those."""
    for function in ("step", "reset", "observe"):
        roots = [f"{name}_users_{function}"]
        alone = _on_device(str(optimised(text, machine, roots)))
        if _unknown(optimised(alone, machine, roots)) & missing:
            return function
    return "step"


def exception_of(content: bytes) -> tuple[BaseException, str | None]:
    """An exception that a kernel has reported, and where it was raised; of its arguments' values, the constants."""
    kind, arguments, place = pickle.loads(content)
    if arguments is not None:
        arguments = tuple("?" if isinstance(argument, ir.Value) else argument for argument in arguments)
    where = None if place is None else f'File "{place[1]}", line {place[2]}, in {place[0]}'
    return (kind() if arguments is None else kind(*arguments)), where
