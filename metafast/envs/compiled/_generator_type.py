"""The Numba type of `rng` in a user's functions: _generator.py's numbers, compiled in place.

Its value holds the counters and the address of the number of draws so far, a local variable of the caller that
disappears in optimisation where the draws are in straight line.
"""

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.extending import intrinsic, overload, overload_method, register_model

from metafast.envs import math as vector_math
from metafast.envs.compiled._widening import WideningCompiler

__all__ = ["COMPILE_OPTIONS", "GeneratorType", "as_it_is", "generator_type", "make_generator"]

COMPILE_OPTIONS = {
    "error_model": "numpy",
    "boundscheck": True,
    "forceinline": True,
    "pipeline_class": WideningCompiler,
}

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class GeneratorType(types.Type):
    """`rng`."""

    def __init__(self) -> None:
        super().__init__(name="rng")


generator_type = GeneratorType()


@register_model(GeneratorType)
class GeneratorModel(models.StructModel):
    """Seed, episode, step and where the number of draws is."""

    def __init__(self, manager: Any, kind: GeneratorType) -> None:
        members = [
            ("seed", types.uint64),
            ("episode", types.uint64),
            ("step", types.uint32),
            ("draws", types.CPointer(types.uint32)),
        ]
        super().__init__(manager, kind, members)


def make_generator(context: Any, builder: Any, seed: Any, episode: Any, step: Any, draws: Any) -> Any:
    """The value of a generator that has drawn nothing; `draws` is memory for a 32-bit number."""
    generator = cgutils.create_struct_proxy(generator_type)(context, builder)
    generator.seed, generator.episode, generator.step, generator.draws = seed, episode, step, draws
    builder.store(ir.Constant(_I32, 0), draws)
    return generator._getvalue()


def _emit_philox(builder: Any, counter: list[Any], key: list[Any]) -> list[Any]:
    """csrc/common/philox.hpp on 32-bit values."""
    c0, c1, c2, c3 = counter
    k0, k1 = key

    def product(constant: int, factor: Any) -> tuple[Any, Any]:
        wide = builder.mul(ir.Constant(_I64, constant), builder.zext(factor, _I64))
        return builder.trunc(builder.lshr(wide, ir.Constant(_I64, 32)), _I32), builder.trunc(wide, _I32)

    for _ in range(10):
        high0, low0 = product(0xD2511F53, c0)
        high1, low1 = product(0xCD9E8D57, c2)
        c0, c1 = builder.xor(builder.xor(high1, c1), k0), low1
        c2, c3 = builder.xor(builder.xor(high0, c3), k1), low0
        k0 = builder.add(k0, ir.Constant(_I32, 0x9E3779B9))
        k1 = builder.add(k1, ir.Constant(_I32, 0xBB67AE85))
    return [c0, c1, c2, c3]


def _emit_uniform(builder: Any, high: Any, low: Any) -> Any:
    upper = builder.sitofp(builder.lshr(high, ir.Constant(_I32, 5)), ir.DoubleType())
    lower = builder.sitofp(builder.lshr(low, ir.Constant(_I32, 6)), ir.DoubleType())
    whole = builder.fadd(builder.fmul(upper, ir.Constant(ir.DoubleType(), 67108864.0)), lower)
    return builder.fmul(whole, ir.Constant(ir.DoubleType(), 2.0**-53))


@intrinsic
def _draw(typing_context: Any, rng: Any) -> Any:
    signature = types.UniTuple(types.float64, 2)(rng)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        generator = cgutils.create_struct_proxy(generator_type)(context, builder, value=args[0])

        def halves(word: Any) -> list[Any]:
            return [
                builder.trunc(word, _I32),
                builder.trunc(builder.lshr(word, ir.Constant(_I64, 32)), _I32),
            ]

        block = builder.load(generator.draws)
        builder.store(builder.add(block, ir.Constant(_I32, 1)), generator.draws)
        counter = [*halves(generator.episode), block, generator.step]
        words = _emit_philox(builder, counter, halves(generator.seed))
        pair = [_emit_uniform(builder, words[0], words[1]), _emit_uniform(builder, words[2], words[3])]
        return context.make_tuple(builder, sig.return_type, pair)

    return signature, emit


@intrinsic
def _bits_of(typing_context: Any, x: Any) -> Any:
    return types.int64(types.float64), lambda context, builder, sig, args: builder.bitcast(args[0], _I64)


@intrinsic
def _number_of(typing_context: Any, bits: Any) -> Any:
    return types.float64(types.int64), lambda context, builder, sig, args: builder.bitcast(args[0], ir.DoubleType())


def _method(name: str) -> Any:
    return overload_method(GeneratorType, name, jit_options=COMPILE_OPTIONS)


@_method("random")
def _random(rng: Any) -> Any:
    def random(rng: Any) -> Any:
        return _draw(rng)[0]

    return random


@_method("uniform")
def _uniform(rng: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
    def uniform(rng: Any, low: Any = 0.0, high: Any = 1.0) -> Any:
        return low + (high - low) * _draw(rng)[0]

    return uniform


@_method("normal")
def _normal(rng: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
    def normal(rng: Any, mean: Any = 0.0, std: Any = 1.0) -> Any:
        first, second = _draw(rng)
        radius = math.sqrt(-2.0 * vector_math.log(1.0 - first))
        return mean + std * (radius * vector_math.cos(6.283185307179586 * second))

    return normal


@_method("integers")
def _integers(rng: Any, low: Any, high: Any) -> Any:
    def integers(rng: Any, low: Any, high: Any) -> Any:
        if high <= low:
            raise ValueError("rng.integers(low, high) needs low < high")
        return low + int((high - low) * _draw(rng)[0])

    return integers


def _register_vector_math() -> None:
    overload(vector_math._bits_of)(lambda x: lambda x: _bits_of(x))
    overload(vector_math._number_of)(lambda bits: lambda bits: _number_of(bits))
    for name, function in vars(vector_math).items():
        if callable(function) and name not in ("_bits_of", "_number_of") and hasattr(function, "__code__"):
            overload(function, jit_options=COMPILE_OPTIONS, strict=False)(as_it_is(function))


def as_it_is(function: Any) -> Any:
    """What `overload` takes for a plain function that compiles as it stands."""
    return lambda *args, **kwargs: function


_register_vector_math()
