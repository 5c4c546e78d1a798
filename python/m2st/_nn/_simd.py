"""Eight numbers at a time in numba.

The loops of the attention layer run over 8 to 64 numbers of a row or over a handful of heads,
within loops over edges. LLVM does not vectorise them: it cannot know that rows do not overlap, and
keeps each sum in memory. Here is one value type, eight numbers, to write such loops with: sums stay
in registers and in one fixed order. LLVM turns it into whatever vectors the processor has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
"""Numbers in a vector."""

_intrinsic: Any = intrinsic  # its result takes one argument less than it is declared with

_INT32 = ir.IntType(32)


class Vector(types.Type):
    """Numba's type of eight numbers of type `dtype`."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        number = manager.lookup(kind.dtype).get_value_type()
        vector = ir.VectorType(number, LANES)
        super().__init__(manager, kind, vector)  # type: ignore[no-untyped-call]


def _number(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Pointer to the number at a place of a flat contiguous array."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


def _place(context: Any, builder: Any, kind: Any, array: Any, start: Any) -> Any:
    """Pointer to the vector in a flat contiguous array from position `start` on."""
    vector = context.get_value_type(Vector(kind.dtype)).as_pointer()
    return builder.bitcast(_number(context, builder, kind, array, start), vector)


def _spread(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT32, 0))
    places = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, places)


def _rounded(builder: Any, vector: Any) -> Any:
    """Whole numbers closest to those of a vector, by an instruction of LLVM."""
    name = f"llvm.rint.v{LANES}f{32 if isinstance(vector.type.element, ir.FloatType) else 64}"
    kind = ir.FunctionType(vector.type, [vector.type])
    function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, kind, name
    )
    return builder.call(function, [vector])


@_intrinsic  # type: ignore[untyped-decorator]
def load(typing: Any, array: Any, start: Any) -> Any:
    """The vector ``array[start : start + 8]`` of a flat contiguous array, bounds unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = builder.load(_place(context, builder, signature.args[0], *arguments))
        vector.align = signature.args[0].dtype.bitwidth // 8
        return vector

    return Vector(array.dtype)(array, types.intp), generate


@_intrinsic  # type: ignore[untyped-decorator]
def store(typing: Any, array: Any, start: Any, vector: Any) -> Any:
    """Write ``array[start : start + 8] = vector``, bounds unchecked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place).align = signature.args[0].dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@_intrinsic  # type: ignore[untyped-decorator]
def spread(typing: Any, array: Any, number: Any) -> Any:
    """One number in all places, of the type of the array's."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[1])

    return Vector(array.dtype)(array, array.dtype), generate


@_intrinsic  # type: ignore[untyped-decorator]
def number(typing: Any, array: Any, place: Any) -> Any:
    """The number at a place of a flat contiguous array, bounds unchecked, from the start alone."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_number(context, builder, signature.args[0], *arguments))

    return array.dtype(array, types.intp), generate


def _binary(name: str, operation: Callable[[Any, Any, Any], Any]) -> Any:
    def function(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return operation(builder, *arguments)

        return left(left, left), generate

    function.__name__ = function.__qualname__ = name
    return _intrinsic(function)


# `contract` lets a product and a sum become one instruction.
add = _binary("add", lambda builder, a, b: builder.fadd(a, b, flags=("contract",)))
subtract = _binary("subtract", lambda builder, a, b: builder.fsub(a, b, flags=("contract",)))
multiply = _binary("multiply", lambda builder, a, b: builder.fmul(a, b, flags=("contract",)))
divide = _binary("divide", lambda builder, a, b: builder.fdiv(a, b))
maximum = _binary(
    "maximum", lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b)
)


@_intrinsic  # type: ignore[untyped-decorator]
def where_positive(typing: Any, vector: Any, left: Any, right: Any) -> Any:
    """`left` where `vector` is above 0, else `right`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, left, right = arguments
        zeros = ir.Constant(vector.type, [0.0] * LANES)
        positive = builder.fcmp_ordered(">", vector, zeros)
        return builder.select(positive, left, right)

    return vector(vector, vector, vector), generate


@_intrinsic  # type: ignore[untyped-decorator]
def exp(typing: Any, vector: Any) -> Any:
    """Exponentials of numbers up to 0, to the last digit but one.

    2ⁿ exp(r) with n whole and |r| ≤ log(2) / 2, and exp(r) from its Taylor series.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (x,) = arguments
        single = signature.args[0].dtype.bitwidth == 32
        # Terms of the series, digits and bias of the exponent.
        terms, digits, bias = (8, 23, 127) if single else (14, 52, 1023)
        # log(2) in two parts; the first has so few digits that n times it is exact.
        high, low = 45426 / 65536, 1.42860682030941723212e-6
        whole = ir.VectorType(ir.IntType(32 if single else 64), LANES)

        def constant(value: float) -> Any:
            return ir.Constant(x.type, [value] * LANES)

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))

        smallest = constant((1 - bias) * math.log(2))
        x = builder.select(builder.fcmp_ordered("<", x, smallest), smallest, x)
        n = _rounded(builder, builder.fmul(x, constant(1 / math.log(2))))
        r = fused(n, constant(-low), fused(n, constant(-high), x))
        result = constant(1 / math.factorial(terms - 1))
        for term in reversed(range(terms - 1)):
            result = fused(result, r, constant(1 / math.factorial(term)))
        exponent = builder.add(builder.fptosi(n, whole), ir.Constant(whole, [bias] * LANES))
        power = builder.shl(exponent, ir.Constant(whole, [digits] * LANES))
        return builder.fmul(result, builder.bitcast(power, x.type))

    return vector(vector), generate


def _shuffled(name: str, first: list[int], second: list[int], doc: str) -> Any:
    """Sum of two selections from the sixteen numbers of two vectors."""

    def function(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            left, right = (
                builder.shuffle_vector(
                    *arguments, ir.Constant(ir.VectorType(_INT32, LANES), places)
                )
                for places in (first, second)
            )
            return builder.fadd(left, right)

        return left(left, left), generate

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return _intrinsic(function)


# Twice `fold` and once `join` makes the sums of up to four vectors, the first four numbers of one.
fold = _shuffled(
    "fold",
    [0, 2, 8, 10, 4, 6, 12, 14],
    [1, 3, 9, 11, 5, 7, 13, 15],
    "Sums of neighbours, those of both vectors' first halves before those of the second.",
)
join = _shuffled(
    "join",
    [0, 1, 2, 3, 8, 9, 10, 11],
    [4, 5, 6, 7, 12, 13, 14, 15],
    "Sums of both halves, the first vector's before the second's.",
)
