"""lower-nn: scattering. Along a few places each looks for what is meant for it, all at once; along more, one update after the other
goes to its place, so that the work grows with the updates, not with the places."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import arith, linalg, nn, scf, tensor
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i1, i64, index
from mdsl.passes.nn.lower_nn.build import Emitter, Read, Scalars, lowers, squeezed
from mdsl.passes.nn.lower_nn.data import clamped, from_start
from mdsl.passes.nn.lower_nn.elementwise import converted

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION

FEW = 64
"""So many places take less time to compare all with an update than it takes to dispatch a micro-kernel for it."""


@lowers("nn.scatter")
def scatter(e: Emitter, op: nn.Scatter) -> Value:
    x, updates = tensor_of(op.x), tensor_of(op.updates)
    axis = axis_in(op, op.attr("axis"), x.rank)
    if x.shape[axis] <= FEW:
        return _searched(e, op, axis)
    own = tensor_of(op.indices).shape
    shape = (1,) * (x.rank - len(own)) + own
    if all(n == (updates.shape[d] if d == axis else 1) for d, n in enumerate(shape)):
        places = e.reshape(op.indices, (updates.shape[axis],), "places")
        inside = _inside(e, [(places, [0])], updates.shape[axis : axis + 1], x.shape[axis])
        return _one_by_one(e, op, (op.x, places, inside, op.updates), axis, None)
    return _flat(e, op, axis)


def _searched(e: Emitter, op: nn.Scatter, axis: int) -> Value:
    """Each place looks through the updates along the axis for those that are meant for it, in order."""
    shape, kind = tensor_of(op.x).shape, op.attr("kind")
    rank = len(shape)
    own = range(rank)
    along = [rank if d == axis else d for d in own]

    def body(s: Scalars, index: Value, update: Value, found: Value) -> Value:
        target = from_start(s, converted(s, index, i64), shape[axis])
        here = s(arith.IndexCast(s(linalg.IndexOp(dim=axis), f"i{axis}"), results=[i64]), "place")
        is_here = s(arith.CmpI.of("eq", target, here), "is_here")
        return s(arith.Select(is_here, _combined(s, kind, found, update), found), "updated")

    reads = [_stretched(e, op.indices, tensor_of(op.updates).shape, along), (op.updates, along)]
    nest = e.generic(reads, [(op.x, own)], [*[PARALLEL] * rank, REDUCTION], body)
    return e.value(nest, None)


def _one_by_one(
    e: Emitter, op: nn.Scatter, values: tuple[Value, Value, Value, Value], axis: int, name: str | None
) -> Value:
    """A loop over the updates along `axis`, each a slice that is combined with the one at its place. `values` are x, the places, whether
    they are in it, and the updates."""
    x, places, inside, updates = values
    shape, count = tensor_of(x).shape, tensor_of(updates).shape[axis]
    loop = scf.For.counted(range(count), e.index, [x], "i", [f"{e.name}_so_far"])
    s = Scalars(Builder(loop.body, location=op.location))
    at = clamped(s, s(tensor.Extract(places, [loop.iv]), "place"), shape[axis])
    sizes = [1 if d == axis else n for d, n in enumerate(shape)]
    here, there = ([i if d == axis else 0 for d in range(len(shape))] for i in (at, loop.iv))
    old = s(tensor.ExtractSlice.of(loop.carried[0], here, sizes), "old")
    update = s(tensor.ExtractSlice.of(updates, there, sizes), "update")
    is_inside = s(squeezed(s(tensor.ExtractSlice.of(inside, [loop.iv], [1]), "inside_part"), []), "is_inside")
    own = range(len(shape))

    def body(s: Scalars, is_inside: Value, update: Value, old: Value) -> Value:
        return s(arith.Select(is_inside, _combined(s, op.attr("kind"), old, update), old), "updated")

    nest = e.generic([(is_inside, ()), (update, own)], [(old, own)], [PARALLEL] * len(shape), body)
    new = s(nest, "new")
    loop.body.append(
        scf.Yield([s(tensor.InsertSlice.of(new, loop.carried[0], here, sizes), "next")], results=[])
    )
    return e.value(loop, name)


def _flat(e: Emitter, op: nn.Scatter, axis: int) -> Value:
    """Updates that go to places of their own each: the tensors are taken as rows of elements."""
    x, updates = tensor_of(op.x), tensor_of(op.updates)
    read = _stretched(e, op.indices, updates.shape, range(x.rank))

    def place(s: Scalars, along: Value) -> Value:
        found = s.constant(0, index, "zero")
        for d, size in enumerate(x.shape):
            here = (
                clamped(s, converted(s, along, i64), size) if d == axis else s(linalg.IndexOp(dim=d), f"i{d}")
            )
            found = s.add(s.multiply(found, s.constant(size, index, "size"), "row"), here, "place")
        return s(arith.IndexCast(found, results=[i64]), "place")

    places = e.map([read], updates.shape, i64, place, "places")
    inside = _inside(e, [read], updates.shape, x.shape[axis])
    rows = [e.reshape(v, (tensor_of(v).size,), "flat") for v in (op.x, places, inside, op.updates)]
    found = _one_by_one(e, op, (rows[0], rows[1], rows[2], rows[3]), 0, "scattered")
    return e.reshape(found, x.shape)


def _inside(e: Emitter, reads: Sequence[Read], shape: Sequence[int], size: int) -> Value:
    """Whether places lie in 0 .. size - 1, negative ones counted from the end."""

    def body(s: Scalars, position: Value) -> Value:
        target = from_start(s, converted(s, position, i64), size)
        above = s(arith.CmpI.of("sge", target, s.constant(0, i64, "zero")), "above")
        below = s(arith.CmpI.of("slt", target, s.constant(size, i64, "size")), "below")
        return s(arith.AndI(above, below), "is_inside")

    return e.map(reads, shape, i1, body, "inside")


def _stretched(e: Emitter, value: Value, shape: tuple[int, ...], loops: Sequence[int]) -> Read:
    """How a nest reads `value`, stretched to `shape`, whose dimensions run over `loops`."""
    value, dims = e.stretch(value, shape)
    return value, [loops[d] for d in dims]


def _combined(s: Scalars, kind: str, old: Value, new: Value) -> Value:
    if kind == "add":
        return s.add(old, new)
    if kind == "mul":
        return s.multiply(old, new)
    if kind == "max":
        return s.maximum(old, new)
    return s.minimum(old, new) if kind == "min" else new
