"""Builders that rules share: shapes with open sizes, reversals, gathers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import product
from mdsl.frontends.onnx.registry import Node, Size
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, i64

BEFORE_ALL = -(2**62)
"""The end of a slice backwards that is so far before the first element that the slice includes it."""

# Shapes ---------------------------------------------------------------------------------------------------


def wanted_shape(node: Node, index: int, what: str) -> list[int | None]:
    """The sizes in the shape operand `index`, None for those that are not known at import. Raises Malformed,
    Unsupported if not even their number is known."""
    type = node.type(index)
    if type.rank != 1 or type.element != i64:
        raise node.malformed(f"{what} must be a list of i64, got {type}")
    known = node.known(index)
    if known is not None:
        return known
    if type.shape[0] == DYNAMIC:
        raise node.unsupported(f"{what} has an unknown number of dimensions")
    return [None] * type.shape[0]


def stretched_type(node: Node, index: int, x: Value) -> TensorType:
    """What a broadcast of `x` to the shape in operand `index` gives: sizes that are certain, else `?`.
    Raises Malformed, Unsupported."""
    wanted = wanted_shape(node, index, "the shape")
    own = tensor_of(x).shape
    rank = max(len(wanted), len(own))
    padded = [1] * (rank - len(own)) + list(own)
    target = [1] * (rank - len(wanted)) + [DYNAMIC if w is None else w for w in wanted]
    sizes = [b if a == 1 else a if a != DYNAMIC else b if b not in (1, DYNAMIC) else DYNAMIC
             for a, b in zip(padded, target, strict=True)]  # fmt: skip
    return TensorType(tuple(sizes), tensor_of(x).element)


def times(node: Node, sizes: Sequence[Size]) -> Size:
    """The product of sizes."""
    known = prod(s for s in sizes if isinstance(s, int))
    factors = [s for s in sizes if isinstance(s, Value)]
    if not factors:
        return known
    total, *rest = factors if known == 1 else [*factors, node.vector([known])]
    for factor in rest:
        total = node.build(nn.Mul(total, factor), "size")
    return total


def counter(node: Node, size: Size, behind: int = 0) -> Value:
    """0, 1, ..., size - 1, with dimensions of 1 behind."""
    if isinstance(size, int):
        numbers = node.const(np.arange(size), "counter")
    else:
        start, step = (node.const(np.int64(n), f"c{n}") for n in (0, 1))
        result = TensorType((DYNAMIC,), i64)
        limit = node.reshape(size, [], "limit")
        numbers = node.build(nn.Range(start, limit, step, results=[result]), "counter")
    return node.reshape(numbers, (size, *[1] * behind), "column")


def along(numbers: int | np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Numbers (`int`: 0, 1, ...) that vary along an axis, to be broadcast with a tensor of `rank` dimensions."""
    found = np.arange(numbers) if isinstance(numbers, int) else numbers
    return found.reshape([-1, *[1] * (rank - axis - 1)])


def trimmed(
    node: Node, x: Value, axes: Sequence[int], low: Sequence[int], high: Sequence[int], suffix: str | None
) -> Value:
    """`x` without its first `low` and last `high` elements along each of `axes`, which may be open."""
    sizes = [tensor_of(x).shape[a] for a in axes]
    to_the_end = 2**62
    ends = [s - h if s != DYNAMIC else -h if h else to_the_end for s, h in zip(sizes, high, strict=True)]
    return node.build(nn.Slice(x, starts=list(low), ends=ends, axes=list(axes)), suffix)


# Elements -------------------------------------------------------------------------------------------------


def reversed_along(node: Node, x: Value, axes: Sequence[int], suffix: str | None) -> Value:
    """`x` with some axes in the opposite order."""
    count = len(axes)
    op = nn.Slice(x, starts=[-1] * count, ends=[BEFORE_ALL] * count, axes=list(axes), steps=[-1] * count)
    return node.build(op, suffix)


def wrapped(node: Node, indices: Value, sizes: int | Sequence[Size]) -> Value:
    """Indices as i64, negative ones counted from the end of dimensions of `sizes` (one for each in the last axis)."""
    indices = node.cast(indices, i64, "wide_indices")
    ends = node.const(np.int64(sizes), "size") if isinstance(sizes, int) else node.vector(sizes)
    found, known = node.constant(indices), node.constant(ends)
    if found is not None and known is not None:
        return node.const(np.where(found < 0, found + known, found), "places")
    is_negative = node.build(nn.Compare(indices, node.const(np.int64(0), "zero"), kind="lt"), "is_negative")
    from_end = node.build(nn.Add(indices, ends), "from_the_end")
    return node.build(nn.Select(is_negative, from_end, indices), "places")


def gather_flat(node: Node, x: Value, places: Value, suffix: str | None = None) -> Value:
    """The elements of `x` at row-major positions, in the shape of `places`."""
    flat = node.reshape(x, (product(tensor_of(x).shape),), "flat")
    return node.build(nn.Gather(flat, places, axis=0), suffix)


def gather_along(node: Node, x: Value, indices: Value, axis: int, suffix: str | None = None) -> Value:
    """y[i, j, k] = x[i, indices[i, j, k], k] with j along `axis`."""
    sizes, own = node.sizes(x), node.sizes(indices)
    rank = len(sizes)
    steps = [times(node, sizes[d + 1 :]) for d in range(rank)]

    def distances(places: Value, d: int) -> Value:
        """From the first element to the places along a dimension."""
        return places if steps[d] == 1 else node.build(nn.Mul(places, node.vector([steps[d]])), "distances")

    along = distances(wrapped(node, indices, [sizes[axis]]), axis)
    others = [distances(counter(node, own[d], rank - 1 - d), d) for d in range(rank) if d != axis]
    if not others:
        return gather_flat(node, x, along, suffix)
    offsets, *rest = others
    for offset in rest:
        offsets = node.build(nn.Add(offsets, offset), "offsets")
    return gather_flat(node, x, node.build(nn.Add(along, offsets), "positions"), suffix)
