"""Rules for operators that work element by element."""

from __future__ import annotations

from math import inf

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.activations import (
    ACTIVATIONS,
    above,
    by_sign,
    elu,
    exponential,
    hard_sigmoid,
    plus,
    softplus,
    times,
)
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import FloatType, Type, dtype_of, f32, f64, is_float

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


@converts("Reciprocal")
def reciprocal(node: Node) -> Value:
    x = node.operand(0)
    return node.build(nn.Div(node.const(1, "one", x.type), x))


@converts("Not")
def not_(node: Node) -> Value:
    return node.build(nn.Xor(node.operand(0), node.const(True, "true")))


@converts("BitwiseNot")
def bitwise_not(node: Node) -> Value:
    x = node.operand(0)
    return node.build(nn.Xor(x, node.const(-1, "ones", x.type)))


@converts("IsNaN")
def is_nan(node: Node) -> Value:
    x = node.operand(0)
    return node.build(nn.Compare(x, x, kind="ne"))


@converts("IsInf")
def is_inf(node: Node) -> Value:
    x = node.operand(0)
    positive, negative = node.attr("detect_positive", 1), node.attr("detect_negative", 1)
    if not positive and not negative:
        return node.build(nn.Compare(x, x, kind="lt"))
    source = node.build(nn.Abs(x), "abs") if positive and negative else x
    return node.build(nn.Compare(source, node.const(inf if positive else -inf, "inf", x.type), kind="eq"))


@converts(
    "Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", "LeakyRelu", "ThresholdedRelu", "Elu", "HardSigmoid"
)
def activation(node: Node) -> Value:
    found = ACTIVATIONS[node.op_type]
    parameters = {name: node.attr(name, default) for name, default in found.defaults.items()}
    return found.build(node, node.operand(0), None, **parameters)


@converts("PRelu")
def prelu(node: Node) -> Value:
    x, slope = node.operand(0), node.operand(1)
    if node.version < 7 and tensor_of(slope).rank == 1:  # one slope a channel
        slope = node.reshape(slope, [*tensor_of(slope).shape, *[1] * (tensor_of(x).rank - 2)], "slope")
    steep = node.build(nn.Mul(x, slope), "sloped")
    return node.build(nn.Select(above(node, x, 0, "positive", "ge"), x, steep))


@converts("Celu")
def celu(node: Node) -> Value:
    x, alpha = node.operand(0), node.attr("alpha", 1.0)
    scaled = x if alpha == 1 else node.build(nn.Div(x, node.const(alpha, "alpha", x.type)), "scaled")
    return by_sign(node, x, exponential(node, scaled, "negative", alpha))


@converts("Selu")
def selu(node: Node) -> Value:
    x = node.operand(0)
    gamma = node.attr("gamma", 1.05070102214813232421875)
    alpha = node.attr("alpha", 1.67326319217681884765625)
    return times(node, elu(node, x, "elu", alpha), gamma, None)


@converts("HardSwish")
def hard_swish(node: Node) -> Value:
    x = node.operand(0)
    return node.build(nn.Mul(x, hard_sigmoid(node, x, "gate", 1 / 6, 0.5)))


@converts("Gelu")
def gelu(node: Node) -> Value:
    approximate = node.attr("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise node.malformed(f'approximate must be "none" or "tanh", got "{approximate}"')
    return node.build(nn.Gelu(node.operand(0), approximate=approximate))


@converts("Swish")
def swish(node: Node) -> Value:
    x, alpha = node.operand(0), node.attr("alpha", 1.0)
    scaled = x if alpha == 1 else times(node, x, alpha, "scaled")
    return node.build(nn.Mul(x, node.build(nn.Sigmoid(scaled), "gate")))


@converts("Mish")
def mish(node: Node) -> Value:
    """x * tanh(softplus(x))."""
    x = node.operand(0)
    return node.build(nn.Mul(x, node.build(nn.Tanh(softplus(node, x, "softplus")), "gate")))


@converts("Shrink")
def shrink(node: Node) -> Value:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    x, bias, lambd = node.operand(0), node.attr("bias", 0.0), node.attr("lambd", 0.5)
    zero = node.const(0, "zero", x.type)
    below = node.build(nn.Compare(x, node.const(-lambd, "low", x.type), kind="lt"), "below")
    lowered = plus(node, x, -bias, "lowered")
    upper = node.build(nn.Select(above(node, x, lambd, "above"), lowered, zero), "upper")
    return node.build(nn.Select(below, plus(node, x, bias, "raised"), upper))


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
    if bounds[0] is not None:
        x = node.build(nn.Maximum(x, bounds[0]), None if bounds[1] is None else "raised")
    return x if bounds[1] is None else node.build(nn.Minimum(x, bounds[1]))


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
    direction = node.attr("direction")
    if direction == "LEFT":
        return node.build(nn.ShiftLeft(node.operand(0), node.operand(1)))
    if direction == "RIGHT":
        return node.build(nn.ShiftRight(node.operand(0), node.operand(1)))
    raise node.malformed(f'direction must be "LEFT" or "RIGHT", got "{direction}"')


@converts("Pow")
def pow_(node: Node) -> Value:
    """The result has the base's type; small whole exponents are products, which are exact and fast."""
    base, (x, exponent) = node.type(0), _operands(node)
    known = node.constant(exponent)
    if known is not None and known.size == 1 and tensor_of(exponent).rank <= base.rank:
        number = known.reshape(-1)[0].item()
        if number in (1, 2, 3):
            return _power(node, x, int(number))
        if number == 0.5 and isinstance(base.element, FloatType):
            return node.build(nn.Sqrt(x))
    floats = base.element if isinstance(base.element, FloatType) else _float_for(base.element)
    power = nn.Pow(node.cast(x, floats, "base"), node.cast(exponent, floats, "exponent"))
    if floats == base.element:
        return node.build(power)
    return node.cast(node.build(power, "power"), base.element)


def _power(node: Node, x: Value, exponent: int) -> Value:
    """x to the power of 1, 2 or 3."""
    if exponent == 1:
        return x
    if exponent == 2:
        return node.build(nn.Mul(x, x))
    return node.build(nn.Mul(node.build(nn.Mul(x, x), "square"), x))


def _float_for(element: Type) -> Type:
    """Floats in which powers of integers are computed."""
    return f32 if dtype_of(element).itemsize < 4 else f64


_VARIADIC: dict[str, type[Op]] = {"Max": nn.Maximum, "Min": nn.Minimum, "Sum": nn.Add, "Mean": nn.Add}


@converts(*_VARIADIC)
def variadic(node: Node) -> Value:
    count, op = len(node.inputs), _VARIADIC[node.op_type]
    mean = node.op_type == "Mean" and count > 1
    found = node.operand(0)
    for i in range(1, count):
        last = i == count - 1 and not mean
        found = node.build(op(found, node.operand(i)), None if last else f"partial{i}")
    if mean:
        found = node.build(nn.Div(found, node.const(count, "count", found.type)))
    return found


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
    from mdsl.frontends.onnx.tensors import element_type

    return _cast(node, element_type(node.attr("to")))


@converts("CastLike")
def cast_like(node: Node) -> Value:
    return _cast(node, node.type(1).element)


def _cast(node: Node, element: Type) -> Value:
    return node.cast(node.operand(0), element)
