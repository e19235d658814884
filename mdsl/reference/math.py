"""Meaning of the math dialect and of math_ext, in the operands' own dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mdsl.reference.numbers import erf, erfc, fma, gelu, ignoring_op
from mdsl.reference.registry import SEMANTICS


def _round(x: Any) -> Any:
    """Halves away from zero."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.copysign(np.ones_like(x), x), whole)[()]


MEANINGS: dict[str, Callable[..., Any]] = {
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
    "math.erfc": erfc,
    "math_ext.gelu": gelu,
    "math.sin": np.sin,
    "math.cos": np.cos,
    "math.atan": np.arctan,
    "math.absf": np.abs,
    "math.absi": lambda x: (
        x if x.dtype == np.bool_ else np.abs(x)
    ),  # of -1, the only other i1, one bit is left: 1
    "math.floor": np.floor,
    "math.ceil": np.ceil,
    "math.round": _round,
    "math.roundeven": np.rint,
    "math.powf": np.power,
    "math.copysign": np.copysign,
    "math.fma": fma,
}
SEMANTICS.update({name: ignoring_op(f) for name, f in MEANINGS.items()})
