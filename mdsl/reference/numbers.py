"""Numeric helpers of several dialects: erf and erfc, GELU, fma, quiet NumPy, constants as NumPy values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mdsl.ir.attributes import Attribute, DenseAttr, DenseResourceAttr, FloatAttr, IntegerAttr
from mdsl.ir.floats import to_numpy
from mdsl.ir.types import dtype_of

_erf, _erfc = np.frompyfunc(math.erf, 1, 1), np.frompyfunc(math.erfc, 1, 1)


def erf(x: Any) -> Any:
    """Gauss's error function, element by element, computed in float64; the dtype of `x`."""
    return np.asarray(_erf(np.asarray(x, np.float64)), np.float64).astype(np.asarray(x).dtype)[()]


def erfc(x: Any) -> Any:
    """1 - erf(x), element by element, computed in float64; the dtype of `x`."""
    return np.asarray(_erfc(np.asarray(x, np.float64)), np.float64).astype(np.asarray(x).dtype)[()]


def gelu(x: Any) -> Any:
    """x times the share of the normal distribution below x, element by element, computed in float64; the dtype of `x`.

    Of -infinity it is the limit, 0.
    """
    wide = np.maximum(np.asarray(x, np.float64), -64)  # of which the share is 0
    return (wide / 2 * erfc(-wide / math.sqrt(2))).astype(np.asarray(x).dtype)[()]


def fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in the operands' dtype, computed in a wider one and rounded once at the end.

    For float64 the wider type is the machine's long double.
    """
    dtype = np.asarray(a).dtype
    wide = np.longdouble if dtype == np.float64 else np.float64
    return (np.asarray(a).astype(wide) * np.asarray(b).astype(wide) + np.asarray(c).astype(wide)).astype(
        dtype
    )[()]


def ignoring_op(function: Callable[..., Any]) -> Callable[..., Any]:
    """The meaning of an op that is a function of its operands only."""
    return lambda op, *operands: function(*operands)


def is_float_dtype(dtype: np.dtype) -> bool:
    """True for NumPy's floats and for bfloat16 (kind `V` or `f`, by version of ml_dtypes)."""
    return dtype.kind not in "biu"


def constant_value(attr: Attribute) -> Any:
    """The number or the array that a constant attribute holds."""
    if isinstance(attr, DenseAttr | DenseResourceAttr):
        return attr.array
    assert isinstance(attr, IntegerAttr | FloatAttr)
    return to_numpy(attr.value, dtype_of(attr.type))
