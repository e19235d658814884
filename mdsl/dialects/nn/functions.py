"""nn, element by element: trigonometric and hyperbolic functions, rounding; remainders and bits."""

from __future__ import annotations

from mdsl.dialects.nn.base import NUMBER_TENSOR
from mdsl.dialects.nn.elementwise import Binary, Unary
from mdsl.ir.declare import BOOLEAN, INT_TENSOR, attr, operand, result


def _unary(name: str, doc: str) -> type[Unary]:
    return type(name.split(".")[1].title(), (Unary,), {"name": name, "__doc__": doc, "__module__": __name__})


Sin = _unary("nn.sin", "Sine.")
Cos = _unary("nn.cos", "Cosine.")
Tan = _unary("nn.tan", "Tangent.")
Asin = _unary("nn.asin", "Arc sine; NaN beyond -1 and 1.")
Acos = _unary("nn.acos", "Arc cosine; NaN beyond -1 and 1.")
Atan = _unary("nn.atan", "Arc tangent.")
Sinh = _unary("nn.sinh", "Hyperbolic sine.")
Cosh = _unary("nn.cosh", "Hyperbolic cosine.")
Asinh = _unary("nn.asinh", "Inverse of the hyperbolic sine.")
Acosh = _unary("nn.acosh", "Inverse of the hyperbolic cosine; NaN below 1.")
Atanh = _unary("nn.atanh", "Inverse of the hyperbolic tangent; NaN beyond -1 and 1.")
Expm1 = _unary("nn.expm1", "e^x - 1, exact near 0.")
Log1p = _unary("nn.log1p", "ln(1 + x), exact near 0.")
Floor = _unary("nn.floor", "Largest integer not above x.")
Ceil = _unary("nn.ceil", "Smallest integer not below x.")
Round = _unary("nn.round", "Nearest integer, halves to even.")


class Sign(Unary):
    """-1, 0 or 1: the sign of x. NaN stays NaN."""

    name = "nn.sign"
    x = operand(NUMBER_TENSOR)
    y = result(NUMBER_TENSOR)


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


class And(Bitwise):
    """The bits, or truth values, that both a and b have; broadcasting."""

    name = "nn.and"


class Or(Bitwise):
    """The bits, or truth values, that a or b has; broadcasting."""

    name = "nn.or"


class Xor(Bitwise):
    """The bits, or truth values, that just one of a and b has; broadcasting."""

    name = "nn.xor"


class ShiftLeft(Bitwise):
    """The bits of a moved up by b places, broadcasting; 0 where b is not below the width."""

    name = "nn.shift_left"


class ShiftRight(Bitwise):
    """The bits of a moved down by b places, broadcasting; the sign moves in, or with `logical` zeros."""

    name = "nn.shift_right"
    logical = attr(BOOLEAN, default=False)
