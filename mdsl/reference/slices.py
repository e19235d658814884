"""Offsets, sizes and strides of tensor and memref slices, checked against the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdsl.dialects.indices import Index, SliceLike
from mdsl.ir.core import Op, Value
from mdsl.ir.types import DYNAMIC
from mdsl.reference.registry import failure


def region_of(op: SliceLike, shape: Sequence[int], values: Mapping[Value, Any]) -> tuple[slice, ...]:
    """What the slice op selects of an array of `shape`; `values` holds its dynamic numbers."""

    def numbers(which: str) -> list[int]:
        entries: list[Index] = op.mixed(which)
        return [int(values[e]) if isinstance(e, Value) else e for e in entries]

    triples = zip(shape, numbers("offsets"), numbers("sizes"), numbers("strides"), strict=True)
    return tuple(_slice(op, axis, *triple) for axis, triple in enumerate(triples))


def _slice(op: Op, axis: int, extent: int, offset: int, size: int, stride: int) -> slice:
    last = offset + (size - 1) * stride
    if size < 0 or stride < 1 or offset < 0 or (size > 0 and last >= extent):
        raise failure(
            op, f"[{offset}] [{size}] [{stride}] leaves dimension {axis}, which has {extent} elements"
        )
    return slice(offset, max(last + 1, offset), stride)


def without_units(part: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`part` with the unit dimensions dropped that `shape` lacks: a view, as `subview_type` pairs dimensions."""
    if part.ndim == len(shape):
        return part
    remaining = list(shape)
    kept: list[slice | int] = []
    for size in part.shape:
        if remaining and remaining[0] in (size, DYNAMIC):
            remaining.pop(0)
            kept.append(slice(None))
        else:
            kept.append(0)
    return part[tuple(kept)]


def check_indices(op: Op, shape: Sequence[int], indices: Sequence[Any]) -> None:
    """Raises unless every index (a number, or an array of them) lies in its dimension."""
    for axis, (extent, index) in enumerate(zip(shape, indices, strict=True)):
        if isinstance(index, np.ndarray):
            low, high = (int(index.min()), int(index.max())) if index.size else (0, 0)
            inside = index.size == 0 or (low >= 0 and high < extent)
            index = low if low < 0 else high
        else:
            inside = 0 <= index < extent
        if not inside:
            raise failure(
                op, f"index {index} is out of bounds for dimension {axis}, which has {extent} elements"
            )
