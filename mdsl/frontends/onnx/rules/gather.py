"""Rules for gathers and scatters: elements read from, or written to, positions given by indices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import counter, gather_along, times, wrapped
from mdsl.frontends.onnx.registry import Node, Size, converts
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, i64

# Gathering ------------------------------------------------------------------------------------------------


@converts("Gather")
def gather(node: Node) -> Value:
    """With one known index, as exporters take a tensor apart, a slice."""
    x, indices = node.type(0), node.type(1)
    if x.rank == 0:
        raise node.malformed("a tensor without dimensions has no slices")
    axis = node.axis(node.attr("axis", 0), x.rank)
    known = node.constant(1)
    if known is not None and known.size == 1 and x.shape[axis] != DYNAMIC:
        at, size = int(known.reshape(-1)[0]), x.shape[axis]
        if not -size <= at < size:
            raise node.malformed(f"index {at} is outside dimension {axis} of {x}")
        at %= size
        piece = node.build(nn.Slice(node.operand(0), starts=[at], ends=[at + 1], axes=[axis]), "piece")
        sizes = node.sizes(piece)
        return node.reshape(piece, (*sizes[:axis], *indices.shape, *sizes[axis + 1 :]))
    return node.build(nn.Gather(node.operand(0), node.operand(1), axis=axis))


@converts("GatherElements")
def gather_elements(node: Node) -> Value:
    x, indices = node.operand(0), node.operand(1)
    return gather_along(node, x, indices, node.axis(node.attr("axis", 0), tensor_of(x).rank))


def _flat_rows(node: Node, indices: Value, sizes: Sequence[Size]) -> Value:
    """Index tuples (.., k) into dimensions of `sizes` as row-major positions (..)."""
    steps = node.vector([times(node, sizes[d + 1 :]) for d in range(len(sizes))])
    distances = node.build(nn.Mul(wrapped(node, indices, sizes), steps), "distances")
    return node.build(nn.Reduce(distances, kind="sum", axes=[-1], keepdims=False), "rows")


@converts("GatherND")
def gather_nd(node: Node) -> Value:
    x, indices, batch = node.operand(0), node.operand(1), node.attr("batch_dims", 0)
    sizes, own = node.sizes(x), tensor_of(indices).shape
    if not own or not 0 <= batch < len(own) or batch + own[-1] > len(sizes):
        raise node.malformed(
            f"indices {tensor_of(indices)} do not fit {tensor_of(x)} with batch_dims = {batch}"
        )
    if own[-1] == DYNAMIC:
        raise node.unsupported(f"how many dimensions {tensor_of(indices)} index is not known")
    outer, picked, rest = sizes[:batch], sizes[batch : batch + own[-1]], sizes[batch + own[-1] :]
    rows = _flat_rows(node, indices, picked)
    if batch:
        number = counter(node, times(node, outer))
        number = node.reshape(number, (*outer, *[1] * (len(own) - 1 - batch)), "number")
        first = node.build(nn.Mul(number, node.vector([times(node, picked)])), "first")
        rows = node.build(nn.Add(rows, first), "all_rows")
    table = node.reshape(x, (times(node, [*outer, *picked]), *rest), "table")
    return node.build(nn.Gather(table, rows, axis=0))


@converts("Compress")
def compress(node: Node) -> Value:
    flags = node.constant(1)
    if flags is None:
        raise node.unsupported("the size of its result depends on the condition, which is not a constant")
    x, axis = node.operand(0), node.attr("axis")
    if axis is None:
        node.static(x)
        x, axis = node.reshape(x, (tensor_of(x).size,), "flat"), 0
    return node.build(nn.Gather(x, node.const(np.flatnonzero(flags), "places"), axis=axis))


@converts("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(node: Node) -> Value:
    x, indices = node.operand(0), node.operand(1)
    picked = node.reshape(indices, (tensor_of(indices).size,), "picks")
    found = node.build(nn.Gather(x, picked, axis=-1), "found" if tensor_of(x).rank == 1 else None)
    return node.reshape(found, (1, *tensor_of(found).shape)) if tensor_of(x).rank == 1 else found


# Scattering -----------------------------------------------------------------------------------------------

_COMBINE: dict[str, type[Op]] = {"add": nn.Add, "mul": nn.Mul, "max": nn.Maximum, "min": nn.Minimum}


def _kind(node: Node) -> str:
    kind: str = node.attr("reduction", "none")
    return "set" if kind == "none" else kind


@converts("Scatter", "ScatterElements")
def scatter_elements(node: Node) -> Value:
    x, indices, updates = node.operand(0), node.operand(1), node.operand(2)
    node.static(x, indices, updates)
    shape, own = tensor_of(x).shape, tensor_of(indices).shape
    axis, kind = node.axis(node.attr("axis", 0), len(shape)), _kind(node)
    known = node.constant(indices)
    if known is not None:
        at = list(np.indices(own))
        at[axis] = np.where(known < 0, known + shape[axis], known)
        rows = np.ravel_multi_index(at, shape, mode="clip").ravel()
        flat = node.reshape(updates, (tensor_of(updates).size,), "flat_updates")
        done = _scatter_known(
            node, node.reshape(x, (tensor_of(x).size,), "flat"), rows, flat, kind, "written"
        )
        if done is not None:
            return node.build(nn.Reshape(done, results=[x.type]))
    # Where updates are smaller than x, further ones go to a place that does not exist.
    more = [0 if d == axis else s - o for d, (s, o) in enumerate(zip(shape, own, strict=True))]
    if any(more):
        pads = [*[0] * len(shape), *more]
        indices = node.build(
            nn.Pad(node.cast(indices, i64, "wide"), pads=pads, value=float(shape[axis])), "all_places"
        )
        updates = node.build(nn.Pad(updates, pads=pads), "all_updates")
    return node.build(nn.Scatter(x, indices, updates, axis=axis, kind=kind))


@converts("ScatterND")
def scatter_nd(node: Node) -> Value:
    x, indices, updates = node.operand(0), node.operand(1), node.operand(2)
    node.static(x, indices, updates)
    shape, depth = tensor_of(x).shape, tensor_of(indices).shape[-1] if tensor_of(indices).rank else 0
    rows, width = prod(shape[:depth]), prod(shape[depth:])
    count = prod(tensor_of(indices).shape[:-1])
    if tensor_of(updates).size != count * width:
        raise node.malformed(
            f"updates {tensor_of(updates)} do not fit {tensor_of(indices)} and {tensor_of(x)}"
        )
    places = node.reshape(_flat_rows(node, indices, shape[:depth]), (count,), "flat_rows")
    table, new = node.reshape(x, (rows, width), "table"), node.reshape(updates, (count, width), "new_rows")
    known, kind = node.constant(places), _kind(node)
    done = None if known is None else _scatter_known(node, table, known, new, kind, "written")
    if done is None:
        column = node.reshape(places, (count, 1), "column")
        done = node.build(nn.Scatter(table, column, new, axis=0, kind=kind), "written")
    return node.build(nn.Reshape(done, results=[x.type]))


def _scatter_known(
    node: Node, x: Value, rows: np.ndarray, updates: Value, kind: str, suffix: str
) -> Value | None:
    """Rows of `x` replaced by, or combined with, those of `updates`, at known places: each row looks up which
    update it gets. None where several are to be combined in one place."""
    count = tensor_of(x).shape[0]
    if not len(rows):
        return x
    source = np.full(count, -1, np.int64)
    source[rows] = np.arange(len(rows))  # of several, NumPy keeps the last
    if kind != "set" and len(np.unique(rows)) != len(rows):
        return None
    changed = source >= 0
    new = updates
    if not np.array_equal(source, np.arange(len(rows))):
        new = node.build(nn.Gather(updates, node.const(np.maximum(source, 0), "sources"), axis=0), "news")
    if kind != "set":
        new = node.build(_COMBINE[kind](x, new), "combined")
    if changed.all():
        return new
    flags = node.const(changed.reshape(count, *[1] * (tensor_of(x).rank - 1)), "is_changed")
    return node.build(nn.Select(flags, new, x), suffix)


# Sizes that depend on data --------------------------------------------------------------------------------


@converts("NonZero")
def non_zero(node: Node) -> Value:
    found = node.constant(0)
    if found is None:
        raise node.unsupported("the size of its result depends on its input, which is not a constant")
    return node.const(np.array(np.nonzero(found), np.int64), "places")


@converts("Unique")
def unique(node: Node) -> list[Value | None]:
    x, axis = node.constant(0), node.attr("axis")
    if x is None:
        raise node.unsupported("the size of its result depends on its input, which is not a constant")
    _, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    order = np.arange(len(first)) if node.attr("sorted", 1) else np.argsort(first)
    kept = first[order]
    y = x.reshape(-1)[kept] if axis is None else np.take(x, kept, axis)
    rest = {"first": kept, "inverse": np.argsort(order)[inverse.reshape(-1)], "counts": counts[order]}
    return [node.const(y, "values"), *(node.const(a.astype(np.int64), s) for s, a in rest.items())]
