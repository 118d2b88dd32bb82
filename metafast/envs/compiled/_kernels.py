"""A user's three functions within the kernels that step, reset and observe environments on a GPU, a thread for each.

The functions are typed and lowered as for the CPU, so that both do the same. What is around them follows
csrc/envs/driver.hpp, one environment at a time; csrc/envs/driver.cuh does the same for metafast's own environments.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock

from metafast.envs._device_batch import FAULT_ACTION, FAULT_ENDED, FAULT_OWN, TILE
from metafast.envs._environment import ActionLayout
from metafast.envs.compiled._builder import Builder, make_known, named_in_errors
from metafast.envs.compiled._fields import Field, Layout
from metafast.envs.compiled._generator_type import make_generator
from metafast.envs.compiled._ptx import RAISED
from metafast.envs.compiled._spaces import Element

__all__ = ["ARGUMENTS", "MODES", "emit_kernels"]

_I8, _I32, _I64, _BIT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.IntType(1)
_BYTES = _I8.as_pointer()

MODES = {"next_step": 0, "same_step": 1, "disabled": 2}


_BATCH = ("state", "saved", "seeds", "episodes", "elapsed_steps", "ended", "faults", "num_envs")
_NUMBERS = ("num_envs", "mode", "max_episode_steps", "action_bytes")
# The kernels' arguments in order, all of 64 bits: addresses, but for those that are numbers. `saved` is memory like
# `state` for environments whose functions can raise, `mask` and `final_observations` may be null as well.
ARGUMENTS = {
    "step": (
        *_BATCH,
        "actions",
        "action_bytes",
        "rewards",
        "terminated",
        "truncated",
        "observations",
        "final_observations",
        "mode",
        "max_episode_steps",
    ),
    "reset": (*_BATCH, "mask"),
    "observe": (*_BATCH, "observations"),
}
# These are allocated as wholes, or (observations) begin at a row of a whole; what else is passed may be any part.
_ALIGNED = ("state", "saved", "observations", "final_observations")
_ALIGNMENT = 16
# Entries of an action that are taken one by one, so that they are in registers.
_SHORT = 16


class _Environment:
    """One thread of a kernel: its environment, and the instructions for what happens to it.

    Attributes
    ----------
    values : dict
        The kernel's arguments.
    fault : llvm value
        Where the number of what is wrong with the environment is kept, 0 while nothing is.
    """

    def __init__(self, make: Builder, kernel: str) -> None:
        self.make = make
        names = ARGUMENTS[kernel]
        kinds = [_I64 if name in _NUMBERS else _BYTES for name in names]
        function = ir.Function(make.module, ir.FunctionType(ir.VoidType(), kinds), name=f"{make.name}_{kernel}")
        function.calling_convention = "ptx_kernel"
        self.builder = builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.values = dict(zip(names, function.args, strict=True))
        for name, value in self.values.items():
            value.name = name
            if name not in _NUMBERS:
                value.add_attribute("noalias")
            if name in _ALIGNED:
                row = make.observation.nbytes if name.endswith("observations") else _ALIGNMENT
                value.attributes.align = min(_ALIGNMENT, row & -row)
        block, self.position = (self._special_register(name) for name in ("ctaid", "tid"))
        self.index = builder.add(builder.mul(block, _number(TILE)), self.position)
        with builder.if_then(builder.icmp_unsigned(">=", self.index, self.values["num_envs"])):
            builder.ret_void()
        state_bytes = sum(field.nbytes for field in make.state_type.layout.fields.values())
        first = builder.mul(block, _number(TILE * state_bytes))
        self.tile = builder.gep(self.values["state"], [first], inbounds=True)
        self._saved_tile = builder.gep(self.values["saved"], [first])
        self.fault, self._detail = self.variable(_I32, 0), self.variable(_I32, 0)
        self._draws = self.variable(_I32, 0)

    def _special_register(self, name: str) -> Any:
        function = f"llvm.nvvm.read.ptx.sreg.{name}.x"
        known = self.make.module.globals
        if function not in known:
            ir.Function(self.make.module, ir.FunctionType(_I32, []), name=function)
        return self.builder.zext(self.builder.call(known[function], []), _I64)

    def variable(self, kind: Any, value: Any) -> Any:
        """A local variable."""
        address = cgutils.alloca_once(self.builder, kind)
        self.builder.store(ir.Constant(kind, value) if isinstance(value, (int, float)) else value, address)
        return address

    def entry(self, name: str, kind: Any) -> Any:
        """Where the environment's number in the array of the argument `name` is."""
        array = self.builder.bitcast(self.values[name], kind.as_pointer())
        return self.builder.gep(array, [self.index], inbounds=True)

    def set_fault(self, number: int, condition: Any) -> None:
        """Note what is wrong where `condition` holds, and nothing was before."""
        builder = self.builder
        before = builder.load(self.fault)
        first = builder.and_(condition, builder.icmp_unsigned("==", before, ir.Constant(_I32, 0)))
        builder.store(builder.select(first, ir.Constant(_I32, number), before), self.fault)

    def is_sound(self) -> Any:
        """Whether nothing is wrong."""
        return self.builder.icmp_unsigned("==", self.builder.load(self.fault), ir.Constant(_I32, 0))

    @contextmanager
    def sound(self, condition: Any = None) -> Iterator[None]:
        """What happens only where nothing is wrong, and `condition` holds."""
        builder = self.builder
        fine = self.is_sound()
        with builder.if_then(fine if condition is None else builder.and_(fine, condition)):
            yield

    def call(self, compiled: Any, values: list[Any]) -> Any:
        """Call a user's function and note the fault where it raises."""
        builder = self.builder
        context = self.make.context
        status, result = context.call_internal_no_propagate(builder, compiled.fndesc, compiled.signature, values)
        with builder.if_then(status.is_error, likely=False):
            builder.asm(ir.FunctionType(ir.VoidType(), []), RAISED, "", [], True)
            self.set_fault(FAULT_OWN, ir.Constant(_BIT, 1))
            with builder.if_then(status.is_user_exc):
                # Its description begins with its number, which _ptx.py has put there.
                place = builder.gep(status.excinfoptr, [ir.Constant(_I32, 0), ir.Constant(_I32, 0)])
                number = builder.load(builder.bitcast(builder.load(place), _I32.as_pointer()))
                number.align = 1
                builder.store(number, self._detail)
        return result

    def state(self) -> Any:
        """The value of `state`."""
        return self.make.state(self.builder, self.tile, self.position)

    def generator(self, following_episode: Any, step: Any) -> Any:
        """The value of `rng` in the episode before `following_episode`."""
        builder = self.builder
        seed = builder.load(self.entry("seeds", _I64))
        episode = builder.sub(following_episode, _number(1))
        return make_generator(self.make.context, builder, seed, episode, step, self._draws)

    def _field(self, tile: Any, field: Field) -> Any:
        builder = self.builder
        first = builder.gep(tile, [_number(field.offset)], inbounds=True)
        return builder.gep(first, [builder.mul(self.position, _number(field.nbytes))], inbounds=True)

    def _copy_array(self, to: Any, source: Any, field: Field) -> None:
        items = _number(int(np.prod(field.shape)))
        cgutils.raw_memcpy(self.builder, to, source, items, field.dtype.itemsize, align=field.dtype.itemsize)

    def save(self) -> dict[str, Any]:
        """Keep the state as it is: arrays in `saved`, where there is such memory, numbers in registers."""
        builder = self.builder
        numbers = {}
        there = builder.icmp_unsigned("!=", self.values["saved"], ir.Constant(_BYTES, None))
        for field in self.make.state_type.layout.fields.values():
            address = self._field(self.tile, field)
            if field.shape:
                with builder.if_then(there):
                    self._copy_array(self._field(self._saved_tile, field), address, field)
            else:
                kind = ir.IntType(8 * field.nbytes)
                numbers[field.name] = builder.load(builder.bitcast(address, kind.as_pointer()))
        return numbers

    def restore(self, numbers: dict[str, Any]) -> None:
        """Bring back the state that `save` kept, where a user's function raised."""
        builder = self.builder
        raised = builder.icmp_unsigned("==", builder.load(self.fault), ir.Constant(_I32, FAULT_OWN))
        with builder.if_then(raised, likely=False):
            for field in self.make.state_type.layout.fields.values():
                address = self._field(self.tile, field)
                if field.shape:
                    self._copy_array(address, self._field(self._saved_tile, field), field)
                else:
                    builder.store(numbers[field.name], builder.bitcast(address, numbers[field.name].type.as_pointer()))

    def begin(self, reset: Any, following_episode: Any) -> None:
        """Write the first state of the episode before `following_episode`."""
        self.make.clear(self.builder, self.tile, self.position)
        rng = self.generator(following_episode, ir.Constant(_I32, 0))
        self.call(reset, [self.state(), rng])

    def observe(self, observe: Any, observations: str) -> None:
        """Write the environment's row of the argument `observations`."""
        make, builder, element = self.make, self.builder, self.make.observation
        rows = self.values[observations]
        cgutils.memset(builder, make.address(builder, rows, self.index, element), _number(element.nbytes), 0)
        self.call(observe, [self.state(), make.row(builder, rows, self.index, element)])

    def report(self) -> None:
        """Write what is wrong to `faults`, which keeps the first that is found: kind, environment, exception."""
        builder = self.builder
        fault = builder.load(self.fault)
        with builder.if_then(builder.icmp_unsigned("!=", fault, ir.Constant(_I32, 0)), likely=False):
            record = builder.bitcast(self.values["faults"], _I32.as_pointer())
            outcome = builder.cmpxchg(record, ir.Constant(_I32, 0), fault, "monotonic", "monotonic")
            with builder.if_then(builder.extract_value(outcome, 1)):
                for place, value in ((1, builder.trunc(self.index, _I32)), (2, builder.load(self._detail))):
                    builder.store(value, builder.gep(record, [ir.Constant(_I32, place)]))

    def action(self, layout: ActionLayout) -> Any:
        """The action as ``step`` takes it, having noted whether it is one."""
        make, builder, element = self.make, self.builder, self.make.action
        size = int(np.prod(element.shape, dtype=np.int64))
        if layout.low is None or layout.high is None:
            number = ir.FloatType() if element.dtype == np.float32 else ir.DoubleType()
            first = builder.bitcast(
                make.address(builder, self.values["actions"], self.index, element), number.as_pointer()
            )
            absolute = builder.module.declare_intrinsic("llvm.fabs", [number])
            for place in self._each(size):
                value = builder.call(absolute, [builder.load(builder.gep(first, [place]))])
                finite = builder.fcmp_ordered("<", value, ir.Constant(number, float("inf")))
                self.set_fault(FAULT_ACTION, builder.not_(finite))
            return make.row(builder, self.values["actions"], self.index, element, readonly=True)
        if element.scalar:
            taken = self._integer(self.index)
            self._check_integer(taken, _number(int(layout.low[0])), _number(int(layout.high[0])))
            return taken
        # Copied, because it may be of other integers than `step` takes.
        kind = ir.IntType(8 * element.dtype.itemsize)
        copied = cgutils.alloca_once(builder, ir.ArrayType(kind, size))
        low, high = (self._constants(name, getattr(layout, name).tolist()) for name in ("low", "high"))
        for place in self._each(size):
            value = self._integer(builder.add(builder.mul(self.index, _number(size)), place))
            bounds = (builder.load(builder.gep(array, [_number(0), place])) for array in (low, high))
            self._check_integer(value, *bounds)
            narrow = value if kind == _I64 else builder.trunc(value, kind)
            builder.store(narrow, builder.gep(copied, [_number(0), place]))
        return make.row(builder, builder.bitcast(copied, _BYTES), _number(0), element, readonly=True)

    def _each(self, size: int) -> Iterator[Any]:
        """What is done for each number below `size`: a loop, unless it is short."""
        if size <= _SHORT:
            yield from map(_number, range(size))
            return
        with cgutils.for_range(self.builder, _number(size), intp=_I64) as loop:
            yield loop.index

    def _integer(self, position: Any) -> Any:
        """An entry of `actions`, whose integers have `action_bytes` bytes."""
        builder = self.builder
        wide = builder.icmp_unsigned("==", self.values["action_bytes"], _number(8))
        value = cgutils.alloca_once(builder, _I64)
        for kind, condition in ((_I64, wide), (_I32, builder.not_(wide))):
            with builder.if_then(condition):
                array = builder.bitcast(self.values["actions"], kind.as_pointer())
                number = builder.load(builder.gep(array, [position]))
                builder.store(number if kind == _I64 else builder.sext(number, _I64), value)
        return builder.load(value)

    def _check_integer(self, value: Any, low: Any, high: Any) -> None:
        builder = self.builder
        inside = builder.and_(builder.icmp_signed(">=", value, low), builder.icmp_signed("<", value, high))
        self.set_fault(FAULT_ACTION, builder.not_(inside))

    def _constants(self, name: str, numbers: list[int]) -> Any:
        kind = ir.ArrayType(_I64, len(numbers))
        array = ir.GlobalVariable(self.make.module, kind, f"{self.make.name}_{name}")
        array.initializer, array.global_constant, array.linkage = ir.Constant(kind, numbers), True, "internal"
        return array


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _emit_step(make: Builder, compiled: dict[str, Any], layout: ActionLayout) -> None:
    env = _Environment(make, "step")
    builder = env.builder
    was_ended = builder.icmp_unsigned("!=", builder.load(env.entry("ended", _I8)), ir.Constant(_I8, 0))
    next_step, same_step, disabled = (
        builder.icmp_unsigned("==", env.values["mode"], _number(number)) for number in MODES.values()
    )
    # Read by environments whose steps are random, and written by those that begin.
    episodes = env.entry("episodes", _I64)
    elapsed = env.variable(_I32, builder.load(env.entry("elapsed_steps", _I32)))
    reward, over = env.variable(ir.FloatType(), 0.0), env.variable(_I8, 0)
    terminated, truncated = env.variable(_I8, 0), env.variable(_I8, 0)
    # In next_step mode an environment that has ended is reset in place of its step.
    begins = env.variable(_BIT, builder.and_(was_ended, next_step))
    action = env.action(layout)
    env.set_fault(FAULT_ENDED, builder.and_(was_ended, disabled))
    kept = env.save()

    with env.sound(builder.not_(builder.load(begins))):
        step_number = builder.add(builder.load(elapsed), ir.Constant(_I32, 1))
        rng = env.generator(builder.load(episodes), step_number)
        result = env.call(compiled["step"], [env.state(), action, rng])
        with env.sound():
            earned, ends = make.outcome(builder, compiled["step"], result)
            limit = builder.trunc(env.values["max_episode_steps"], _I32)
            cut = builder.zext(builder.icmp_signed(">=", step_number, limit), _I8)
            for value, variable in ((earned, reward), (ends, terminated), (cut, truncated), (step_number, elapsed)):
                builder.store(value, variable)
            ended = builder.or_(ends, cut)
            builder.store(ended, over)
            at_once = builder.and_(same_step, builder.icmp_unsigned("!=", ended, ir.Constant(_I8, 0)))
            builder.store(at_once, begins)
            with builder.if_then(at_once):
                env.observe(compiled["observe"], "final_observations")
    with env.sound(builder.load(begins)):
        builder.store(ir.Constant(_I32, 0), elapsed)
        builder.store(ir.Constant(_I8, 0), over)
        env.begin(compiled["reset"], builder.add(builder.load(episodes), _number(1)))
    env.restore(kept)
    # Also of an environment with a fault, as it was: once more where what the step led to could not be observed.
    again = env.variable(_BIT, 1)
    with cgutils.for_range(builder, _number(2), intp=_I64), builder.if_then(builder.load(again)):
        fine = env.is_sound()
        env.observe(compiled["observe"], "observations")
        builder.store(builder.and_(fine, builder.not_(env.is_sound())), again)
        env.restore(kept)
    env.report()
    with env.sound():
        builder.store(builder.load(elapsed), env.entry("elapsed_steps", _I32))
        ends = builder.icmp_unsigned("!=", builder.load(over), ir.Constant(_I8, 0))
        with builder.if_then(builder.icmp_unsigned("!=", ends, was_ended)):
            builder.store(builder.load(over), env.entry("ended", _I8))
        with builder.if_then(builder.load(begins)):
            builder.store(builder.add(builder.load(episodes), _number(1)), episodes)
    fine = env.is_sound()
    for variable, name, kind in (
        (reward, "rewards", ir.FloatType()),
        (terminated, "terminated", _I8),
        (truncated, "truncated", _I8),
    ):
        builder.store(builder.select(fine, builder.load(variable), ir.Constant(kind, 0)), env.entry(name, kind))
    builder.ret_void()


