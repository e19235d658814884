"""autodiff: scattering."""

from __future__ import annotations

from math import prod

from mdsl.dialects import nn
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, i64
from mdsl.passes.nn.autodiff.build import Adjoint, Partials, vjp
from mdsl.passes.nn.autodiff.data import bounded, wide_places


@vjp("nn.scatter")
def scatter(a: Adjoint, op: nn.Scatter, g: Value) -> Partials:
    x, indices, updates = op.operands
    if not tensor_of(updates).size:
        return g, None, None
    places = _Places(a, op)
    match op.attr("kind"):
        case "set":
            kept = a(nn.Scatter(g, indices, a.zeros(tensor_of(updates)), axis=places.axis))
            return kept, None, a.where(places.last_of_its_place(), places.read(g), 0.0)
        case "add":
            return g, None, a.where(places.inside, places.read(g), 0.0)
        case "mul":
            ones = a.splat(1, tensor_of(x), "ones")
            factor = places.scattered(ones, updates, "mul")
            return a.mul(g, factor), None, a.mul(places.read(g), _other_factors(a, op, places))
    is_x = a(nn.Cast(a.compare(x, "eq", op.result), results=[x.type]), "is_x")
    same = a(nn.And(a.compare(updates, "eq", places.read(op.result)), places.inside))
    is_update = a(nn.Cast(same, results=[updates.type]), "is_update")
    share = a.div(g, places.scattered(is_x, is_update, "add"))
    return a.mul(share, is_x), None, a.mul(places.read(share), is_update)


class _Places:
    """Where a scatter writes."""

    def __init__(self, a: Adjoint, op: nn.Scatter) -> None:
        self.a, self.op = a, op
        self.shape, self.updates = tensor_of(op.x).shape, tensor_of(op.updates)
        self.axis = axis_in(op, op.attr("axis"), len(self.shape))
        wide = wide_places(a, op.indices, self.shape[self.axis])
        size = self.shape[self.axis]
        within = a(nn.And(a.compare(wide, "ge", 0.0), a.compare(wide, "lt", size)))
        self.inside = a.broadcast(within, self.updates.shape, "inside")
        self.along = bounded(a, wide, size)

    def read(self, x: Value) -> Value:
        """The elements of `x` at the places, for each update; of one outside that at the edge."""
        a, rank = self.a, len(self.shape)
        steps = [prod(self.shape[d + 1 :]) for d in range(rank)]
        at = a.mul(self.along, steps[self.axis])
        for d in range(rank):
            if d != self.axis and self.shape[d] > 1:
                at = a.add(at, a.mul(a.counter(self.shape[d], d, rank), steps[d]))
        at = a.broadcast(at, self.updates.shape, "at")
        return a(nn.Gather(a.reshape(x, (prod(self.shape),), "flat"), at, axis=0), "read")

    def scattered(self, x: Value, updates: Value, kind: str) -> Value:
        return self.a(nn.Scatter(x, self.op.indices, updates, axis=self.axis, kind=kind))

    def last_of_its_place(self) -> Value:
        """Whether an update is what stands in the result: none behind it is for its place."""
        a, rank = self.a, len(self.shape)
        own = a.counter(self.updates.shape[self.axis], self.axis, rank)
        own = a.broadcast(own, self.updates.shape, "own")
        nobody = a.splat(-1, TensorType(self.shape, i64), "nobody")
        written = self.scattered(nobody, own, "set")
        return a(nn.And(a.compare(self.read(written), "eq", own), self.inside), "is_last")


def _other_factors(a: Adjoint, op: nn.Scatter, places: _Places) -> Value:
    """For each update the product of what else is multiplied at its place: the result by it, but where an update is 0 that of
    the rest, and where several are 0. What is outside has none."""
    x, _, updates = op.operands
    is_zero = a.compare(updates, "eq", 0.0, "is_zero")
    zeros = a(nn.Cast(is_zero, results=[updates.type]), "zeros")
    count = places.read(places.scattered(a.zeros(tensor_of(x)), zeros, "add"))
    rest = places.read(places.scattered(x, a.where(is_zero, 1.0, updates), "mul"))
    alone = a.where(a.compare(count, "eq", 1.0), rest, 0.0, "alone")
    others = a.where(is_zero, alone, a.div(places.read(op.result), updates), "others")
    return a.where(places.inside, others, 0.0)
