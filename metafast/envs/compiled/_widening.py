"""Elements of arrays are read as float64 and int64, as numbers of the state are.

By themselves Numba's rules would take the difference of two uint8 elements for a uint64: 1 - 2 would be 2^64 - 1.
"""

from typing import Any

from numba.core import compiler, compiler_machinery, ir, ir_utils, types, untyped_passes
from numba.core.extending import intrinsic
from numba.core.imputils import impl_ret_borrowed

__all__ = ["WideningCompiler"]


@intrinsic
def _widened(typing_context: Any, value: Any) -> Any:
    """A number of less than 64 bits as float64 or int64; anything else as it is."""
    result = types.unliteral(value)
    if isinstance(value, types.Integer) and value.bitwidth < 64:
        result = types.int64
    elif value == types.float32:
        result = types.float64

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if sig.return_type == sig.args[0]:
            return impl_ret_borrowed(context, builder, sig.return_type, args[0])
        return context.cast(builder, args[0], sig.args[0], sig.return_type)

    return result(value), emit


def _gives_element(value: Any) -> bool:
    if not isinstance(value, ir.Expr):
        return False
    if value.op == "static_getitem":
        index = value.index if isinstance(value.index, tuple) else (value.index,)
        return not any(isinstance(part, slice) for part in index)
    return value.op in ("getitem", "pair_first")


@compiler_machinery.register_pass(mutates_CFG=False, analysis_only=False)
class WidenElements(compiler_machinery.FunctionPass):
    """``x = array[i]`` becomes ``x = _widened(array[i])``, before types are known."""

    _name = "metafast_widen_elements"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        """Change the instructions of `state.func_ir`."""
        for block in state.func_ir.blocks.values():
            body = []
            for statement in block.body:
                if not (isinstance(statement, ir.Assign) and _gives_element(statement.value)):
                    body.append(statement)
                    continue
                scope, loc = block.scope, statement.loc
                element, function = (scope.redefine(name, loc, rename=True) for name in ("$element", "$widened"))
                body += [
                    ir.Assign(statement.value, element, loc),
                    ir.Assign(ir.Global("_widened", _widened, loc), function, loc),
                    ir.Assign(ir.Expr.call(function, [element], (), loc), statement.target, loc),
                ]
            block.body = body
        state.func_ir._definitions = ir_utils.build_definitions(state.func_ir.blocks)
        return True


class WideningCompiler(compiler.CompilerBase):
    """Numba's own passes, and that one."""

    def define_pipelines(self) -> list[Any]:
        """The passes in order."""
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(WidenElements, untyped_passes.FindLiterallyCalls)
        passes.finalize()
        return [passes]
