"""Activation functions: those that are operators, and those that recurrent networks name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr


class Activation:
    """`build(x, **parameters)` makes the activation of `x`; `defaults` are those of its parameters."""

    def __init__(self, build: Callable[..., Expr], **defaults: Any) -> None:
        self.build = build
        self.defaults: Mapping[str, Any] = defaults


def _elu(x: Expr, alpha: float) -> Expr:
    """x where that is positive, else alpha * (exp(x) - 1)."""
    return x.where(x > 0, _below_zero(x, alpha))


def _below_zero(x: Expr, alpha: float) -> Expr:
    return x.of(nn.Minimum, 0).of(nn.Expm1) * alpha


def _softplus(x: Expr) -> Expr:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), which does not overflow."""
    return x.of(nn.Relu) + (-abs(x)).of(nn.Exp).of(nn.Log1p)


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return (x * alpha + beta).clip(0.0, 1.0)


def _shrink(x: Expr, bias: float, lambd: float) -> Expr:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    return (x + bias).where(x < -lambd, (x + -bias).where(x > lambd, 0))


ACTIVATIONS: dict[str, Activation] = {
    "Relu": Activation(lambda x: x.of(nn.Relu)),
    "Tanh": Activation(lambda x: x.of(nn.Tanh)),
    "Sigmoid": Activation(lambda x: x.of(nn.Sigmoid)),
    "Softsign": Activation(lambda x: x / (abs(x) + 1)),
    "Softplus": Activation(_softplus),
    "LeakyRelu": Activation(lambda x, alpha: x.of(nn.LeakyRelu, alpha=alpha), alpha=0.01),
    "ThresholdedRelu": Activation(lambda x, alpha: x.where(x > alpha, 0), alpha=1.0),
    "Elu": Activation(_elu, alpha=1.0),
    "HardSigmoid": Activation(_hard_sigmoid, alpha=0.2, beta=0.5),
    "Affine": Activation(lambda x, alpha, beta: x * alpha + beta, alpha=1.0, beta=0.0),
    "ScaledTanh": Activation(lambda x, alpha, beta: (x * beta).of(nn.Tanh) * alpha, alpha=1.0, beta=1.0),
}
"""What the operators RNN, GRU and LSTM can name."""

OPERATORS: dict[str, Activation] = {
    **{name: found for name, found in ACTIVATIONS.items() if name not in ("Affine", "ScaledTanh")},
    "Celu": Activation(lambda x, alpha: x.where(x > 0, _below_zero(x / alpha, alpha)), alpha=1.0),
    "Selu": Activation(
        lambda x, alpha, gamma: _elu(x, alpha) * gamma,
        alpha=1.67326319217681884765625,
        gamma=1.05070102214813232421875,
    ),
    "HardSwish": Activation(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
    "Gelu": Activation(lambda x, approximate: x.of(nn.Gelu, approximate=approximate), approximate="none"),
    "Swish": Activation(lambda x, alpha: x * (x * alpha).of(nn.Sigmoid), alpha=1.0),
    "Mish": Activation(lambda x: x * _softplus(x).of(nn.Tanh)),
    "Shrink": Activation(_shrink, bias=0.0, lambd=0.5),
    "Reciprocal": Activation(lambda x: 1 / x),
    "Not": Activation(lambda x: x.of(nn.Xor, True)),
    "BitwiseNot": Activation(lambda x: x.of(nn.Xor, -1)),
    "IsNaN": Activation(lambda x: x.is_("ne", x)),
}
"""The operators that are functions of one tensor, with their attributes."""
