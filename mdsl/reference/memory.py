"""Memory for memrefs: arrays with a type's strides, filled with a pattern that shows reads of what nobody wrote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mdsl.ir.types import DYNAMIC, MemRefType, dtype_of


def poisoned(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """An array that nobody has written: every byte is 0xFF, NaN as a float, -1 as an integer.

    So a program that reads what it never wrote gives an answer that is visibly wrong.
    """
    array = np.empty(shape, dtype)
    array.reshape(-1).view(np.uint8)[...] = 0xFF
    return array


def allocate(type: MemRefType, shape: Sequence[int] | None = None) -> np.ndarray:
    """Memory of `type`, with its strides where they are known; `shape` where the type's is dynamic."""
    dtype = dtype_of(type.element)
    if shape is not None or type.strides is None or not type.is_static or DYNAMIC in type.strides:
        return poisoned(type.shape if shape is None else shape, dtype)
    base = poisoned([type.span], dtype)
    return as_strided(base, type.shape, [s * dtype.itemsize for s in type.strides])
