"""Meaning of the nn dialect: elementwise ops, reductions, shapes and data movement.

Floats are computed in float64 and rounded once to the result's type. Layers: layers.py, training: training.py, computed shapes: dynamic.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from mdsl.dialects import nn
from mdsl.ir.core import Op
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, dtype_of
from mdsl.reference.arith import INT_COMPARE, divide
from mdsl.reference.extrema import maximum, minimum
from mdsl.reference.nn.numbers import mean, narrow, wide
from mdsl.reference.numbers import erf, gelu, ignoring_op, is_float_dtype
from mdsl.reference.registry import SEMANTICS, semantics

for theme in ("layers", "order", "training", "dynamic"):
    import_module(f"mdsl.reference.nn.{theme}")  # registers its ops

Array = np.ndarray


# One tensor, element by element ---------------------------------------------------------------------------


def _gelu(op: Op, x: Array) -> Array:
    if op.attr("approximate") == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return gelu(x)


def _clip(op: Op, x: Array) -> Array:
    low, high = op.attr("min"), op.attr("max")
    x = x if low is None else maximum(x, x.dtype.type(low))
    return x if high is None else minimum(x, x.dtype.type(high))


UNARY: dict[str, Callable[[Op, Array], Array]] = {
    "nn.relu": lambda op, x: maximum(x, x.dtype.type(0)),
    "nn.leaky_relu": lambda op, x: np.where(x >= 0, x, op.attr("alpha") * x),
    "nn.clip": _clip,
    "nn.sigmoid": lambda op, x: 1 / (1 + np.exp(-x)),
    "nn.tanh": lambda op, x: np.tanh(x),
    "nn.gelu": _gelu,
    "nn.erf": lambda op, x: erf(x),
    "nn.exp": lambda op, x: np.exp(x),
    "nn.log": lambda op, x: np.log(x),
    "nn.sqrt": lambda op, x: np.sqrt(x),
    "nn.neg": lambda op, x: -x,
    "nn.abs": lambda op, x: np.abs(x),
    "nn.sin": lambda op, x: np.sin(x),
    "nn.cos": lambda op, x: np.cos(x),
    "nn.tan": lambda op, x: np.tan(x),
    "nn.asin": lambda op, x: np.arcsin(x),
    "nn.acos": lambda op, x: np.arccos(x),
    "nn.atan": lambda op, x: np.arctan(x),
    "nn.sinh": lambda op, x: np.sinh(x),
    "nn.cosh": lambda op, x: np.cosh(x),
    "nn.asinh": lambda op, x: np.arcsinh(x),
    "nn.acosh": lambda op, x: np.arccosh(x),
    "nn.atanh": lambda op, x: np.arctanh(x),
    "nn.expm1": lambda op, x: np.expm1(x),
    "nn.log1p": lambda op, x: np.log1p(x),
    "nn.floor": lambda op, x: np.floor(x),
    "nn.ceil": lambda op, x: np.ceil(x),
    "nn.round": lambda op, x: np.rint(x),
    "nn.sign": lambda op, x: np.where(x == 0, x, np.sign(x)),  # the sign of a zero stays
}


def _on_wide(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` with floats made wide before and its result narrowed after."""
    return lambda op, *operands: narrow(op, function(op, *map(wide, operands)))


SEMANTICS.update({name: _on_wide(f) for name, f in UNARY.items()})


# Two tensors that broadcast together ----------------------------------------------------------------------


def _divide(a: Array, b: Array) -> Array:
    """Integers towards zero, and 0 where the divisor is 0."""
    return a / b if is_float_dtype(a.dtype) else divide(a, b)


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "nn.add": np.add,
    "nn.sub": np.subtract,
    "nn.mul": np.multiply,
    "nn.div": _divide,
    "nn.pow": np.power,
    "nn.maximum": maximum,
    "nn.minimum": minimum,
}
SEMANTICS.update({name: _on_wide(lambda op, a, b, f=f: f(a, b)) for name, f in BINARY.items()})


@semantics("nn.mod")
def mod(op: Op, a: Array, b: Array) -> Array:
    remainder = np.fmod if op.attr("fmod") else np.mod
    return narrow(op, np.asarray(remainder(wide(a), wide(b))))


BITWISE: dict[str, Callable[[Array, Array], Array]] = {
    "nn.and": np.bitwise_and,
    "nn.or": np.bitwise_or,
    "nn.xor": np.bitwise_xor,
}
SEMANTICS.update({name: ignoring_op(f) for name, f in BITWISE.items()})


