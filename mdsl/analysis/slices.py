"""Comparing slices: whether two are the same part of their source, and whether two have no index in common."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from mdsl.dialects import memref
from mdsl.dialects.arith import constant_of
from mdsl.dialects.indices import Index, SliceLike
from mdsl.ir.core import Op, Value


def number_of(index: Index) -> int | None:
    """The number that an index is known to be."""
    if isinstance(index, int):
        return index
    found = constant_of(index)
    return None if found is None else int(found)


def same_index(left: Index, right: Index) -> bool:
    """True if two indices are known to be equal: one number, one value, or one pure computation."""
    if left is right:
        return True
    numbers = [number_of(i) for i in (left, right)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    if not isinstance(left, Value) or not isinstance(right, Value):
        return False
    a, b = left.owner, right.owner
    return (
        isinstance(a, Op)
        and isinstance(b, Op)
        and a.has("pure")
        and not a.regions
        and (a.name, a.attributes, len(a.operands)) == (b.name, b.attributes, len(b.operands))
        and all(same_index(x, y) for x, y in zip(a.operands, b.operands, strict=True))
    )


def same_slice(left: SliceLike, right: SliceLike) -> bool:
    """True if two slices take the same part of what they are taken from."""
    for which in ("offsets", "sizes", "strides"):
        one, other = left.mixed(which), right.mixed(which)
        if len(one) != len(other) or not all(map(same_index, one, other)):
            return False
    return True


def is_whole(op: SliceLike, shape: Sequence[int]) -> bool:
    """True if the slice takes all of a shape, in order."""
    return (
        all(same_index(o, 0) for o in op.mixed("offsets"))
        and all(same_index(s, d) for s, d in zip(op.mixed("sizes"), shape, strict=True))
        and all(same_index(s, 1) for s in op.mixed("strides"))
    )


Span = tuple[Index, int, int]
"""Start, size and step of a part of one dimension."""


def spans(cut: memref.SubView) -> list[Span]:
    """The part that a view of static sizes and strides takes of each dimension."""
    sizes, strides = cut.numbers("sizes"), cut.numbers("strides")
    return list(zip(cut.mixed("offsets"), sizes, strides, strict=True))


def separate_spans(left: Span, right: Span) -> bool:
    """True if the parts have no index in common: one is empty, or ends before the other begins, or they alternate."""
    (start, size, step), (other_start, other_size, other_step) = left, right
    if size == 0 or other_size == 0:
        return True
    if left == right:
        return False
    start, other_start = number_of(start), number_of(other_start)
    if start is None or other_start is None:
        return False
    reach, other_reach = (size - 1) * step, (other_size - 1) * other_step
    first, last = sorted((start, start + reach))
    other_first, other_last = sorted((other_start, other_start + other_reach))
    common = gcd(reach and step, other_reach and other_step)
    between = start - other_start
    return last < other_first or other_last < first or bool(common and between % common)
