"""autodiff: ops that work element by element.

At a point without slope each has one of the slopes beside it, or what lies between: as PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mdsl.dialects import nn
from mdsl.dialects.nn.elementwise import Binary, Unary
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import is_float
from mdsl.passes.nn.autodiff.build import VJPS, Adjoint, Partials, vjp

# One tensor -----------------------------------------------------------------------------------------------

Slope = Callable[[Adjoint, Any, Value, Value, Value], Value]
"""From the op, its operand, its result and that one's gradient to the operand's gradient."""


def _clip(a: Adjoint, op: nn.Clip, x: Value, y: Value, g: Value) -> Value:
    low, high = op.attr("min"), op.attr("max")
    if low is not None:
        g = a.where(a.compare(x, "ge", low), g, 0.0)
    return g if high is None else a.where(a.compare(x, "le", high), g, 0.0)


def _gelu(a: Adjoint, op: nn.Gelu, x: Value, y: Value, g: Value) -> Value:
    """P(x) + x p(x) with the normal distribution P and its density p; for "tanh" the derivative of the formula."""
    square = a.mul(x, x, "square")
    if op.attr("approximate") == "none":
        spread = a(nn.Erf(a.mul(x, math.sqrt(0.5))))
        share = a.mul(a.add(spread, 1.0), 0.5, "share")
        density = a.mul(a(nn.Exp(a.mul(square, -0.5))), 1 / math.sqrt(2 * math.pi), "density")
        return a.mul(g, a.add(share, a.mul(x, density), "slope"))
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    inner = a.mul(x, a.add(a.mul(square, c * cubic), c), "inner")
    t = a(nn.Tanh(inner))
    share = a.mul(a.add(t, 1.0), 0.5, "share")
    steepness = a.mul(a.one_minus(a.mul(t, t)), a.add(a.mul(square, 1.5 * c * cubic), 0.5 * c), "steepness")
    return a.mul(g, a.add(share, a.mul(x, steepness), "slope"))


def _root_of(a: Adjoint, first: Value, second: Value) -> Value:
    return a(nn.Sqrt(a.mul(first, second)))


def _asin(a: Adjoint, x: Value) -> Value:
    """sqrt(1 - x^2), as a product that does not cancel near 1."""
    return _root_of(a, a.one_minus(x), a.add(x, 1.0))


UNARY: dict[str, Slope] = {
    "nn.relu": lambda a, op, x, y, g: a.where(a.compare(y, "le", 0.0), 0.0, g),
    "nn.leaky_relu": lambda a, op, x, y, g: a.where(a.compare(x, "gt", 0.0), g, a.mul(g, op.attr("alpha"))),
    "nn.clip": _clip,
    "nn.sigmoid": lambda a, op, x, y, g: a.mul(g, a.mul(y, a.one_minus(y))),
    "nn.tanh": lambda a, op, x, y, g: a.mul(g, a.one_minus(a.mul(y, y))),
    "nn.gelu": _gelu,
    "nn.erf": lambda a, op, x, y, g: a.mul(
        g, a.mul(a(nn.Exp(a.neg(a.mul(x, x)))), 2 / math.sqrt(math.pi), "slope")
    ),
    "nn.exp": lambda a, op, x, y, g: a.mul(g, y),
    "nn.log": lambda a, op, x, y, g: a.div(g, x),
    "nn.sqrt": lambda a, op, x, y, g: a.div(a.mul(g, 0.5), y),
    "nn.neg": lambda a, op, x, y, g: a.neg(g),
    "nn.abs": lambda a, op, x, y, g: a.mul(g, a(nn.Sign(x))),
    "nn.sin": lambda a, op, x, y, g: a.mul(g, a(nn.Cos(x))),
    "nn.cos": lambda a, op, x, y, g: a.mul(g, a.neg(a(nn.Sin(x)))),
    "nn.tan": lambda a, op, x, y, g: a.mul(g, a.add(a.mul(y, y), 1.0)),
    "nn.asin": lambda a, op, x, y, g: a.div(g, _asin(a, x)),
    "nn.acos": lambda a, op, x, y, g: a.neg(a.div(g, _asin(a, x))),
    "nn.atan": lambda a, op, x, y, g: a.div(g, a.add(a.mul(x, x), 1.0)),
    "nn.sinh": lambda a, op, x, y, g: a.mul(g, a(nn.Cosh(x))),
    "nn.cosh": lambda a, op, x, y, g: a.mul(g, a(nn.Sinh(x))),
    "nn.asinh": lambda a, op, x, y, g: a.div(g, a(nn.Sqrt(a.add(a.mul(x, x), 1.0)))),
    "nn.acosh": lambda a, op, x, y, g: a.div(g, _root_of(a, a.add(x, -1.0), a.add(x, 1.0))),
    "nn.atanh": lambda a, op, x, y, g: a.div(g, a.mul(a.one_minus(x), a.add(x, 1.0))),
    "nn.expm1": lambda a, op, x, y, g: a.mul(g, a.add(y, 1.0)),
    "nn.log1p": lambda a, op, x, y, g: a.div(g, a.add(x, 1.0)),
}


def _unary(slope: Slope) -> Callable[[Adjoint, Any, Value], Partials]:
    return lambda a, op, g: [slope(a, op, op.operands[0], op.result, g)]


VJPS.update({name: _unary(slope) for name, slope in UNARY.items()})


@vjp("nn.floor", "nn.ceil", "nn.round", "nn.sign")
def steps(a: Adjoint, op: Unary, g: Value) -> Partials:
    """Flat, but for the jumps."""
    return [None]


@vjp("nn.cast")
def cast(a: Adjoint, op: nn.Cast, g: Value) -> Partials:
    x = tensor_of(op.operands[0])
    return [a(nn.Cast(g, results=[x])) if is_float(x) else None]


# Two tensors ----------------------------------------------------------------------------------------------


@vjp("nn.all_reduce")
def all_reduce(a: Adjoint, op: nn.AllReduce, g: Value) -> Partials:
    """Each process's x is in what all of them go on with."""
    return [a(nn.AllReduce(g, kind=op.attr("kind")))]


