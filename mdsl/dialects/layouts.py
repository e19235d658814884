"""The types of memory and of views of it: where the elements of a part, or of another shape, lie."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects.indices import Index
from mdsl.ir.types import DYNAMIC, MemRefType, dense_strides


def subview_type(
    source: MemRefType,
    offsets: Sequence[Index],
    sizes: Sequence[int],
    strides: Sequence[int],
    shape: Sequence[int],
) -> MemRefType:
    """Type of a subview; of `sizes`, the unit dimensions that `shape` lacks are dropped."""
    terms = [o * s if isinstance(o, int) else None for o, s in zip(offsets, source.layout, strict=True)]
    known = DYNAMIC not in (source.offset, *source.layout) and None not in terms
    offset = source.offset + sum(t for t in terms if t is not None) if known else DYNAMIC
    steps = [s * t for s, t in zip(source.layout, strides, strict=True)]
    kept: list[int] = []
    remaining = list(shape)
    for size, step in zip(sizes, steps, strict=True):
        if remaining and remaining[0] == size:
            kept.append(step)
            remaining.pop(0)
    return MemRefType(tuple(shape), source.element, tuple(kept), offset)


def reshaped_type(
    source: MemRefType, groups: Sequence[Sequence[int]], shape: Sequence[int]
) -> MemRefType | None:
    """Type of `source` seen in `shape`, of which `groups` are a reassociation; None where gaps forbid it.

    Splitting a dimension is always possible; merging needs each dimension to step over the ones behind it.
    """
    if source.layout == dense_strides(source.shape) or (source.is_dense and not groups):
        strides = None if source.offset == 0 else dense_strides(tuple(shape))
        return MemRefType(tuple(shape), source.element, strides, source.offset)
    if not groups or DYNAMIC in source.layout:
        return None
    if len(shape) > source.rank:
        steps = _split_strides(source, groups, shape)
    else:
        merged = [_merged_stride(source, group) for group in groups]
        steps = [step for step in merged if step is not None]
        if len(steps) < len(groups):
            return None
    return MemRefType(tuple(shape), source.element, tuple(steps), source.offset)


def _split_strides(source: MemRefType, groups: Sequence[Sequence[int]], shape: Sequence[int]) -> list[int]:
    steps: list[int] = []
    for stride, group in zip(source.layout, groups, strict=True):
        inner = dense_strides(tuple(shape[d] for d in group))
        steps += [stride * step for step in inner]
    return steps


def _merged_stride(source: MemRefType, group: Sequence[int]) -> int | None:
    """Elements from one index to the next of the dimensions of `group` as one."""
    real = [d for d in group if source.shape[d] != 1] or [group[0]]
    steps = [source.layout[inner] * source.shape[inner] for inner in real[1:]]
    return source.layout[real[-1]] if [source.layout[d] for d in real[:-1]] == steps else None