def _emit_reset(make: Builder, compiled: dict[str, Any]) -> None:
    env = _Environment(make, "reset")
    builder = env.builder
    masked = builder.icmp_unsigned("!=", env.values["mask"], ir.Constant(_BYTES, None))
    with builder.if_then(masked):
        chosen = builder.load(env.entry("mask", _I8))
        with builder.if_then(builder.icmp_unsigned("==", chosen, ir.Constant(_I8, 0))):
            builder.ret_void()
    kept = env.save()
    following = builder.add(builder.load(env.entry("episodes", _I64)), _number(1))
    env.begin(compiled["reset"], following)
    env.restore(kept)
    env.report()
    with env.sound():
        builder.store(following, env.entry("episodes", _I64))
        builder.store(ir.Constant(_I32, 0), env.entry("elapsed_steps", _I32))
        builder.store(ir.Constant(_I8, 0), env.entry("ended", _I8))
    builder.ret_void()


def _emit_observe(make: Builder, compiled: dict[str, Any]) -> None:
    env = _Environment(make, "observe")
    env.observe(compiled["observe"], "observations")
    env.report()
    env.builder.ret_void()


@global_compiler_lock
def emit_kernels(
    name: str,
    functions: dict[str, Callable[..., Any]],
    helpers: list[Callable[..., Any]],
    layout: Layout,
    action: Element,
    observation: Element,
    actions: ActionLayout,
) -> Any:
    """Return an LLVM module of the kernels `name`_step, _reset and _observe and all that they call, not yet optimised.

    The functions are called `name`_users_<function>. Raises numba's errors.
    """
    make_known(helpers)
    make = Builder(name, layout, action, observation)
    compiled = {}
    for phase, compile_one in (
        ("step", make.compile_step),
        ("reset", make.compile_reset),
        ("observe", make.compile_observe),
    ):
        with named_in_errors(make, phase):
            compiled[phase] = compile_one(functions[phase])
    with named_in_errors(make, "step"):
        _emit_step(make, compiled, actions)
        _emit_reset(make, compiled)
        _emit_observe(make, compiled)
    library = make.library
    library.add_ir_module(make.module)
    module = library._final_module
    for linked in dict.fromkeys(library._linking_libraries):
        module.link_in(linked._get_module_for_linking(), preserve=True)
    for phase, inner in zip(compiled, make.inner, strict=True):
        module.get_function(inner).name = f"{name}_users_{phase}"
    return module
