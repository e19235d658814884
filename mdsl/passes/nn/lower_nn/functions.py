"""lower-nn: trigonometric and hyperbolic functions, rounding, remainders, bits.

What `math` has not is computed from what it has, by formulas that keep their precision where the obvious ones
cancel or overflow (Kahan, "Branch Cuts for Complex Elementary Functions", 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mdsl.dialects import arith
from mdsl.dialects import math as functions
from mdsl.ir.core import Op, Value
from mdsl.ir.types import is_float
from mdsl.passes.nn.lower_nn.build import RULES, Scalars
from mdsl.passes.nn.lower_nn.elementwise import Formula, elementwise

_LN2 = math.log(2)
_LARGE = 2.0**28
"""Beyond this x^2 + 1 is x^2, to the last bit of f64 (and its square does not overflow f32)."""


def _number(s: Scalars, x: Value, value: float, name: str | None = None) -> Value:
    return s.constant(value, x.type, name)


def _divide(s: Scalars, a: Value, b: Value, name: str = "quotient") -> Value:
    return s(arith.DivF(a, b), name)


def _subtract(s: Scalars, a: Value, b: Value, name: str = "difference") -> Value:
    return s(arith.SubF(a, b), name)


def _root(s: Scalars, x: Value) -> Value:
    return s(functions.Sqrt(x), "root")


def _magnitude(s: Scalars, x: Value) -> Value:
    return s(functions.AbsF(x), "magnitude")


def _signed(s: Scalars, magnitude: Value, x: Value, name: str) -> Value:
    return s(functions.CopySign(magnitude, x), name)


def _chosen(s: Scalars, a: Value, predicate: str, bound: float, if_true: Value, if_false: Value) -> Value:
    """`if_true` where `a` compares so with the number `bound`."""
    return s(arith.Select(s(arith.CmpF.of(predicate, a, _number(s, a, bound))), if_true, if_false), "chosen")


# Trigonometric --------------------------------------------------------------------------------------------


def _tan(op: Op, s: Scalars, x: Value) -> Value:
    return _divide(s, s(functions.Sin(x), "sine"), s(functions.Cos(x), "cosine"), "tangent")


def _asin(op: Op, s: Scalars, x: Value) -> Value:
    """atan(x / sqrt((1 - x) (1 + x)))."""
    one = _number(s, x, 1, "one")
    square = s.multiply(_subtract(s, one, x), s.add(one, x))
    return s(functions.Atan(_divide(s, x, _root(s, square))), "angle")


def _acos(op: Op, s: Scalars, x: Value) -> Value:
    """2 atan(sqrt((1 - x) / (1 + x)))."""
    one = _number(s, x, 1, "one")
    half = s(functions.Atan(_root(s, _divide(s, _subtract(s, one, x), s.add(one, x)))), "half_angle")
    return s.add(half, half, "angle")


# Hyperbolic -----------------------------------------------------------------------------------------------


def _halves(s: Scalars, magnitude: Value) -> tuple[Value, Value]:
    """e^a / 2 and e^-a / 2, by e^(a/2), which does not overflow where half of its square does not."""
    half = _number(s, magnitude, 0.5, "half")
    root = s(functions.Exp(s.multiply(magnitude, half)), "root")
    growing = s.multiply(s.multiply(root, half), root, "growing")
    return growing, _divide(s, _divide(s, half, root), root, "shrinking")


def _sinh(op: Op, s: Scalars, x: Value) -> Value:
    """(t + t / (t + 1)) / 2 with t = e^|x| - 1 near 0, where e^x - e^-x cancels."""
    magnitude = _magnitude(s, x)
    t = s(functions.ExpM1(magnitude), "t")
    fraction = _divide(s, t, s.add(t, _number(s, x, 1, "one")))
    near = s.multiply(s.add(t, fraction), _number(s, x, 0.5, "half"), "near")
    growing, shrinking = _halves(s, magnitude)
    far = _subtract(s, growing, shrinking, "far")
    return _signed(s, _chosen(s, magnitude, "olt", 1, near, far), x, "sinh")


def _cosh(op: Op, s: Scalars, x: Value) -> Value:
    return s.add(*_halves(s, _magnitude(s, x)), "cosh")


def _asinh(op: Op, s: Scalars, x: Value) -> Value:
    """log1p(a + a^2 / (1 + sqrt(a^2 + 1))) with a = |x|; ln a + ln 2 where a^2 could overflow."""
    magnitude, one = _magnitude(s, x), _number(s, x, 1, "one")
    square = s.multiply(magnitude, magnitude, "square")
    tail = _divide(s, square, s.add(one, _root(s, s.add(square, one))))
    near = s(functions.Log1p(s.add(magnitude, tail)), "near")
    far = s.add(s(functions.Log(magnitude), "log"), _number(s, x, _LN2, "ln2"), "far")
    return _signed(s, _chosen(s, magnitude, "olt", _LARGE, near, far), x, "asinh")


def _acosh(op: Op, s: Scalars, x: Value) -> Value:
    """log1p(t + sqrt(t) sqrt(t + 2)) with t = x - 1; ln x + ln 2 from where that is the same. Of two roots the first
    is NaN below the domain; the product of both signs would not be."""
    t = _subtract(s, x, _number(s, x, 1, "one"))
    root = s.multiply(_root(s, t), _root(s, s.add(t, _number(s, x, 2, "two"))))
    near = s(functions.Log1p(s.add(t, root)), "near")
    far = s.add(s(functions.Log(x), "log"), _number(s, x, _LN2, "ln2"), "far")
    return _chosen(s, x, "ult", _LARGE, near, far)


def _atanh(op: Op, s: Scalars, x: Value) -> Value:
    """log1p(2 a / (1 - a)) / 2 with a = |x|."""
    magnitude = _magnitude(s, x)
    ratio = _divide(s, s.add(magnitude, magnitude), _subtract(s, _number(s, x, 1, "one"), magnitude))
    half = s.multiply(s(functions.Log1p(ratio), "log"), _number(s, x, 0.5, "half"))
    return _signed(s, half, x, "atanh")


# Signs and remainders -------------------------------------------------------------------------------------


def _compare(s: Scalars, kind: str, a: Value, b: Value, name: str) -> Value:
    """`a` `kind` `b`, signed or ordered."""
    return s(arith.CmpF.of(f"o{kind}", a, b) if is_float(a.type) else arith.CmpI.of(f"s{kind}", a, b), name)


def _sign(op: Op, s: Scalars, x: Value) -> Value:
    """0 and NaN are their own sign."""
    zero, one, minus_one = _number(s, x, 0, "zero"), _number(s, x, 1, "one"), _number(s, x, -1, "minus_one")
    below = s(arith.Select(_compare(s, "lt", x, zero, "is_negative"), minus_one, x), "not_positive")
    return s(arith.Select(_compare(s, "gt", x, zero, "is_positive"), one, below), "sign")


def _mod(op: Op, s: Scalars, a: Value, b: Value) -> Value:
    remainder = s(arith.RemF(a, b) if is_float(a.type) else arith.RemSI(a, b), "remainder")
    if op.attr("fmod"):
        return remainder
    zero = _number(s, a, 0, "zero")
    signs = [_compare(s, "lt", v, zero, "is_negative") for v in (remainder, b)]
    differ = s(arith.XOrI(*signs), "signs_differ")
    nonzero = (
        arith.CmpF.of("one", remainder, zero) if is_float(a.type) else arith.CmpI.of("ne", remainder, zero)
    )
    moved = s(arith.AndI(differ, s(nonzero, "is_inexact")), "is_off")
    return s(arith.Select(moved, s.add(remainder, b, "moved"), remainder), "modulus")


def _shift_right(op: Op, s: Scalars, a: Value, b: Value) -> Value:
    return s(arith.ShRUI(a, b) if op.attr("logical") else arith.ShRSI(a, b), "shifted")


def _operation(kind: Callable[..., Op], name: str) -> Formula:
    return lambda op, s, *operands: s(kind(*operands), name)


EXACT: dict[str, Formula] = {
    "nn.floor": _operation(functions.Floor, "floor"),
    "nn.ceil": _operation(functions.Ceil, "ceil"),
    "nn.round": _operation(functions.RoundEven, "rounded"),
    "nn.sign": _sign,
    "nn.and": _operation(arith.AndI, "both"),
    "nn.or": _operation(arith.OrI, "either"),
    "nn.xor": _operation(arith.XOrI, "one"),
    "nn.shift_left": _operation(arith.ShLI, "shifted"),
    "nn.shift_right": _shift_right,
}
"""Computed in the element type itself."""

ROUNDED: dict[str, Formula] = {
    "nn.sin": _operation(functions.Sin, "sine"),
    "nn.cos": _operation(functions.Cos, "cosine"),
    "nn.tan": _tan,
    "nn.asin": _asin,
    "nn.acos": _acos,
    "nn.atan": _operation(functions.Atan, "angle"),
    "nn.sinh": _sinh,
    "nn.cosh": _cosh,
    "nn.asinh": _asinh,
    "nn.acosh": _acosh,
    "nn.atanh": _atanh,
    "nn.expm1": _operation(functions.ExpM1, "expm1"),
    "nn.log1p": _operation(functions.Log1p, "log1p"),
    "nn.mod": _mod,
}
"""16-bit floats are computed in f32."""

RULES.update({name: elementwise(f, widened=False) for name, f in EXACT.items()})
RULES.update({name: elementwise(f, widened=True) for name, f in ROUNDED.items()})
