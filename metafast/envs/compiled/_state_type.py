"""The Numba type of `state` in a user's functions: one environment of a tile, whose fields are read and written there.

Its value is the tile's address and the environment's number. Numbers are read as float64, int64 or bool; an array
field gives a view. As nothing is copied, LLVM sees loads and stores at unit stride and can step several environments at
once.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.datamodel import models
from numba.core.extending import register_model
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr, signature
from numba.np import arrayobj
from numba.np.numpy_support import from_dtype

from metafast.envs.compiled._fields import Field, Layout

__all__ = ["StateType", "array_type", "row_view"]

_BYTES = ir.IntType(8).as_pointer()


def array_type(dtype: np.dtype[Any], shape: tuple[int, ...], readonly: bool = False) -> Any:
    """A C-contiguous array of this element type and number of axes."""
    return types.Array(from_dtype(dtype), len(shape), "C", readonly=readonly)


def row_view(context: Any, builder: Any, kind: Any, shape: tuple[int, ...], address: Any) -> Any:
    """An array value over memory that somebody else owns; its shape is a constant, so that checks of indices fold."""
    array = arrayobj.make_array(kind)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [itemsize * int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    arrayobj.populate_array(
        array,
        data=builder.bitcast(address, context.get_data_type(kind.dtype).as_pointer()),
        shape=[context.get_constant(types.intp, length) for length in shape],
        strides=[context.get_constant(types.intp, stride) for stride in strides],
        itemsize=context.get_constant(types.intp, itemsize),
        meminfo=None,
    )
    return array._getvalue()


class StateType(types.Type):
    """`state`, with the fields of a layout."""

    def __init__(self, layout: Layout, readonly: bool = False) -> None:
        self.layout, self.readonly = layout, readonly
        super().__init__(name=f"{'readonly ' if readonly else ''}state({layout.describe()})")

    def field(self, name: str) -> Field:
        """The field of this name; a TypingError where there is none."""
        if name not in self.layout.fields:
            raise errors.TypingError(f"state has no field {name!r}; it has: {', '.join(self.layout.fields)}")
        return self.layout.fields[name]

    def value_type(self, field: Field) -> Any:
        """What a user's code sees."""
        if field.shape:
            return array_type(field.dtype, field.shape, self.readonly)
        return {"f": types.float64, "b": types.boolean}.get(field.dtype.kind, types.int64)


@register_model(StateType)
class StateModel(models.StructModel):
    """The tile's address and the environment's number in it."""

    def __init__(self, manager: Any, kind: StateType) -> None:
        super().__init__(manager, kind, [("tile", types.voidptr), ("index", types.intp)])


@infer_getattr
class StateFields(AttributeTemplate):
    """Types ``state.<field>``, read or assigned."""

    key = StateType

    def generic_resolve(self, state: StateType, name: str) -> Any:
        """The type of the field called `name`."""
        return state.value_type(state.field(name))


def _address(context: Any, builder: Any, kind: StateType, state: Any, field: Field) -> Any:
    parts = cgutils.create_struct_proxy(kind)(context, builder, value=state)
    first = builder.gep(parts.tile, [context.get_constant(types.intp, field.offset)], inbounds=True)
    offset = builder.mul(parts.index, context.get_constant(types.intp, field.nbytes), flags=["nsw"])
    return builder.gep(first, [offset], inbounds=True)


@lower_getattr_generic(StateType)
def read_field(context: Any, builder: Any, kind: StateType, state: Any, name: str) -> Any:
    """Emits the load of a number, or the view of an array."""
    field = kind.field(name)
    address = _address(context, builder, kind, state, field)
    seen = kind.value_type(field)
    if field.shape:
        return row_view(context, builder, seen, field.shape, address)
    stored = from_dtype(field.dtype)
    pointer = builder.bitcast(address, context.get_data_type(stored).as_pointer())
    loaded = context.unpack_value(builder, stored, pointer)
    return context.cast(builder, loaded, stored, seen)


@lower_setattr_generic(StateType)
def write_field(context: Any, builder: Any, sig: Any, args: Any, name: str) -> None:
    """Emits the store of a number, or the copy of an array's elements."""
    kind, given = sig.args
    field = kind.field(name)
    if kind.readonly:
        raise errors.TypingError(f"observe must not change the state, but assigns to state.{name}")
    address = _address(context, builder, kind, args[0], field)
    if field.shape:
        view = row_view(context, builder, given, field.shape, address)

        def copy(target: Any, source: Any) -> None:
            target[:] = source

        context.compile_internal(builder, copy, signature(types.void, given, given), (view, args[1]))
        return
    stored = from_dtype(field.dtype)
    pointer = builder.bitcast(address, context.get_data_type(stored).as_pointer())
    context.pack_value(builder, stored, context.cast(builder, args[1], given, stored), pointer)
