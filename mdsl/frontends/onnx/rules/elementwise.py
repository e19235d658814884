"""Rules for operators that work element by element."""

from __future__ import annotations

from functools import reduce
from math import inf

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.activations import OPERATORS
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.tensors import element_type
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import FloatType, dtype_of, f32, f64, is_float

# One operand ----------------------------------------------------------------------------------------------

_UNARY: dict[str, type[Op]] = {
    "Erf": nn.Erf, "Exp": nn.Exp, "Log": nn.Log,
    "Sqrt": nn.Sqrt, "Neg": nn.Neg, "Abs": nn.Abs, "Sin": nn.Sin, "Cos": nn.Cos, "Tan": nn.Tan,
    "Asin": nn.Asin, "Acos": nn.Acos, "Atan": nn.Atan, "Sinh": nn.Sinh, "Cosh": nn.Cosh, "Asinh": nn.Asinh,
    "Acosh": nn.Acosh, "Atanh": nn.Atanh, "Floor": nn.Floor, "Ceil": nn.Ceil, "Round": nn.Round, "Sign": nn.Sign,
}  # fmt: skip


@converts(*_UNARY)
def unary(node: Node) -> Value:
    return node.build(_UNARY[node.op_type](node.operand(0)))


@converts(*OPERATORS)
def function(node: Node) -> Value:
    found = OPERATORS[node.op_type]
    parameters = {name: node.attr(name, default) for name, default in found.defaults.items()}
    return found.build(node.expr(0), **parameters).value


@converts("IsInf")
def is_inf(node: Node) -> Value:
    x = node.expr(0)
    positive, negative = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    if not positive and not negative:
        return (x < x).value
    source = abs(x) if positive and negative else x
    return source.is_("eq", inf if positive else -inf).value


@converts("PRelu")
def prelu(node: Node) -> Value:
    x, slope = node.expr(0), node.expr(1)
    if node.version < 7 and slope.type.rank == 1:  # one slope a channel
        slope = slope.reshape([*slope.shape, *[1] * (x.type.rank - 2)])
    return x.where(x >= 0, x * slope).value


@converts("Clip")
def clip(node: Node) -> Value:
    """Bounds as attributes before opset 11, as optional scalars since."""
    x = node.operand(0)
    if node.version < 11:
        low, high = node.attr("min"), node.attr("max")
        return node.build(nn.Clip(x, min=low, max=high)) if (low, high) != (None, None) else x
    bounds = [node.input(1), node.input(2)]
    known = [None if b is None else node.constant(b) for b in bounds]
    # A bound must be a number that prints exactly; NaN bounds nothing, and a pair out of order is min's
    # business: ONNX defines it as min(max(x, low), high).
    if all(
        b is None or (k is not None and k.size == 1 and _plain(k)) for b, k in zip(bounds, known, strict=True)
    ):
        low, high = (None if k is None else k.reshape(-1)[0].item() for k in known)
        return node.build(nn.Clip(x, min=low, max=high)) if (low, high) != (None, None) else x
    for op, bound in zip((nn.Maximum, nn.Minimum), bounds, strict=True):
        x = x if bound is None else node.build(op(x, bound))
    return x


def _plain(bound: np.ndarray) -> bool:
    """True for a bound that an attribute of type f64 holds."""
    number = bound.reshape(-1)[0].item()
    return number == number and (isinstance(number, float) or abs(number) < 2**53)


# Two operands and more ------------------------------------------------------------------------------------

_BINARY: dict[str, type[Op]] = {
    "Add": nn.Add, "Sub": nn.Sub, "Mul": nn.Mul, "Div": nn.Div, "And": nn.And, "Or": nn.Or, "Xor": nn.Xor,
    "BitwiseAnd": nn.And, "BitwiseOr": nn.Or, "BitwiseXor": nn.Xor,
}  # fmt: skip


@converts(*_BINARY)
def binary(node: Node) -> Value:
    a, b = _operands(node)
    return node.build(_BINARY[node.op_type](a, b))


def _operands(node: Node) -> tuple[Value, Value]:
    """Both operands; before opset 7 the second one was aligned to the first at `axis`."""
    a, b = node.operand(0), node.operand(1)
    if node.version >= 7 or not node.attr("broadcast", 0) or node.attr("axis") is None:
        return a, b
    axis, rank = node.axis(node.attr("axis"), tensor_of(a).rank), tensor_of(a).rank
    behind = rank - axis - tensor_of(b).rank
    if behind < 0:
        raise node.malformed(f"{tensor_of(b)} at axis {axis} reaches beyond {tensor_of(a)}")
    return a, node.reshape(b, [*tensor_of(b).shape, *[1] * behind], "aligned")


@converts("Mod")
def mod(node: Node) -> Value:
    fmod = bool(node.attr("fmod", 0))
    if not fmod and is_float(node.type(0)) and node.version < 28:
        raise node.malformed("fmod must be 1 for floats")
    return node.build(nn.Mod(node.operand(0), node.operand(1), fmod=fmod))


@converts("BitShift")
def bit_shift(node: Node) -> Value:
    kinds: dict[str, type[Op]] = {"LEFT": nn.ShiftLeft, "RIGHT": nn.ShiftRight}
    direction = node.attr("direction")
    if direction not in kinds:
        raise node.malformed(f'direction must be "LEFT" or "RIGHT", got "{direction}"')
    return node.build(kinds[direction](node.operand(0), node.operand(1)))


@converts("Pow")
def pow_(node: Node) -> Value:
    """The result has the base's type; small whole exponents are products, which are exact and fast."""
    base, (x, exponent) = node.type(0), _operands(node)
    known = node.constant(exponent)
    is_float_base = isinstance(base.element, FloatType)
    if known is not None and known.size == 1 and tensor_of(exponent).rank <= base.rank:
        number = known.reshape(-1)[0].item()
        if number in (1, 2, 3) or (number == 0.5 and is_float_base):
            return (node.expr(x) ** number).value
    # Powers of integers are computed in floats.
    floats = base.element if is_float_base else f32 if dtype_of(base.element).itemsize < 4 else f64
    power = node.build(nn.Pow(node.cast(x, floats, "base"), node.cast(exponent, floats, "exponent")))
    return node.cast(power, base.element)


_VARIADIC: dict[str, type[Op]] = {"Max": nn.Maximum, "Min": nn.Minimum, "Sum": nn.Add, "Mean": nn.Add}


@converts(*_VARIADIC)
def variadic(node: Node) -> Value:
    first, *rest = (node.expr(i) for i in range(len(node.inputs)))
    total = reduce(lambda a, b: a.of(_VARIADIC[node.op_type], b), rest, first)
    return (total / len(node.inputs) if node.op_type == "Mean" else total).value


_COMPARE = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge"}


@converts(*_COMPARE)
def compare(node: Node) -> Value:
    a, b = _operands(node)
    return node.build(nn.Compare(a, b, kind=_COMPARE[node.op_type]))


@converts("Where")
def where(node: Node) -> Value:
    return node.build(nn.Select(node.operand(0), node.operand(1), node.operand(2)))


# Types ----------------------------------------------------------------------------------------------------


@converts("Cast")
def cast(node: Node) -> Value:
    return node.cast(node.operand(0), element_type(node.attr("to")))


@converts("CastLike")
def cast_like(node: Node) -> Value:
    return node.cast(node.operand(0), node.type(1).element)
