"""Sixteen numbers as one value inside compiled kernels: a SIMD type for Numba.

A kernel reads like a formula on scalars and every operation on `Lanes` becomes one vector
instruction (two or four where registers are narrower), in every build and on every processor;
nothing depends on what an auto-vectoriser makes of a loop. Rounding is that of IEEE arithmetic with
fused multiply-adds, so results do not depend on how work is spread over threads.
"""

from __future__ import annotations

import operator
from math import factorial, pi
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from qgraft.simulate.compiled import internal

LANES = 16
vector_function: Any = intrinsic  # its first argument is Numba's, not the caller's
FUSED = ("contract",)


class Lanes(types.Type):
    """Sixteen numbers of one floating-point type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Lanes) -> None:
        scalar = manager.lookup(fe_type.dtype).get_value_type()
        super().__init__(manager, fe_type, ir.VectorType(scalar, LANES))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, start: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    vector = context.get_value_type(Lanes(array_type.dtype))
    return builder.bitcast(builder.gep(data, [start]), vector.as_pointer())


def _reader(unit: int) -> Any:
    @vector_function
    def read(_: Any, array: Any, start: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.mul(args[1], ir.Constant(args[1].type, unit))
            pointer = _pointer(context, builder, signature.args[0], args[0], at)
            return builder.load(pointer, align=signature.args[0].dtype.bitwidth // 8)

        return Lanes(array.dtype)(array, types.intp), generate

    return read


def _writer(unit: int) -> Any:
    @vector_function
    def write(_: Any, array: Any, start: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = builder.mul(args[1], ir.Constant(args[1].type, unit))
            pointer = _pointer(context, builder, signature.args[0], args[0], at)
            builder.store(args[2], pointer, align=signature.args[0].dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(array, types.intp, value), generate

    return write


# load(array, row) and store(array, row, value) count in rows of sixteen, the others in numbers;
# arrays are contiguous
load, store = _reader(LANES), _writer(LANES)
load_from, store_to = _reader(1), _writer(1)


@vector_function
def splat(_: Any, array: Any, number: Any) -> Any:
    """Return sixteen copies of `number`, of the type of the array's entries."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(signature.return_type)
        scalar = context.cast(builder, args[1], signature.args[1], signature.args[0].dtype)
        first = builder.insert_element(
            ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)

    return Lanes(array.dtype)(array, number), generate


@vector_function
def total(_: Any, value: Any) -> Any:
    """Return the sum of the sixteen numbers as float64, always in the same order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part, count = args[0], LANES
        while count > 1:
            count //= 2
            halves = [
                builder.shuffle_vector(
                    part,
                    ir.Constant(part.type, ir.Undefined),
                    ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(at, at + count))),
                )
                for at in (0, count)
            ]
            part = builder.fadd(*halves)
        number = builder.extract_element(part, ir.Constant(ir.IntType(32), 0))
        return context.cast(builder, number, signature.args[0].dtype, types.float64)

    return types.float64(value), generate


def _elementwise(operation: str) -> Any:
    @vector_function
    def apply(_: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            vector, bits = args[0].type, signature.args[0].dtype.bitwidth
            kind = ir.FunctionType(vector, [vector])
            name = f"llvm.{operation}.v{LANES}f{bits}"
            return builder.call(builder.module.declare_intrinsic(name, (), kind), [args[0]])

        return value(value), generate

    return apply


nearest = _elementwise("rint")
root = _elementwise("sqrt")


def _arithmetic(function: Any, instruction: str) -> None:
    @vector_function
    def combine(_: Any, first: Any, second: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=FUSED)

        return first(first, second), generate

    @overload(function)
    def of_lanes(first, second):
        if isinstance(first, Lanes) and first == second:
            return lambda first, second: combine(first, second)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")

SINE = np.array([(-1.0) ** k / factorial(2 * k + 1) for k in range(12)])
COSINE = np.array([(-1.0) ** k / factorial(2 * k) for k in range(12)])
# pi in parts short enough that small multiples of the first ones are exact
PI_32 = np.array([3.140625, 0.0009670257568359375, 6.277114152908325e-07])
PI_64 = np.array([3.1415926218032837, 3.178650942459171e-08, 1.2246467864107189e-16])


@internal
def _polynomial(like, square, coefficients, terms):
    value = splat(like, coefficients[terms - 1])
    for k in range(terms - 2, -1, -1):
        value = value * square + splat(like, coefficients[k])
    return value


@internal
def cosine_sine(like, angle):
    """Return cosine and sine of numbers up to 10,000, to the last digits of `like`'s type."""
    pi_parts, terms = (PI_32, 8) if like.itemsize == 4 else (PI_64, 12)
    half_turns = nearest(angle * splat(like, 1 / pi))
    rest = angle - half_turns * splat(like, pi_parts[0])
    rest = rest - half_turns * splat(like, pi_parts[1])
    rest = rest - half_turns * splat(like, pi_parts[2])
    square = rest * rest
    # the sign of an odd number of half turns: 1 - 2 (h mod 2), with h mod 2 in -1, 0, 1
    odd = half_turns - splat(like, 2.0) * nearest(half_turns * splat(like, 0.5))
    sign = splat(like, 1.0) - splat(like, 2.0) * odd * odd
    cosine = sign * _polynomial(like, square, COSINE, terms)
    sine = sign * rest * _polynomial(like, square, SINE, terms)
    return cosine, sine
