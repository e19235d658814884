"""lower-nn: the order of a few elements, by comparing each with all others."""

from __future__ import annotations

from mdsl.dialects import arith, linalg
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import Type, i32, is_float
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION
RANK = i32
"""Twice as many fit a vector as of what results are."""


def ranks(e: Emitter, x: Value, axis: int, descending: bool) -> Value:
    """How many others stand before each element."""
    shape = tensor_of(x).shape
    own, others = _both(len(shape), axis)

    def count(s: Scalars, here: Value, other: Value, rank: Value) -> Value:
        before, behind = is_before(s, other, here, descending), is_before(s, here, other, descending)
        earlier = s(
            arith.CmpI.of("slt", _counter(s, len(shape), RANK), _counter(s, axis, RANK)), "is_earlier"
        )
        zero, one = s.constant(0, RANK, "zero"), s.constant(1, RANK, "one")
        tied = s(arith.Select(behind, zero, s(arith.Select(earlier, one, zero))), "tied")
        return s.add(rank, s(arith.Select(before, one, tied), "counts"))

    start = e.fill(0, shape, RANK, "no_rank")
    loops = [*[PARALLEL] * len(shape), REDUCTION]
    return e.value(e.generic([(x, own), (x, others)], [(start, own)], loops, count), "ranks")


def at_rank(e: Emitter, order: Value, source: Value | None, axis: int, count: int, name: str | None) -> Value:
    """The first `count` elements of `source` by their ranks in `order`, or of the places along the axis."""
    shape = tensor_of(order).shape
    own, others = _both(len(shape), axis)

    def find(s: Scalars, rank: Value, *rest: Value) -> Value:
        is_here = s(arith.CmpI.of("eq", rank, _counter(s, axis, RANK)), "is_here")
        element = rest[0] if len(rest) == 2 else _counter(s, len(shape), RANK)
        return s(arith.Select(is_here, element, rest[-1]), "found")

    element = RANK if source is None else tensor_of(source).element
    start = e.fill(0, [count if d == axis else n for d, n in enumerate(shape)], element)
    reads = [(order, others), *([] if source is None else [(source, others)])]
    return e.value(e.generic(reads, [(start, own)], [*[PARALLEL] * len(shape), REDUCTION], find), name)


def _both(rank: int, axis: int) -> tuple[range, list[int]]:
    """How a nest whose last loop runs over the others along the axis reads an element, and the others."""
    return range(rank), [rank if d == axis else d for d in range(rank)]


def _counter(s: Scalars, dim: int, type: Type) -> Value:
    return s(arith.IndexCast(s(linalg.IndexOp(dim=dim), f"i{dim}"), results=[type]), "place")


def is_before(s: Scalars, a: Value, b: Value, descending: bool) -> Value:
    """True if `a` must stand before `b`; NaN counts as the largest."""
    if not is_float(a.type):
        return s(arith.CmpI.of("sgt" if descending else "slt", a, b), "is_before")
    beats = s(arith.CmpF.of("ugt" if descending else "ult", a, b), "beats")
    number = b if descending else a  # that of the two which must not be NaN
    return s(arith.AndI(beats, s(arith.CmpF.of("ord", number, number), "is_number")), "is_before")
