"""lower-nn: sorting, as loop nests that compare all pairs of positions."""

from __future__ import annotations

from mdsl.dialects import arith, linalg, nn
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64, is_float
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars, lowers

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION


# Sorting --------------------------------------------------------------------------------------------------


@lowers("nn.argsort")
def argsort(e: Emitter, op: nn.ArgSort) -> Value:
    """An element's rank is how many others stand before it; at place k stands the element of rank k."""
    x, result = tensor_of(op.x), tensor_of(op.result)
    axis = axis_in(op, op.attr("axis"), x.rank)
    descending = op.attr("descending")
    own = range(x.rank)
    others = [x.rank if d == axis else d for d in own]  # the last loop runs over the others along the axis
    loops = [*[PARALLEL] * x.rank, REDUCTION]

    def count(s: Scalars, here: Value, other: Value, rank: Value) -> Value:
        before, behind = _before(s, other, here, descending), _before(s, here, other, descending)
        i, j = (s(linalg.IndexOp(dim=d), name) for d, name in ((axis, "i"), (x.rank, "j")))
        earlier = s(arith.CmpI.of("slt", j, i), "is_earlier")
        zero, one = s.constant(0, i64, "zero"), s.constant(1, i64, "one")
        tied = s(arith.Select(behind, zero, s(arith.Select(earlier, one, zero))), "tied")
        return s.add(rank, s(arith.Select(before, one, tied), "counts"))

    def find(s: Scalars, rank: Value, position: Value) -> Value:
        k, j = (_counter(s, d) for d in (axis, x.rank))
        is_here = s(arith.CmpI.of("eq", rank, k), "is_here")
        return s.add(position, s(arith.Select(is_here, j, s.constant(0, i64, "zero")), "counts"))

    ranks = e.fill(0, x.shape, i64, "no_rank")
    ranks = e.value(e.generic([(op.x, own), (op.x, others)], [(ranks, own)], loops, count), "ranks")
    start = e.fill(0, result.shape, i64)
    return e.value(e.generic([(ranks, others)], [(start, own)], loops, find), None)


def _counter(s: Scalars, dim: int) -> Value:
    return s(arith.IndexCast(s(linalg.IndexOp(dim=dim), f"i{dim}"), results=[i64]), "place")


def _before(s: Scalars, a: Value, b: Value, descending: bool) -> Value:
    """True if `a` must stand before `b`; NaN counts as the largest."""
    if not is_float(a.type):
        return s(arith.CmpI.of("sgt" if descending else "slt", a, b), "is_before")
    beats = s(arith.CmpF.of("ugt" if descending else "ult", a, b), "beats")
    number = b if descending else a  # that of the two which must not be NaN
    return s(arith.AndI(beats, s(arith.CmpF.of("ord", number, number), "is_number")), "is_before")
