"""autodiff: reductions, reshaping, slicing, joining, padding, gathering."""

from __future__ import annotations

from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import NnOp, axis_in
from mdsl.dialects.nn.data import reduced_shape
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64
from mdsl.passes.nn.autodiff.build import Adjoint, Partials, vjp
from mdsl.rewriting.constants import constant_data

# Reductions -----------------------------------------------------------------------------------------------


@vjp("nn.reduce")
def reduce(a: Adjoint, op: nn.Reduce, g: Value) -> Partials:
    """What a sum gets goes to each element, of a mean each gets its share; equal largest elements share alike."""
    shape, axes, kind = tensor_of(op.x).shape, op.dimensions, op.attr("kind")
    kept = reduced_shape(shape, axes, True)
    if axes != list(range(len(axes))):  # else what is left is aligned already
        g = a.reshape(g, kept)
    if kind == "mean":
        g = a.mul(g, 1 / max(1, prod(shape[d] for d in axes)), "share")
    if kind in ("sum", "mean"):
        return [a.broadcast(g, shape)]
    y = a.reshape(op.result, kept, "kept")
    if kind == "prod":
        return [a.mul(g, _others(a, op.x, y, axes))]
    is_it = a(nn.Cast(a.compare(op.x, "eq", y), results=[op.x.type]), "is_it")
    return [a.mul(is_it, a.div(g, a.sum(is_it, axes, suffix="count")))]


def _others(a: Adjoint, x: Value, y: Value, axes: list[int]) -> Value:
    """The product of the other elements along `axes`, for each: y / x, but where one of them is 0 that of the rest, and where several are, 0.
    With two of them, each has that of the rest times the other: 0 as well, but its own derivative is right."""
    is_zero = a.compare(x, "eq", 0.0, "is_zero")
    count = a.sum(a(nn.Cast(is_zero, results=[x.type]), "zeros"), axes, suffix="count")
    factors = a.where(is_zero, 1.0, x, "factors")
    rest = a.reduce(factors, "prod", axes, True, "rest")
    other = a.sub(a.sum(a.where(is_zero, x, 0.0), axes), x, "other")
    pair = a.where(a.compare(count, "eq", 2.0), a.mul(rest, other), 0.0, "pair")
    alone = a.where(a.compare(count, "eq", 1.0), rest, pair, "alone")
    return a.where(is_zero, alone, a.div(y, factors), "others")


# Shapes ---------------------------------------------------------------------------------------------------


@vjp("nn.reshape", "nn.flatten")
def reshape(a: Adjoint, op: NnOp, g: Value) -> Partials:
    return [a.reshape(g, tensor_of(op.operands[0]).shape)]


@vjp("nn.broadcast")
def broadcast(a: Adjoint, op: nn.Broadcast, g: Value) -> Partials:
    return [g]


@vjp("nn.transpose")
def transpose(a: Adjoint, op: nn.Transpose, g: Value) -> Partials:
    back = [op.permutation.index(d) for d in range(len(op.permutation))]
    return [a.transpose(g, back)]


@vjp("nn.concat")
def concat(a: Adjoint, op: nn.Concat, g: Value) -> Partials:
    rank = tensor_of(op.result).rank
    axis, start = axis_in(op, op.attr("axis"), rank), 0
    partials: list[Value] = []
    for part in op.operands:
        shape = tensor_of(part).shape
        partials.append(a.slice(g, [start if d == axis else 0 for d in range(rank)], shape))
        start += shape[axis]
    return partials


@vjp("nn.slice")
def slice_(a: Adjoint, op: nn.Slice, g: Value) -> Partials:
    """Each element goes back to where it was, between zeros."""
    type = tensor_of(op.operands[0])
    taken = [range(n) if r is None else r for r, n in zip(op.ranges(type.shape), type.shape, strict=True)]
    if any(len(r) == 0 for r in taken):
        return [a.zeros(type)]
    forwards = a.reverse(g, [d for d, r in enumerate(taken) if r.step < 0], "forwards")
    apart = a.spread(forwards, [abs(r.step) for r in taken])
    low = [min(r) for r in taken]
    return [a.pad(apart, low, [n - max(r) - 1 for n, r in zip(type.shape, taken, strict=True)])]


@vjp("nn.pad")
def pad(a: Adjoint, op: nn.Pad, g: Value) -> Partials:
    shape = tensor_of(op.operands[0]).shape
    return [a.slice(g, op.attr("pads")[: len(shape)], shape)]


# Gathering ------------------------------------------------------------------------------------------------


@vjp("nn.gather")
def gather(a: Adjoint, op: nn.Gather, g: Value) -> Partials:
    """Slices that come from one place are added up there: where all places are known, by a gather of what each gets,
    which is as parallel as the gather was; else by a scatter."""
    x, places = tensor_of(op.operands[0]), tensor_of(op.operands[1])
    axis = axis_in(op, op.attr("axis"), x.rank)
    size = x.shape[axis]
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    if places.size == 0 or x.size == 0:
        return [a.zeros(x), None]
    g = a.reshape(g, (*before, places.size, *behind), "slices")
    known = constant_data(op.operands[1])
    if known is not None:
        return [_gathered_back(a, g, axis, _within(known.astype(np.int64).reshape(-1), size), size), None]
    indices = a.reshape(op.operands[1], (places.size, *[1] * len(behind)), "places")
    within = bounded(a, wide_places(a, indices, size), size)
    return [a(nn.Scatter(a.zeros(x), within, g, axis=axis, kind="add")), None]


def _within(places: np.ndarray, size: int) -> np.ndarray:
    """Where a gather reads: negative places count from the end, what is still outside moves to the edge."""
    return np.clip(np.where(places < 0, places + size, places), 0, size - 1)


def wide_places(a: Adjoint, places: Value, size: int) -> Value:
    """Places that are not known yet, as i64, negative ones counted from the end of `size`."""
    if tensor_of(places).element != i64:
        places = a(nn.Cast(places, results=[tensor_of(places).with_element(i64)]), "wide_places")
    return a.where(a.compare(places, "lt", 0), a.add(places, size), places, "places")


def bounded(a: Adjoint, places: Value, size: int) -> Value:
    """The same moved to the edge where they are outside."""
    return a(nn.Clip(places, min=0.0, max=float(size - 1)), "bounded")


def _gathered_back(a: Adjoint, g: Value, axis: int, places: np.ndarray, size: int) -> Value:
    """The slices of g along `axis`, of which number i belongs to place `places[i]`, added up at each of `size` places.

    With the most slices that one place gets in a dimension behind `axis`, a slice of zeros fills up the others."""
    order = np.argsort(places, kind="stable")
    counts = np.bincount(places, minlength=size)
    most = int(counts.max())
    rank_within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    sources = np.full((size, most), len(places), np.int64)
    sources[places[order], rank_within] = order
    rank = tensor_of(g).rank
    if (counts < most).any():
        g = a.pad(g, [0] * rank, [int(d == axis) for d in range(rank)], "filled")
    if most == 1:
        sources = sources[:, 0]
    found = a(nn.Gather(g, a.constant(sources, i64, "sources"), axis=axis), "gathered")
    return found if most == 1 else a.sum(found, [axis + 1], keepdims=False)
