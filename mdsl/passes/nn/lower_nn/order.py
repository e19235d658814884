"""lower-nn: sorting, as loop nests that compare all pairs of positions, of parts where only the first few are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from mdsl.dialects import arith, linalg, nn
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import Type, i32, i64, is_float
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars, highest, lowers, lowest

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION
RANK = i32
"""Twice as many fit a vector as of what results are."""


# Sorting --------------------------------------------------------------------------------------------------


SHARE = 4
"""How many times as long as what is wanted of it a part is: longer ones have more pairs, shorter ones leave more to look through again."""

FEW = 64
"""Parts are not shorter than that: so few elements are compared faster than another loop begins."""


@lowers("nn.argsort")
def argsort(e: Emitter, op: nn.ArgSort) -> Value:
    """The first few of many are among the first few of each part: all but these are compared with their part alone, and so on
    with what is left. The elements of a part stand in their order, and parts do, so that equal ones keep theirs."""
    axis = axis_in(op, op.attr("axis"), tensor_of(op.x).rank)
    count, descending = tensor_of(op.result).shape[axis], op.attr("descending")
    part = max(SHARE * count, FEW)
    x, places = op.x, None
    while count and tensor_of(x).shape[axis] >= 2 * part:
        x, places = _first_of_parts(e, x, places, axis, part, count, descending)
    ranks = _ranks(e, x, axis, descending)
    return _at_rank(e, ranks, places, axis, count, None)


def _first_of_parts(
    e: Emitter, x: Value, places: Value | None, axis: int, part: int, count: int, descending: bool
) -> tuple[Value, Value]:
    """The first `count` elements of each part of x, and their places: those in `places`, or where they stand."""
    shape = tensor_of(x).shape
    parts = -(-shape[axis] // part)
    places = _counted(e, shape, axis) if places is None else places

    def cut(value: Value, fill: float) -> Value:
        high = [parts * part - n if d == axis else 0 for d, n in enumerate(shape)]
        whole = e.pad(value, [0] * len(shape), high, fill)
        return e.reshape(whole, (*shape[:axis], parts, part, *shape[axis + 1 :]), "parts")

    x_parts, place_parts = cut(x, _last(tensor_of(x).element, descending)), cut(places, 0)
    ranks = _ranks(e, x_parts, axis + 1, descending)
    joined = (*shape[:axis], parts * count, *shape[axis + 1 :])
    first, found = (
        e.reshape(_at_rank(e, ranks, source, axis + 1, count, name), joined, f"{name}_joined")
        for source, name in ((x_parts, "first"), (place_parts, "places"))
    )
    return first, found


def _last(element: Type, descending: bool) -> float:
    """What stands behind every element, or is equal to it."""
    if descending:
        return lowest(element)
    return nan if is_float(element) else highest(element)


def _counted(e: Emitter, shape: Sequence[int], axis: int) -> Value:
    """Where each element stands along the axis."""
    return e.map([], shape, i64, lambda s: _counter(s, axis, i64), "counted")


def _ranks(e: Emitter, x: Value, axis: int, descending: bool) -> Value:
    """How many others stand before each element."""
    shape = tensor_of(x).shape
    own, others = _both(len(shape), axis)

    def count(s: Scalars, here: Value, other: Value, rank: Value) -> Value:
        before, behind = _before(s, other, here, descending), _before(s, here, other, descending)
        earlier = s(
            arith.CmpI.of("slt", _counter(s, len(shape), RANK), _counter(s, axis, RANK)), "is_earlier"
        )
        zero, one = s.constant(0, RANK, "zero"), s.constant(1, RANK, "one")
        tied = s(arith.Select(behind, zero, s(arith.Select(earlier, one, zero))), "tied")
        return s.add(rank, s(arith.Select(before, one, tied), "counts"))

    start = e.fill(0, shape, RANK, "no_rank")
    loops = [*[PARALLEL] * len(shape), REDUCTION]
    return e.value(e.generic([(x, own), (x, others)], [(start, own)], loops, count), "ranks")


def _at_rank(
    e: Emitter, ranks: Value, source: Value | None, axis: int, count: int, name: str | None
) -> Value:
    """The first `count` elements of `source` by rank, or of the places along the axis."""
    shape = tensor_of(ranks).shape
    own, others = _both(len(shape), axis)

    def find(s: Scalars, rank: Value, *rest: Value) -> Value:
        is_here = s(arith.CmpI.of("eq", rank, _counter(s, axis, RANK)), "is_here")
        element = rest[0] if len(rest) == 2 else _counter(s, len(shape), i64)
        return s(arith.Select(is_here, element, rest[-1]), "found")

    element = i64 if source is None else tensor_of(source).element
    start = e.fill(0, [count if d == axis else n for d, n in enumerate(shape)], element)
    reads = [(ranks, others), *([] if source is None else [(source, others)])]
    return e.value(e.generic(reads, [(start, own)], [*[PARALLEL] * len(shape), REDUCTION], find), name)


def _both(rank: int, axis: int) -> tuple[range, list[int]]:
    """How a nest whose last loop runs over the others along the axis reads an element, and the others."""
    return range(rank), [rank if d == axis else d for d in range(rank)]


def _counter(s: Scalars, dim: int, type: Type) -> Value:
    return s(arith.IndexCast(s(linalg.IndexOp(dim=dim), f"i{dim}"), results=[type]), "place")


def _before(s: Scalars, a: Value, b: Value, descending: bool) -> Value:
    """True if `a` must stand before `b`; NaN counts as the largest."""
    if not is_float(a.type):
        return s(arith.CmpI.of("sgt" if descending else "slt", a, b), "is_before")
    beats = s(arith.CmpF.of("ugt" if descending else "ult", a, b), "beats")
    number = b if descending else a  # that of the two which must not be NaN
    return s(arith.AndI(beats, s(arith.CmpF.of("ord", number, number), "is_number")), "is_before")
