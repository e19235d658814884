"""nn, element by element: trigonometric and hyperbolic functions, rounding; remainders and bits."""

from __future__ import annotations

from mdsl.dialects.nn.elementwise import Binary, NumberUnary, Unary
from mdsl.ir.declare import BOOLEAN, INT_TENSOR, WORD_TENSOR, attr, define, operand, result

Sin = define(Unary, "nn.sin", "Sine.")
Cos = define(Unary, "nn.cos", "Cosine.")
Tan = define(Unary, "nn.tan", "Tangent.")
Asin = define(Unary, "nn.asin", "Arc sine; NaN beyond -1 and 1.")
Acos = define(Unary, "nn.acos", "Arc cosine; NaN beyond -1 and 1.")
Atan = define(Unary, "nn.atan", "Arc tangent.")
Sinh = define(Unary, "nn.sinh", "Hyperbolic sine.")
Cosh = define(Unary, "nn.cosh", "Hyperbolic cosine.")
Asinh = define(Unary, "nn.asinh", "Inverse of the hyperbolic sine.")
Acosh = define(Unary, "nn.acosh", "Inverse of the hyperbolic cosine; NaN below 1.")
Atanh = define(Unary, "nn.atanh", "Inverse of the hyperbolic tangent; NaN beyond -1 and 1.")
Expm1 = define(Unary, "nn.expm1", "e^x - 1, exact near 0.")
Log1p = define(Unary, "nn.log1p", "ln(1 + x), exact near 0.")
Floor = define(Unary, "nn.floor", "Largest integer not above x.")
Ceil = define(Unary, "nn.ceil", "Smallest integer not below x.")
Round = define(Unary, "nn.round", "Nearest integer, halves to even.")
Sign = define(NumberUnary, "nn.sign", "-1, 0 or 1: the sign of x. NaN stays NaN.")


class Mod(Binary):
    """The remainder of a / b, broadcasting, with the sign of b, or with `fmod` (C's function) that of a.

    Where b is 0 it is NaN for floats, 0 for integers.
    """

    name = "nn.mod"
    fmod = attr(BOOLEAN, default=False)


class Bitwise(Binary):
    """Base of ops on the bits of integers, or on truth values."""

    a = operand(INT_TENSOR)
    b = operand(INT_TENSOR)
    y = result(INT_TENSOR)


And = define(Bitwise, "nn.and", "The bits, or truth values, that both a and b have; broadcasting.")
Or = define(Bitwise, "nn.or", "The bits, or truth values, that a or b has; broadcasting.")
Xor = define(Bitwise, "nn.xor", "The bits, or truth values, that just one of a and b has; broadcasting.")


class Shift(Bitwise):
    """Base of ops that move bits: a truth value has no places to move by."""

    a = operand(WORD_TENSOR)
    b = operand(WORD_TENSOR)
    y = result(WORD_TENSOR)


ShiftLeft = define(
    Shift,
    "nn.shift_left",
    "The bits of a moved up by b places, broadcasting; 0 where b is not below the width.",
)


class ShiftRight(Shift):
    """The bits of a moved down by b places, broadcasting; the sign moves in, or with `logical` zeros."""

    name = "nn.shift_right"
    logical = attr(BOOLEAN, default=False)
