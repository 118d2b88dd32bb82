"""A user's three functions, compiled by Numba, and the loops over a tile around them: one object file.

The loops are written as LLVM instructions. They call the user's functions, which are inlined; where LLVM proves that a
function cannot raise, nothing is left of the test for it, and the loop is vectorised.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock

from metafast.envs.compiled._builder import Builder, make_known, named_in_errors
from metafast.envs.compiled._fields import IGNORED, TILE, Layout
from metafast.envs.compiled._generator_type import make_generator
from metafast.envs.compiled._spaces import Element

__all__ = ["Compiled", "compile_functions"]

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = _I8.as_pointer()
# Bytes of a state that is reset side by side with others: a tile of it is on the stack.
_LARGEST_SIDE_BY_SIDE = 128
# An instruction that compiles to nothing and that LLVM keeps where it can be reached.
_FAILURE_MARK = "~{dirflag},~{fpsr},~{flags}"


class Compiled(NamedTuple):
    """The object file, and what its user must know."""

    machine_code: bytes
    can_raise: bool
    externals: tuple[str, ...]  # the functions that it calls
    llvm: str  # the instructions, to look at


class _Argument(NamedTuple):
    type: ir.Type
    name: str


_PHASES = {
    "advance": [
        _Argument(_BYTES, "parameters"),
        _Argument(_BYTES, "state"),
        _Argument(_I64, "count"),
        _Argument(_BYTES, "actions"),
        _Argument(_I64.as_pointer(), "seeds"),
        _Argument(_I64.as_pointer(), "episodes"),
        _Argument(_I32.as_pointer(), "elapsed_steps"),
        _Argument(_BYTES, "rewards"),
        _Argument(_BYTES, "terminated"),
    ],
    "begin": [
        _Argument(_BYTES, "parameters"),
        _Argument(_BYTES, "state"),
        _Argument(_I32.as_pointer(), "indices"),
        _Argument(_I64, "num_indices"),
        _Argument(_I64.as_pointer(), "seeds"),
        _Argument(_I64.as_pointer(), "episodes"),
        _Argument(_BYTES, "streams"),
    ],
    "observe": [
        _Argument(_BYTES, "parameters"),
        _Argument(_BYTES, "state"),
        _Argument(_I64, "count"),
        _Argument(_I32.as_pointer(), "indices"),
        _Argument(_I64, "num_indices"),
        _Argument(_BYTES, "observations"),
    ],
}


class _PhaseBuilder(Builder):
    """The C functions of the three phases."""

    def begin_phase(self, phase: str) -> tuple[ir.IRBuilder, dict[str, Any]]:
        """Start the C function of a phase."""
        arguments = _PHASES[phase]
        function_type = ir.FunctionType(_I64, [argument.type for argument in arguments])
        function = ir.Function(self.module, function_type, name=f"{self.name}_{phase}")
        for value, argument in zip(function.args, arguments, strict=True):
            value.name = argument.name
            if isinstance(argument.type, ir.PointerType):
                value.add_attribute("noalias")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        return builder, {argument.name: value for argument, value in zip(arguments, function.args, strict=True)}

    def call(self, builder: ir.IRBuilder, compiled: Any, values: list[Any], index: Any, ignored: Any = None) -> Any:
        """Call a user's function; where it raises, the phase returns `index`, unless the byte at `ignored` says not."""
        status, result = self.context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, values)
        with builder.if_then(status.is_error, likely=False):
            mark = ir.FunctionType(ir.VoidType(), [])
            builder.asm(mark, "", _FAILURE_MARK, [], True)
            if ignored is None:
                builder.ret(index)
            else:
                counts = builder.icmp_unsigned("!=", builder.load(ignored), ir.Constant(_I8, IGNORED))
                with builder.if_then(counts):
                    builder.ret(index)
        return result

    def generator(self, builder: ir.IRBuilder, values: dict[str, Any], index: Any, step: Any, draws: Any) -> Any:
        """The value of `rng`: the current episode's number is one less than the next one's."""
        seed = builder.load(builder.gep(values["seeds"], [index]))
        following = builder.load(builder.gep(values["episodes"], [index]))
        return make_generator(self.context, builder, seed, builder.sub(following, ir.Constant(_I64, 1)), step, draws)


class _Loop:
    """``for i in range(count)`` around the instructions of a with block."""

    def __init__(self, builder: ir.IRBuilder, count: Any) -> None:
        self.builder, self.count = builder, count

    def __enter__(self) -> Any:
        builder = self.builder
        before = builder.block
        self.body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.cbranch(builder.icmp_signed("<", ir.Constant(_I64, 0), self.count), self.body, self.after)
        builder.position_at_end(self.body)
        self.index = builder.phi(_I64, "i")
        self.index.add_incoming(ir.Constant(_I64, 0), before)
        return self.index

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            return
        builder = self.builder
        following = builder.add(self.index, ir.Constant(_I64, 1), flags=["nsw", "nuw"])
        self.index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, self.count), self.body, self.after)
        builder.position_at_end(self.after)


def _emit_advance(make: _PhaseBuilder, step: Callable[..., Any]) -> None:
    action = make.action
    compiled = make.compile_step(step)
    builder, values = make.begin_phase("advance")
    draws = builder.alloca(_I32)
    with _Loop(builder, values["count"]) as index:
        if action.scalar:
            actions = builder.bitcast(values["actions"], _I64.as_pointer())
            taken = builder.load(builder.gep(actions, [index]))
        else:
            taken = make.row(builder, values["actions"], index, action, readonly=True)
        elapsed = builder.load(builder.gep(values["elapsed_steps"], [index]))
        step_number = builder.add(elapsed, ir.Constant(_I32, 1))
        rng = make.generator(builder, values, index, step_number, draws)
        state = make.state(builder, values["state"], index)
        terminated = builder.gep(values["terminated"], [index])
        result = make.call(builder, compiled, [state, taken, rng], index, ignored=terminated)
        reward, over = make.outcome(builder, compiled, result)
        rewards = builder.bitcast(values["rewards"], ir.FloatType().as_pointer())
        builder.store(reward, builder.gep(rewards, [index]))
        builder.store(over, terminated)
    builder.ret(ir.Constant(_I64, -1))


