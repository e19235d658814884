"""Activation functions: those that are operators, and those that recurrent networks name.

A function names its result with `suffix` (None: as the node's output), and what lies between with more behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node
from mdsl.ir.core import Op, Value


@dataclass(frozen=True)
class Activation:
    """`build(node, x, suffix, **parameters)` makes the activation of `x`."""

    build: Callable[..., Value]
    defaults: dict[str, float] = field(default_factory=dict[str, float])
    """Its parameters, of `alpha` and `beta`."""


def within(suffix: str | None, name: str) -> str:
    """The suffix of an intermediate value."""
    return name if suffix is None else f"{suffix}_{name}"


def plus(node: Node, x: Value, number: float, suffix: str | None) -> Value:
    """x + number."""
    return node.build(nn.Add(x, node.const(number, within(suffix, "offset"), x.type)), suffix)


def times(node: Node, x: Value, number: float, suffix: str | None) -> Value:
    """x * number."""
    return node.build(nn.Mul(x, node.const(number, within(suffix, "factor"), x.type)), suffix)


def above(node: Node, x: Value, bound: float, suffix: str, kind: str = "gt") -> Value:
    """Where x is greater than a number, or at least that (`kind` "ge")."""
    return node.build(nn.Compare(x, node.const(bound, within(suffix, "bound"), x.type), kind=kind), suffix)


def by_sign(node: Node, x: Value, negative: Value, suffix: str | None = None) -> Value:
    """x where that is positive, else `negative`."""
    return node.build(nn.Select(above(node, x, 0, within(suffix, "positive")), x, negative), suffix)


def exponential(node: Node, x: Value, suffix: str, alpha: float) -> Value:
    """alpha * (exp(min(x, 0)) - 1): what elu and its kin are below zero."""
    zero = node.const(0, within(suffix, "zero"), x.type)
    low = node.build(nn.Minimum(x, zero), within(suffix, "low"))
    if alpha == 1:
        return node.build(nn.Expm1(low), suffix)
    return times(node, node.build(nn.Expm1(low), within(suffix, "rise")), alpha, suffix)


def elu(node: Node, x: Value, suffix: str | None, alpha: float) -> Value:
    """x where that is positive, else alpha * (exp(x) - 1)."""
    return by_sign(node, x, exponential(node, x, within(suffix, "negative"), alpha), suffix)


def softplus(node: Node, x: Value, suffix: str | None) -> Value:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), which does not overflow."""
    rectified = node.build(nn.Relu(x), within(suffix, "relu"))
    magnitude = node.build(nn.Abs(x), within(suffix, "abs"))
    decay = node.build(
        nn.Exp(node.build(nn.Neg(magnitude), within(suffix, "negative"))), within(suffix, "decay")
    )
    tail = node.build(nn.Log1p(decay), within(suffix, "log"))
    return node.build(nn.Add(rectified, tail), suffix)


def softsign(node: Node, x: Value, suffix: str | None) -> Value:
    """x / (1 + |x|)."""
    magnitude = node.build(nn.Abs(x), within(suffix, "abs"))
    return node.build(nn.Div(x, plus(node, magnitude, 1, within(suffix, "divisor"))), suffix)


def leaky_relu(node: Node, x: Value, suffix: str | None, alpha: float) -> Value:
    """x where that is positive, else alpha * x."""
    return node.build(nn.LeakyRelu(x, alpha=alpha), suffix)


def thresholded_relu(node: Node, x: Value, suffix: str | None, alpha: float) -> Value:
    """x above alpha, else 0."""
    kept = above(node, x, alpha, within(suffix, "above"))
    return node.build(nn.Select(kept, x, node.const(0, within(suffix, "zero"), x.type)), suffix)


def affine(node: Node, x: Value, suffix: str | None, alpha: float, beta: float) -> Value:
    """alpha * x + beta."""
    return plus(node, times(node, x, alpha, within(suffix, "scaled")), beta, suffix)


def hard_sigmoid(node: Node, x: Value, suffix: str | None, alpha: float, beta: float) -> Value:
    """alpha * x + beta, between 0 and 1."""
    line = affine(node, x, within(suffix, "line"), alpha, beta)
    return node.build(nn.Clip(line, min=0.0, max=1.0), suffix)


def scaled_tanh(node: Node, x: Value, suffix: str | None, alpha: float, beta: float) -> Value:
    """alpha * tanh(beta * x)."""
    inner = node.build(nn.Tanh(times(node, x, beta, within(suffix, "scaled"))), within(suffix, "tanh"))
    return times(node, inner, alpha, suffix)


def _op(kind: type[Op]) -> Activation:
    """An activation that is one op."""
    return Activation(lambda node, x, suffix: node.build(kind(x), suffix))


ACTIVATIONS: dict[str, Activation] = {
    "Relu": _op(nn.Relu),
    "Tanh": _op(nn.Tanh),
    "Sigmoid": _op(nn.Sigmoid),
    "Softsign": Activation(softsign),
    "Softplus": Activation(softplus),
    "LeakyRelu": Activation(leaky_relu, {"alpha": 0.01}),
    "ThresholdedRelu": Activation(thresholded_relu, {"alpha": 1.0}),
    "Elu": Activation(elu, {"alpha": 1.0}),
    "HardSigmoid": Activation(hard_sigmoid, {"alpha": 0.2, "beta": 0.5}),
    "Affine": Activation(affine, {"alpha": 1.0, "beta": 0.0}),
    "ScaledTanh": Activation(scaled_tanh, {"alpha": 1.0, "beta": 1.0}),
}
"""What the operators RNN, GRU and LSTM can name; the last two are not operators themselves."""