@vjp("nn.add")
def add(a: Adjoint, op: Binary, g: Value) -> Partials:
    return g, g


@vjp("nn.sub")
def sub(a: Adjoint, op: Binary, g: Value) -> Partials:
    return g, a.neg(g)


@vjp("nn.mul")
def mul(a: Adjoint, op: Binary, g: Value) -> Partials:
    return a.mul(g, op.b), a.mul(g, op.a)


@vjp("nn.div")
def div(a: Adjoint, op: Binary, g: Value) -> Partials:
    share = a.div(g, op.b)
    return share, a.neg(a.mul(share, op.result))


@vjp("nn.pow")
def pow_(a: Adjoint, op: nn.Pow, g: Value) -> Partials:
    """b a^(b-1) and y log a. What is multiplied by 0 is left out, for it may be infinite: the first where b is 0, the
    second where a is 0 and b is not negative."""
    base, exponent = op.a, op.b
    lower = a(nn.Pow(base, a.add(exponent, -1.0)))
    first = a.where(a.compare(exponent, "eq", 0.0), 0.0, a.mul(exponent, lower))
    flat = a(nn.And(a.compare(base, "eq", 0.0), a.compare(exponent, "ge", 0.0)))
    second = a.where(flat, 0.0, a.mul(op.result, a(nn.Log(base))))
    return a.mul(g, first), a.mul(g, second)


@vjp("nn.maximum", "nn.minimum")
def extremum(a: Adjoint, op: Binary, g: Value) -> Partials:
    """To the one that was taken; half to each of two equal ones."""
    wins = "gt" if op.name == "nn.maximum" else "lt"
    tied = a.where(a.compare(op.a, "eq", op.b), a.mul(g, 0.5), 0.0, "tied")
    return a.where(a.compare(op.a, wins, op.b), g, tied), a.where(a.compare(op.b, wins, op.a), g, tied)


@vjp("nn.mod")
def mod(a: Adjoint, op: nn.Mod, g: Value) -> Partials:
    """y = a - n b, where n is a whole number."""
    times = a(nn.Round(a.div(a.sub(op.a, op.result), op.b)), "times")
    return g, a.neg(a.mul(g, times))


@vjp("nn.select")
def select(a: Adjoint, op: nn.Select, g: Value) -> Partials:
    return None, a.where(op.cond, g, 0.0), a.where(op.cond, 0.0, g)