def _emit_begin(make: _PhaseBuilder, reset: Callable[..., Any]) -> None:
    compiled = make.compile_reset(reset)
    builder, values = make.begin_phase("begin")
    draws = builder.alloca(_I32)
    fields = list(make.state_type.layout.fields.values())
    if sum(field.nbytes for field in fields) <= _LARGEST_SIDE_BY_SIDE and not any(field.shape for field in fields):
        _emit_begin_side_by_side(make, compiled, builder, values, draws)
        return
    with _Loop(builder, values["num_indices"]) as position:
        index = _listed(builder, values, position)
        rng = make.generator(builder, values, index, ir.Constant(_I32, 0), draws)
        make.clear(builder, values["state"], index)
        make.call(builder, compiled, [make.state(builder, values["state"], index), rng], index)
    builder.ret(ir.Constant(_I64, -1))


def _listed(builder: ir.IRBuilder, values: dict[str, Any], position: Any) -> Any:
    """The number of the environment at a position of `indices`."""
    return builder.sext(builder.load(builder.gep(values["indices"], [position])), _I64)


def _emit_begin_side_by_side(
    make: _PhaseBuilder, compiled: Any, builder: ir.IRBuilder, values: dict[str, Any], draws: Any
) -> None:
    """The environments listed are reset in a tile of the function's own, side by side, so that LLVM vectorises it."""
    layout = make.state_type.layout
    room = ir.Constant(_I64, TILE)
    own = {name: builder.alloca(_I64, size=room) for name in ("seeds", "episodes")}
    bytes_of_tile = sum(field.nbytes for field in layout.fields.values()) * TILE
    tile = builder.alloca(_I8, size=ir.Constant(_I64, bytes_of_tile))
    tile.align = 64
    with _Loop(builder, values["num_indices"]) as position:
        index = _listed(builder, values, position)
        for name, memory in own.items():
            builder.store(builder.load(builder.gep(values[name], [index])), builder.gep(memory, [position]))
    with _Loop(builder, values["num_indices"]) as position:
        rng = make.generator(builder, own, position, ir.Constant(_I32, 0), draws)
        make.clear(builder, tile, position)
        state = make.state(builder, tile, position)
        make.call(builder, compiled, [state, rng], _listed(builder, values, position))
    for field in layout.fields.values():
        number = ir.IntType(8 * field.nbytes).as_pointer()
        offset = [ir.Constant(_I64, field.offset)]
        source, target = (builder.bitcast(builder.gep(where, offset), number) for where in (tile, values["state"]))
        with _Loop(builder, values["num_indices"]) as position:
            index = _listed(builder, values, position)
            builder.store(builder.load(builder.gep(source, [position])), builder.gep(target, [index]))
    builder.ret(ir.Constant(_I64, -1))


def _emit_observe(make: _PhaseBuilder, observe: Callable[..., Any]) -> None:
    element = make.observation
    compiled = make.compile_observe(observe)
    builder, values = make.begin_phase("observe")

    element_bytes = ir.Constant(_I64, element.nbytes)

    def observe_one(index: Any) -> None:
        state = make.state(builder, values["state"], index)
        row = make.row(builder, values["observations"], index, element)
        # Of elements that `observe` writes, nothing is left of this.
        cgutils.memset(builder, make.address(builder, values["observations"], index, element), element_bytes, 0)
        make.call(builder, compiled, [state, row], index)

    listed = builder.icmp_signed(">=", values["num_indices"], ir.Constant(_I64, 0))
    with builder.if_then(listed):
        with _Loop(builder, values["num_indices"]) as position:
            observe_one(_listed(builder, values, position))
        builder.ret(ir.Constant(_I64, -1))
    with _Loop(builder, values["count"]) as index:
        observe_one(index)
    builder.ret(ir.Constant(_I64, -1))


def _emit_phases(make: _PhaseBuilder, functions: dict[str, Callable[..., Any]]) -> None:
    for phase, emit, function in (
        ("step", _emit_advance, functions["step"]),
        ("reset", _emit_begin, functions["reset"]),
        ("observe", _emit_observe, functions["observe"]),
    ):
        with named_in_errors(make, phase):
            emit(make, function)


@global_compiler_lock
def compile_functions(
    name: str,
    functions: dict[str, Callable[..., Any]],
    helpers: list[Callable[..., Any]],
    layout: Layout,
    action: Element,
    observation: Element,
) -> Compiled:
    """Compile ``reset``, ``step`` and ``observe`` to the C functions `name`_begin, _advance and _observe.

    `helpers` are the plain functions that they call. Raises numba's errors.
    """
    make_known(helpers)
    make = _PhaseBuilder(name, layout, action, observation)
    _emit_phases(make, functions)
    library = make.library
    library.add_ir_module(make.module)
    # Inlined everywhere; as internal functions no copies of them remain.
    for inner in make.inner:
        library._final_module.get_function(inner).linkage = "internal"
    library.finalize()
    text = library.get_llvm_str()
    externals = sorted(
        function.name
        for function in library._final_module.functions
        if function.is_declaration and not function.name.startswith("llvm.")
    )
    return Compiled(library._get_compiled_object(), _FAILURE_MARK in text, tuple(externals), text)
