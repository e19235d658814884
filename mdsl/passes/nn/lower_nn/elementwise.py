"""lower-nn: elementwise ops, each one loop nest whose body is the op's formula."""

from __future__ import annotations

import math
from collections.abc import Callable

from mdsl.dialects import arith, math_ext, nn
from mdsl.dialects import math as functions
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import FloatType, IndexType, IntegerType, Type, i1, i64, index, is_float, wide
from mdsl.passes.nn.lower_nn.build import RULES, Emitter, Scalars, lowers

Formula = Callable[..., Value]
"""`f(op, scalars, *elements)`, the result's element."""


def elementwise(formula: Formula, widened: bool) -> Callable[[Emitter, Op], Value]:
    """The rule of an op that is `formula` of its operands' elements, computed in a wide type if `widened`."""

    def rule(e: Emitter, op: Op) -> Value:
        result = tensor_of(op.result)

        def body(s: Scalars, *elements: Value) -> Value:
            if not widened:
                return formula(op, s, *elements)
            return s.narrow(formula(op, s, *map(s.widen, elements)), result.element)

        return e.map([e.broadcast(v, result.shape) for v in op.operands], result.shape, result.element, body)

    return rule


# One operand ----------------------------------------------------------------------------------------------


def _relu(op: Op, s: Scalars, x: Value) -> Value:
    return s.maximum(x, s.constant(0, x.type, "zero"), "positive")


def _leaky_relu(op: Op, s: Scalars, x: Value) -> Value:
    positive = s(arith.CmpF.of("oge", x, s.constant(0, x.type, "zero")), "is_positive")
    scaled = s.multiply(x, s.constant(op.attr("alpha"), x.type, "alpha"), "scaled")
    return s(arith.Select(positive, x, scaled), "leaky")


def _clip(op: Op, s: Scalars, x: Value) -> Value:
    low, high = op.attr("min"), op.attr("max")
    if low is not None:
        x = s.maximum(x, s.constant(low, x.type, "min"), "above")
    return x if high is None else s.minimum(x, s.constant(high, x.type, "max"), "clipped")


def _sigmoid(op: Op, s: Scalars, x: Value) -> Value:
    one = s.constant(1, x.type, "one")
    power = s(functions.Exp(s(arith.NegF(x), "negated")), "exp")
    return s(arith.DivF(one, s.add(one, power)), "sigmoid")


def _gelu(op: Op, s: Scalars, x: Value) -> Value:
    """By tanh, whose argument y has 1 + tanh y = 2 / (1 + exp(-2 y)): x / (1 + exp(-2 y))."""
    if op.attr("approximate") == "tanh":
        rate = -2 * math.sqrt(2 / math.pi)
        square = s.multiply(x, x, "square")
        bend = s.multiply(square, s.constant(0.044715 * rate, x.type), "bend")
        inner = s.multiply(x, s.add(bend, s.constant(rate, x.type, "rate")), "inner")
        return s(arith.DivF(x, s.add(s.constant(1, x.type, "one"), s(functions.Exp(inner), "exp"))), "gelu")
    return s(math_ext.Gelu(x), "gelu")


def _negate(op: Op, s: Scalars, x: Value) -> Value:
    if is_float(x.type):
        return s(arith.NegF(x), "negated")
    return s(arith.SubI(s.constant(0, x.type, "zero"), x), "negated")


def _absolute(op: Op, s: Scalars, x: Value) -> Value:
    return s(functions.AbsF(x) if is_float(x.type) else functions.AbsI(x), "absolute")


def _function(kind: Callable[[Value], Op], name: str) -> Formula:
    return lambda op, s, x: s(kind(x), name)


# Two operands ---------------------------------------------------------------------------------------------


def _arithmetic(
    floats: Callable[[Value, Value], Op], integers: Callable[[Value, Value], Op], name: str
) -> Formula:
    return lambda op, s, a, b: s((floats if is_float(a.type) else integers)(a, b), name)


def _compare(op: Op, s: Scalars, a: Value, b: Value) -> Value:
    kind = op.attr("kind")
    if is_float(a.type):
        return s(arith.CmpF.of(f"{'u' if kind == 'ne' else 'o'}{kind}", a, b), "holds")
    return s(arith.CmpI.of(kind if kind in ("eq", "ne") else f"s{kind}", a, b), "holds")


