"""math: functions of one float (or three), element by element. Upstream's names and meaning."""

from __future__ import annotations

from mdsl.ir.core import Op
from mdsl.ir.declare import ELEMENTWISE, FLOAT_LIKE, INT_LIKE, PURE, SAME_TYPE, define, operand, result


class Unary(Op):
    """Base: one operand and a result of its type."""

    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$operand attr-dict `:` type($output)"
    operand = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


Exp = define(Unary, "math.exp", "e to the power of the operand.")
Exp2 = define(Unary, "math.exp2", "2 to the power of the operand.")
ExpM1 = define(Unary, "math.expm1", "exp(x) - 1, exact near 0.")
Log = define(Unary, "math.log", "Natural logarithm.")
Log2 = define(Unary, "math.log2", "Logarithm to base 2.")
Log1p = define(Unary, "math.log1p", "log(1 + x), exact near 0.")
Sqrt = define(Unary, "math.sqrt", "Square root.")
Rsqrt = define(Unary, "math.rsqrt", "1 / square root.")
Tanh = define(Unary, "math.tanh", "Hyperbolic tangent.")
Erf = define(Unary, "math.erf", "Gauss error function.")
Erfc = define(Unary, "math.erfc", "1 - erf(x), without the loss of digits above 0.")
Sin = define(Unary, "math.sin", "Sine.")
Cos = define(Unary, "math.cos", "Cosine.")
Atan = define(Unary, "math.atan", "Arc tangent.")
AbsF = define(Unary, "math.absf", "Absolute value.")
Floor = define(Unary, "math.floor", "Largest integer not above.")
Ceil = define(Unary, "math.ceil", "Smallest integer not below.")
Round = define(Unary, "math.round", "Nearest integer, halves away from zero.")
RoundEven = define(Unary, "math.roundeven", "Nearest integer, halves to even.")
AbsI = define(
    Unary, "math.absi", "Absolute value of an integer.", operand=operand(INT_LIKE), output=result(INT_LIKE)
)


class FloatBinary(Op):
    """Base: two operands and a result of one type."""

    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$lhs `,` $rhs attr-dict `:` type($output)"
    lhs = operand(FLOAT_LIKE)
    rhs = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)


PowF = define(FloatBinary, "math.powf", "lhs to the power of rhs.")
CopySign = define(FloatBinary, "math.copysign", "lhs with the sign of rhs.")


class Fma(Op):
    """a * b + c, rounded once."""

    name = "math.fma"
    traits = PURE | SAME_TYPE | ELEMENTWISE
    assembly = "$a `,` $b `,` $c attr-dict `:` type($output)"
    a = operand(FLOAT_LIKE)
    b = operand(FLOAT_LIKE)
    c = operand(FLOAT_LIKE)
    output = result(FLOAT_LIKE)
