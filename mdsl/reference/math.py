"""Meaning of the math dialect, in the operands' own dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.ir.core import Op
from mdsl.reference.numbers import erf, fma, ignoring_op
from mdsl.reference.registry import SEMANTICS, semantics


def _round(x: Any) -> Any:
    """Halves away from zero."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(np.ones_like(x), x), whole)[()]


UNARY = {
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.expm1": np.expm1,
    "math.log": np.log,
    "math.log2": np.log2,
    "math.log1p": np.log1p,
    "math.sqrt": np.sqrt,
    "math.rsqrt": lambda x: np.ones_like(x) / np.sqrt(x),
    "math.tanh": np.tanh,
    "math.erf": erf,
    "math.sin": np.sin,
    "math.cos": np.cos,
    "math.atan": np.arctan,
    "math.absf": np.abs,
    "math.floor": np.floor,
    "math.ceil": np.ceil,
    "math.round": _round,
    "math.roundeven": np.rint,
}
SEMANTICS.update({name: ignoring_op(f) for name, f in UNARY.items()})


@semantics("math.absi")
def absi(op: Op, x: Any) -> Any:
    return x if x.dtype == np.bool_ else np.abs(x)  # of -1, the only other i1, one bit is left: 1


@semantics("math.powf")
def powf(op: Op, x: Any, y: Any) -> Any:
    return np.power(x, y)


@semantics("math.copysign")
def copysign(op: Op, x: Any, y: Any) -> Any:
    return np.copysign(x, y)


@semantics("math.fma")
def multiply_add(op: Op, a: Any, b: Any, c: Any) -> Any:
    return fma(a, b, c)