def _shift(op: Op, function: np.ufunc, a: Array, b: Array, beyond: Array | int) -> Array:
    """`function`, and `beyond` where b, as an unsigned number, is not below the width."""
    width = a.dtype.itemsize * 8
    within = (b >= 0) & (b < width)
    return np.asarray(np.where(within, function(a, np.where(within, b, 0)), beyond)).astype(a.dtype)


@semantics("nn.shift_left")
def shift_left(op: Op, a: Array, b: Array) -> Array:
    return _shift(op, np.left_shift, a, b, 0)


@semantics("nn.shift_right")
def shift_right(op: Op, a: Array, b: Array) -> Array:
    if not op.attr("logical"):
        return _shift(op, np.right_shift, a, b, np.where(a < 0, -1, 0))
    bits = np.dtype(f"u{a.dtype.itemsize}")
    return _shift(op, np.right_shift, a.view(bits), b.astype(bits), 0).view(a.dtype)


@semantics("nn.compare")
def compare(op: Op, a: Array, b: Array) -> Array:
    return np.asarray(INT_COMPARE[op.attr("kind")](wide(a), wide(b)))


@semantics("nn.select")
def select(op: Op, cond: Array, a: Array, b: Array) -> Array:
    return np.where(cond, a, b)


@semantics("nn.cast")
def cast(op: Op, x: Array) -> Array:
    element = tensor_of(op.result).element
    target = dtype_of(element)
    if target == np.bool_:
        return np.asarray(x != 0)
    if is_float_dtype(x.dtype) and not is_float_dtype(target):
        return _saturated(np.trunc(x.astype(np.float64)), target)
    return x.astype(target)


def _saturated(x: Array, target: np.dtype) -> Array:
    """Whole numbers as integers: the nearest one that exists, 0 for NaN."""
    low, high = np.iinfo(target).min, np.iinfo(target).max
    inside = (x > low) & (x < high)  # `high` itself may round up as a float
    return np.select(
        [inside, x >= high, x <= low], [np.where(inside, x, 0).astype(target), high, low], 0
    ).astype(target)


# Reductions -----------------------------------------------------------------------------------------------

REDUCE: dict[str, Callable[..., Array]] = {
    "sum": np.sum,
    "mean": mean,
    "prod": np.prod,
    "max": maximum.reduce,
    "min": minimum.reduce,
}


@semantics("nn.reduce")
def reduce(op: nn.Reduce, x: Array) -> Array:
    axes, keepdims = tuple(op.dimensions), op.attr("keepdims")
    extra: dict[str, Any] = {}
    if op.attr("kind") in ("sum", "prod") and not is_float_dtype(x.dtype):
        extra["dtype"] = x.dtype  # NumPy would widen
    return narrow(op, REDUCE[op.attr("kind")](wide(x), axis=axes, keepdims=keepdims, **extra))


@semantics("nn.argmax")
def argmax(op: Op, x: Array) -> Array:
    found = np.argmax(wide(x), axis=op.attr("axis"), keepdims=op.attr("keepdims"))
    return np.asarray(found, np.int64)


# Shapes and data movement ---------------------------------------------------------------------------------


@semantics("nn.reshape")
def reshape(op: Op, x: Array) -> Array:
    return x.reshape([-1 if s == DYNAMIC else s for s in tensor_of(op.result).shape])


@semantics("nn.flatten")
def flatten(op: Op, x: Array) -> Array:
    axis = op.attr("axis") + (x.ndim if op.attr("axis") < 0 else 0)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@semantics("nn.transpose")
def transpose(op: nn.Transpose, x: Array) -> Array:
    return x.transpose(op.permutation)


@semantics("nn.concat")
def concat(op: Op, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=op.attr("axis"))


@semantics("nn.slice")
def slice_(op: nn.Slice, x: Array) -> Array:
    for axis, taken in enumerate(op.ranges(x.shape)):
        if taken is not None:
            x = np.take(x, list(taken), axis)
    return x


@semantics("nn.pad")
def pad(op: Op, x: Array) -> Array:
    pads = op.attr("pads")
    widths = list(zip(pads[: x.ndim], pads[x.ndim :], strict=True))
    if not widths:
        return x
    return np.pad(x, widths, constant_values=x.dtype.type(op.attr("value")))


@semantics("nn.gather")
def gather(op: Op, x: Array, indices: Array) -> Array:
    axis = op.attr("axis") % x.ndim
    size = x.shape[axis]
    indices = indices.astype(np.int64)
    return np.take(x, np.clip(np.where(indices < 0, indices + size, indices), 0, size - 1), axis)


@semantics("nn.broadcast")
def broadcast(op: Op, x: Array) -> Array:
    shape = tensor_of(op.result).shape
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x, [o if s == DYNAMIC else s for s, o in zip(shape, own, strict=True)])
