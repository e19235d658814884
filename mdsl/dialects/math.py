"""math: functions of one float (or three), element by element. Upstream's names and meaning."""

from __future__ import annotations

from mdsl.ir.core import Op
from mdsl.ir.declare import ELEMENTWISE, FLOAT_LIKE, INT_LIKE, PURE, SAME_TYPE, operand, result


class Unary(Op):
    """Base: one operand and a result of its type."""

    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$operand attr-dict `:` type($output)"
    operand = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


def _unary(name: str, doc: str) -> type[Unary]:
    return type(name.split(".")[1].title(), (Unary,), {"name": name, "__doc__": doc, "__module__": __name__})


Exp = _unary("math.exp", "e to the power of the operand.")
Exp2 = _unary("math.exp2", "2 to the power of the operand.")
ExpM1 = _unary("math.expm1", "exp(x) - 1, exact near 0.")
Log = _unary("math.log", "Natural logarithm.")
Log2 = _unary("math.log2", "Logarithm to base 2.")
Log1p = _unary("math.log1p", "log(1 + x), exact near 0.")
Sqrt = _unary("math.sqrt", "Square root.")
Rsqrt = _unary("math.rsqrt", "1 / square root.")
Tanh = _unary("math.tanh", "Hyperbolic tangent.")
Erf = _unary("math.erf", "Gauss error function.")
Sin = _unary("math.sin", "Sine.")
Cos = _unary("math.cos", "Cosine.")
Atan = _unary("math.atan", "Arc tangent.")
AbsF = _unary("math.absf", "Absolute value.")
Floor = _unary("math.floor", "Largest integer not above.")
Ceil = _unary("math.ceil", "Smallest integer not below.")
Round = _unary("math.round", "Nearest integer, halves away from zero.")
RoundEven = _unary("math.roundeven", "Nearest integer, halves to even.")


class AbsI(Op):
    """Absolute value of an integer."""

    name = "math.absi"
    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$operand attr-dict `:` type($output)"
    operand = operand(INT_LIKE)
    output = result(INT_LIKE)


class FloatBinary(Op):
    """Base: two operands and a result of one type."""

    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$lhs `,` $rhs attr-dict `:` type($output)"
    lhs = operand(FLOAT_LIKE)
    rhs = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


class PowF(FloatBinary):
    """lhs to the power of rhs."""

    name = "math.powf"


class CopySign(FloatBinary):
    """lhs with the sign of rhs."""

    name = "math.copysign"


class Fma(Op):
    """a * b + c, rounded once."""

    name = "math.fma"
    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$a `,` $b `,` $c attr-dict `:` type($output)"
    a = operand(FLOAT_LIKE)
    b = operand(FLOAT_LIKE)
    c = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)
