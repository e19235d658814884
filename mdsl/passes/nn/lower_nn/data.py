"""lower-nn: reshaping, slicing, joining, padding, gathering."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import arith, linalg, nn, tensor
from mdsl.dialects.nn.base import NnOp, axis_in
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import DenseArrayAttr, DenseAttr
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64, index
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars, lowers, squeezed
from mdsl.rewriting.constants import constant_data


@lowers("nn.reshape")
@lowers("nn.flatten")
def reshape(e: Emitter, op: NnOp) -> Value:
    return e.reshape(op.operands[0], tensor_of(op.result).shape)


@lowers("nn.transpose")
def transpose(e: Emitter, op: nn.Transpose) -> Value:
    result = tensor_of(op.result)
    if op.permutation == list(range(result.rank)):
        return op.operands[0]
    permutation = DenseArrayAttr(i64, tuple(op.permutation))
    init = e.empty(result.shape, result.element)
    return e.value(linalg.Transpose.make([op.operands[0]], [init], permutation=permutation), None)


@lowers("nn.concat")
def concat(e: Emitter, op: nn.Concat) -> Value:
    axis = axis_in(op, op.attr("axis"), tensor_of(op.result).rank)
    if len(op.operands) == 1:
        return op.operands[0]
    return e.value(tensor.Concat(op.operands, dim=axis), None)


@lowers("nn.shape")
def shape_(e: Emitter, op: nn.Shape) -> Value:
    """A constant: the sizes are those of the operand's type."""
    sizes = np.array(tensor_of(op.operands[0]).shape, np.int64)
    return e.value(
        arith.Constant(value=DenseAttr(sizes, tensor_of(op.result)), results=[op.result.type]), None
    )


@lowers("nn.slice")
def slice_(e: Emitter, op: nn.Slice) -> Value:
    """A slice with positive strides, then a nest that reads the dimensions with negative steps backwards."""
    x, result = op.operands[0], tensor_of(op.result)
    shape = tensor_of(x).shape
    taken = [range(s) if r is None else r for s, r in zip(shape, op.ranges(shape), strict=True)]
    backwards = [r.step < 0 and len(r) > 1 for r in taken]
    if shape != result.shape:
        offsets = [min(r) for r in taken]
        strides = [abs(r.step) for r in taken]
        part = tensor.ExtractSlice.of(x, offsets, result.shape, strides)
        x = e.value(part, "forwards" if any(backwards) else None)
    if not any(backwards):
        return x
    reading: list[AffineExpr] = [
        Dim(d) * -1 + (len(r) - 1) if flip else Dim(d)
        for d, (r, flip) in enumerate(zip(taken, backwards, strict=True))
    ]
    maps = [AffineMap(result.rank, 0, tuple(reading)), AffineMap.identity(result.rank)]
    init = e.empty(result.shape, result.element)
    return e.value(
        e.nest([x], [init], maps, [linalg.PARALLEL] * result.rank, lambda s, value, _: value), None
    )


@lowers("nn.pad")
def pad(e: Emitter, op: nn.Pad) -> Value:
    x, pads = op.operands[0], op.attr("pads")
    rank = tensor_of(x).rank
    if not any(pads):
        return x
    border = e.constant(op.attr("value"), tensor_of(x).element, "border")
    return e.value(tensor.Pad.of(x, pads[:rank], pads[rank:], border), None)


@lowers("nn.gather")
def gather(e: Emitter, op: nn.Gather) -> Value:
    """A nest that computes the position in x: wraps negative indices, clamps the rest, and reads there."""
    x, indices = op.operands
    result, source, places = tensor_of(op.result), tensor_of(x), tensor_of(indices)
    axis = axis_in(op, op.attr("axis"), source.rank)
    size = source.shape[axis]
    known = constant_data(indices)
    if known is not None:
        part = _evenly_spaced(known, size)
        if part is not None:
            return _part_along(e, op, axis, part)

    def body(s: Scalars, position: Value) -> Value:
        at = clamped(s, position, size)
        before = [s(linalg.IndexOp(dim=d), f"i{d}") for d in range(axis)]
        behind = [s(linalg.IndexOp(dim=d), f"i{d}") for d in range(axis + places.rank, result.rank)]
        return s(tensor.Extract(x, [*before, at, *behind]), "element")

    dims = range(axis, axis + places.rank)
    return e.map([(indices, dims)], result.shape, result.element, body)


def _evenly_spaced(positions: np.ndarray, size: int) -> range | None:
    """Positions in 0 .. size - 1 that rise by equal steps, as a range; None if they do not."""
    places = [int(p) + size * (p < 0) for p in positions.reshape(-1)[: size + 1]]
    if positions.ndim > 1 or not 0 < positions.size <= size or not all(0 <= p < size for p in places):
        return None
    step = places[1] - places[0] if len(places) > 1 else 1
    wanted = range(places[0], places[-1] + 1, step) if step > 0 else range(0)
    return wanted if list(wanted) == places else None


def _part_along(e: Emitter, op: nn.Gather, axis: int, part: range) -> Value:
    """A gather from known places is a slice; one place without a dimension of its own drops the axis."""
    x, shape = op.operands[0], tensor_of(op.result).shape
    source = tensor_of(x).shape
    offsets = [part.start if d == axis else 0 for d in range(len(source))]
    sizes = [len(part) if d == axis else n for d, n in enumerate(source)]
    strides = [part.step if d == axis else 1 for d in range(len(source))]
    cut = tensor.ExtractSlice.of(x, offsets, sizes, strides)
    if len(shape) == len(source):
        return e.value(cut, None)
    whole = e.value(cut, "part")
    return e.value(squeezed(whole, [d for d in range(len(source)) if d != axis]), None)


def clamped(s: Scalars, position: Value, size: int) -> Value:
    """An index in 0 .. size - 1: negative ones count from the end, what is still outside moves to the edge."""
    if position.type != index:
        position = s(arith.IndexCast(position, results=[index]), "position")
    zero, last = s.constant(0, index, "zero"), s.constant(size - 1, index, "last")
    return s(arith.MinSI(s(arith.MaxSI(from_start(s, position, size), zero), "above"), last), "at")


def from_start(s: Scalars, position: Value, size: int) -> Value:
    """An index of whose negative numbers each counts from the end of `size`, counted from the start."""
    zero, whole = (s.constant(n, position.type, name) for n, name in ((0, "zero"), (size, "size")))
    wrapped = s.add(position, whole, "wrapped")
    return s(
        arith.Select(s(arith.CmpI.of("slt", position, zero), "is_negative"), wrapped, position), "chosen"
    )