EXACT: dict[str, Formula] = {
    "nn.relu": _relu,
    "nn.clip": _clip,
    "nn.neg": _negate,
    "nn.abs": _absolute,
    "nn.add": _arithmetic(arith.AddF, arith.AddI, "sum"),
    "nn.sub": _arithmetic(arith.SubF, arith.SubI, "difference"),
    "nn.mul": _arithmetic(arith.MulF, arith.MulI, "product"),
    "nn.div": _arithmetic(arith.DivF, arith.DivSI, "quotient"),
    "nn.maximum": lambda op, s, a, b: s.maximum(a, b),
    "nn.minimum": lambda op, s, a, b: s.minimum(a, b),
    "nn.compare": _compare,
    "nn.select": lambda op, s, cond, a, b: s(arith.Select(cond, a, b), "chosen"),
}
"""One rounding at most: computed in the element type itself."""

ROUNDED: dict[str, Formula] = {
    "nn.leaky_relu": _leaky_relu,
    "nn.sigmoid": _sigmoid,
    "nn.tanh": _function(functions.Tanh, "tanh"),
    "nn.gelu": _gelu,
    "nn.erf": _function(functions.Erf, "erf"),
    "nn.exp": _function(functions.Exp, "exp"),
    "nn.log": _function(functions.Log, "log"),
    "nn.sqrt": _function(functions.Sqrt, "root"),
    "nn.pow": lambda op, s, a, b: s(functions.PowF(a, b), "power"),
}
"""Several roundings: 16-bit floats are computed in f32."""

RULES.update({name: elementwise(f, widened=False) for name, f in EXACT.items()})
RULES.update({name: elementwise(f, widened=True) for name, f in ROUNDED.items()})


# Conversion -----------------------------------------------------------------------------------------------


@lowers("nn.cast")
def cast(e: Emitter, op: nn.Cast) -> Value:
    result = tensor_of(op.result)
    if op.operands[0].type == result:
        return op.operands[0]
    reads = [e.broadcast(op.operands[0], result.shape)]
    return e.map(reads, result.shape, result.element, lambda s, x: converted(s, x, result.element))


@lowers("nn.broadcast")
def broadcast(e: Emitter, op: nn.Broadcast) -> Value:
    result = tensor_of(op.result)
    if op.operands[0].type == result:
        return op.operands[0]
    return e.map([e.broadcast(op.operands[0], result.shape)], result.shape, result.element, lambda s, x: x)


def converted(s: Scalars, x: Value, target: Type) -> Value:
    """`x` as a `target`, by nn.cast's rules."""
    source = x.type
    if source == target:
        return x
    if target == i1:
        zero = s.constant(0, source, "zero")
        return s(
            arith.CmpF.of("une", x, zero) if is_float(source) else arith.CmpI.of("ne", x, zero), "is_set"
        )
    if isinstance(source, FloatType):
        return _from_float(s, x, target)
    if isinstance(target, FloatType):
        x = converted(s, x, i64) if isinstance(source, IndexType) else x
        return s((arith.UIToFP if source == i1 else arith.SIToFP)(x, results=[target]), "converted")
    if isinstance(target, IndexType) and source == i1:
        x = converted(s, x, i64)
    if IndexType in (type(source), type(target)):
        return s(arith.IndexCast(x, results=[target]), "converted")
    assert isinstance(source, IntegerType) and isinstance(target, IntegerType)
    wider = arith.ExtUI if source == i1 else arith.ExtSI
    return s((wider if target.width > source.width else arith.TruncI)(x, results=[target]), "converted")


def _from_float(s: Scalars, x: Value, target: Type) -> Value:
    if target == index:
        return converted(s, converted(s, x, i64), index)
    if not isinstance(target, FloatType):
        return s(arith.FPToSI(x, results=[target]), "converted")
    bits = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64}
    if bits[str(target)] == bits[str(x.type)]:  # between f16 and bf16
        x = s(arith.ExtF(x, results=[wide(x.type)]), "wide")
    widens = bits[str(target)] > bits[str(x.type)]
    return s((arith.ExtF if widens else arith.TruncF)(x, results=[target]), "converted")
