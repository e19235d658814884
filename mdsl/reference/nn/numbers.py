"""How nn's numbers are computed: floats in float64, rounded once at the end."""

from __future__ import annotations

import numpy as np

from mdsl.ir.core import Op
from mdsl.ir.types import dtype_of, element_of
from mdsl.reference.numbers import is_float_dtype


def wide(x: np.ndarray) -> np.ndarray:
    """Floats as float64; integers as they are."""
    return x.astype(np.float64) if is_float_dtype(x.dtype) else x


def narrow(op: Op, x: np.ndarray) -> np.ndarray:
    """`x` as an array of the op's result type."""
    return np.asarray(x).astype(dtype_of(element_of(op.result.type)), copy=False)


def mean(x: np.ndarray, axis: tuple[int, ...], *, keepdims: bool) -> np.ndarray:
    """The mean along `axis`; NaN of nothing, of which NumPy would warn."""
    return x.sum(axis=axis, keepdims=keepdims) / np.prod([x.shape[a] for a in axis])
