"""What the loops of the CPU and the kernels of a GPU share: a user's functions, typed by Numba, in one library."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, compiler, errors, types
from numba.core.extending import overload
from numba.core.registry import cpu_target

from metafast.envs.compiled._fields import Layout
from metafast.envs.compiled._generator_type import COMPILE_OPTIONS, as_it_is, generator_type
from metafast.envs.compiled._spaces import Element
from metafast.envs.compiled._state_type import StateType, array_type, row_view
from metafast.envs.compiled._widening import WideningCompiler

__all__ = ["Builder", "make_known", "named_in_errors"]

_I64 = ir.IntType(64)


class Builder:
    """Compiles the functions into one library, to which instructions are added that call them."""

    def __init__(self, name: str, layout: Layout, action: Element, observation: Element) -> None:
        self.typing_context = cpu_target.typing_context
        self.context = cpu_target.target_context
        self.typing_context.refresh()
        self.context.refresh()
        self.library = self.context.codegen().create_library(name)
        self.library.enable_object_caching()
        self.module = self.library.create_ir_module(name)
        self.name = name
        self.state_type = StateType(layout)
        self.observed_type = StateType(layout, readonly=True)
        self.action = action
        self.observation = observation
        self.inner: list[str] = []

    def _compile(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Type and lower one of the user's functions into the library."""
        flags = compiler.Flags()
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True
        flags.nrt = True
        flags.error_model = "numpy"
        flags.boundscheck = True
        flags.forceinline = True
        result = compiler.compile_extra(
            self.typing_context,
            self.context,
            function,
            arguments,
            None,
            flags,
            {},
            library=self.library,
            pipeline_class=WideningCompiler,
        )
        self.inner.append(result.fndesc.llvm_func_name)
        return result

    def compile_reset(self, reset: Callable[..., Any]) -> Any:
        """Type and lower ``reset``."""
        return self._compile(reset, (self.state_type, generator_type))

    def compile_step(self, step: Callable[..., Any]) -> Any:
        """Type and lower ``step``; TypingError where it returns anything but two numbers."""
        action = self.action
        action_type = types.int64 if action.scalar else array_type(action.dtype, action.shape, readonly=True)
        compiled = self._compile(step, (self.state_type, action_type, generator_type))
        returned = compiled.signature.return_type
        if not isinstance(returned, types.BaseTuple) or len(returned) != 2:
            raise errors.TypingError(f"step must return (reward, terminated), not {returned}")
        for name, kind in zip(("reward", "terminated"), returned, strict=True):
            if not isinstance(kind, (types.Integer, types.Float, types.Boolean)):
                raise errors.TypingError(f"step must return numbers for (reward, terminated), but its {name} is {kind}")
        return compiled

    def compile_observe(self, observe: Callable[..., Any]) -> Any:
        """Type and lower ``observe``."""
        element = self.observation
        return self._compile(observe, (self.observed_type, array_type(element.dtype, element.shape)))

    def outcome(self, builder: ir.IRBuilder, compiled: Any, result: Any) -> tuple[Any, Any]:
        """The reward, a float, and whether the episode is over, a byte, of what ``step`` returned."""
        returned = compiled.signature.return_type
        reward = self.context.cast(builder, builder.extract_value(result, 0), returned[0], types.float32)
        over = self.context.cast(builder, builder.extract_value(result, 1), returned[1], types.boolean)
        return reward, builder.zext(over, ir.IntType(8))

    def state(self, builder: ir.IRBuilder, tile: Any, index: Any) -> Any:
        """The value of `state`."""
        value = ir.Constant(self.context.get_value_type(self.state_type), ir.Undefined)
        return builder.insert_value(builder.insert_value(value, tile, 0), index, 1)

    def clear(self, builder: ir.IRBuilder, tile: Any, index: Any) -> None:
        """Set an environment's fields to zeros; of those that its reset writes, nothing is left of this."""
        for field in self.state_type.layout.fields.values():
            offset = builder.mul(index, ir.Constant(_I64, field.nbytes), flags=["nsw"])
            first = builder.gep(tile, [ir.Constant(_I64, field.offset)], inbounds=True)
            address = builder.gep(first, [offset], inbounds=True)
            if field.shape:
                cgutils.memset(builder, address, ir.Constant(_I64, field.nbytes), 0)
            else:
                number = ir.IntType(8 * field.nbytes)
                builder.store(ir.Constant(number, 0), builder.bitcast(address, number.as_pointer()))

    def row(self, builder: ir.IRBuilder, rows: Any, index: Any, element: Element, readonly: bool = False) -> Any:
        """One environment's action or observation as an array."""
        kind = array_type(element.dtype, element.shape, readonly)
        return row_view(self.context, builder, kind, element.shape, self.address(builder, rows, index, element))

    def address(self, builder: ir.IRBuilder, rows: Any, index: Any, element: Element) -> Any:
        """Where one environment's action or observation is."""
        offset = builder.mul(index, ir.Constant(_I64, element.nbytes), flags=["nsw"])
        return builder.gep(rows, [offset], inbounds=True)


def make_known(helpers: list[Callable[..., Any]]) -> None:
    """Let Numba compile the plain functions that a user's functions call."""
    for helper in helpers:
        overload(helper, jit_options=COMPILE_OPTIONS, strict=False)(as_it_is(helper))


@contextlib.contextmanager
def named_in_errors(make: Builder, function: str) -> Iterator[None]:
    """What is raised within has the attribute `user_function`."""
    try:
        with make.context.push_code_library(make.library):
            yield
    except Exception as error:
        error.user_function = function  # type: ignore[attr-defined]
        raise
