"""What rules of several themes build: shapes, reversals, elements at indices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn_base import tensor
from mdsl.importers.onnx.registry import Node
from mdsl.ir.core import Value
from mdsl.ir.types import DYNAMIC, TensorType, i64

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
    own = tensor(x).shape
    rank = max(len(wanted), len(own))
    padded = [1] * (rank - len(own)) + list(own)
    target = [1] * (rank - len(wanted)) + [DYNAMIC if w is None else w for w in wanted]
    sizes = [b if a == 1 else a if a != DYNAMIC else b if b not in (1, DYNAMIC) else DYNAMIC
             for a, b in zip(padded, target, strict=True)]  # fmt: skip
    return TensorType(tuple(sizes), tensor(x).element)


# Elements -------------------------------------------------------------------------------------------------


def reversed_along(node: Node, x: Value, axes: Sequence[int], suffix: str | None) -> Value:
    """`x` with some axes in the opposite order."""
    count = len(axes)
    before_all = -(2**62)  # so far before the first element that the slice includes it
    op = nn.Slice(x, starts=[-1] * count, ends=[before_all] * count, axes=list(axes), steps=[-1] * count)
    return node.build(op, suffix)


def wrapped(node: Node, indices: Value, sizes: int | Sequence[int]) -> Value:
    """Indices as i64, negative ones counted from the end of dimensions of `sizes` (one for each in the last axis)."""
    indices = node.cast(indices, i64, "wide_indices")
    found = node.constant(indices)
    if found is not None:
        return node.const(np.where(found < 0, found + np.asarray(sizes, np.int64), found), "places")
    is_negative = node.build(nn.Compare(indices, node.const(np.int64(0), "zero"), kind="lt"), "is_negative")
    from_end = node.build(nn.Add(indices, node.const(np.asarray(sizes, np.int64), "sizes")), "from_the_end")
    return node.build(nn.Select(is_negative, from_end, indices), "places")


def gather_flat(node: Node, x: Value, places: Value, suffix: str | None = None) -> Value:
    """The elements of `x` at row-major positions, in the shape of `places`."""
    flat = node.reshape(x, (tensor(x).size,), "flat")
    return node.build(nn.Gather(flat, places, axis=0), suffix)


def gather_along(node: Node, x: Value, indices: Value, axis: int, suffix: str | None = None) -> Value:
    """y[i, j, k] = x[i, indices[i, j, k], k] with j along `axis`."""
    node.static(x, indices)
    shape = tensor(x).shape
    steps = [prod(shape[d + 1 :]) for d in range(len(shape))]
    own = tensor(indices).shape
    offsets = np.zeros([1] * len(own), np.int64)
    for d, size in enumerate(own):
        if d != axis:
            offsets = offsets + (np.arange(size) * steps[d]).reshape(
                [-1 if i == d else 1 for i in range(len(own))]
            )
    along = wrapped(node, indices, shape[axis])
    if steps[axis] != 1:
        along = node.build(nn.Mul(along, node.const(np.int64(steps[axis]), "step")), "distances")
    return gather_flat(
        node, x, node.build(nn.Add(along, node.const(offsets, "offsets")), "positions"), suffix
    )
