"""lower-nn: sorting long rows. Elements that only a few are wanted of are first looked for in parts; what is left is sorted in short runs by
ranks, and these are merged, two at a time (Knuth: The Art of Computer Programming, volume 3, 5.2.4)."""

from __future__ import annotations

from math import nan

from mdsl.dialects import arith, linalg, scf, tensor, ukernel
from mdsl.ir.attributes import SymbolRefAttr
from mdsl.ir.core import Builder, Region, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import Type, is_float
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars, highest, lowest
from mdsl.passes.nn.lower_nn.data import clamped
from mdsl.passes.nn.lower_nn.merging import merge_kernel
from mdsl.passes.nn.lower_nn.ranks import RANK, at_rank, ranks

RUN = 64
"""Elements of a row that are sorted by comparing all with all: so few are compared in less time than it takes to merge them."""

LESS = 4
"""Looking for parts pays where the elements of those that are found are that many times fewer."""


def sorted_rows(e: Emitter, x: Value, count: int, descending: bool) -> tuple[Value, Value]:
    """The first `count` elements of each row of x, in their order, equal ones in that of their places; and these places."""
    places: Value | None = None
    while (part := _part_size(tensor_of(x).shape[1], count)) is not None:
        x, places = _candidates(e, x, places, part, count, descending)
    x, places = _runs(e, x, places, count, descending)
    while tensor_of(x).shape[1] > 1:
        x, places = _merged(e, x, places, count, descending)
    first = [e.reshape(v, (tensor_of(v).shape[0], count), "row") for v in (x, places)]
    return first[0], first[1]


# Parts ----------------------------------------------------------------------------------------------------


def _part_size(size: int, count: int) -> int | None:
    """Into parts of how many elements a row is divided to look for the first few, None where it is not: about as many are parts as are
    elements of those that are looked through."""
    part = 8
    while part * part * count < size:
        part *= 2
    return part if size > RUN and LESS * part * count <= size else None


def _candidates(
    e: Emitter, x: Value, places: Value | None, part: int, count: int, descending: bool
) -> tuple[Value, Value]:
    """The elements of `count` parts of each row of x, in the order of their places, and these. They are the parts whose own first
    elements come first: in any other each element has as many in front of it."""
    rows, size = tensor_of(x).shape
    parts = -(-size // part)
    cut = _cut(e, x, parts, part, last(tensor_of(x).element, descending))
    best = _first_of_parts(e, cut, descending)
    _, chosen = sorted_rows(e, best, count, descending)
    chosen, _ = sorted_rows(e, chosen, count, False)
    shape = (rows, count, part)

    def element(source: Value) -> Value:
        def body(s: Scalars, number: Value) -> Value:
            row, within = (s(linalg.IndexOp(dim=d), f"i{d}") for d in (0, 2))
            return s(tensor.Extract(source, [row, clamped(s, number, parts), within]), "element")

        return e.map([(chosen, [0, 1])], shape, tensor_of(source).element, body, "candidates")

    def place(s: Scalars, number: Value) -> Value:
        within = s(arith.IndexCast(s(linalg.IndexOp(dim=2), "i2"), results=[RANK]), "within")
        return s.add(s.multiply(number, s.constant(part, RANK, "part"), "start"), within, "place")

    found = (
        e.map([(chosen, [0, 1])], shape, RANK, place, "places")
        if places is None
        else element(_cut(e, places, parts, part, 0))
    )
    flat = [e.reshape(v, (rows, count * part), "flat") for v in (element(cut), found)]
    return flat[0], flat[1]


def _first_of_parts(e: Emitter, parts: Value, descending: bool) -> Value:
    """The element of each part that stands before all others; NaN counts as the largest."""
    element = tensor_of(parts).element

    def first(s: Scalars, x: Value, found: Value) -> Value:
        if descending:
            return s.maximum(found, x, "first")
        return s(arith.MinNumF(found, x) if is_float(element) else arith.MinSI(found, x), "first")

    return e.reduce(parts, [2], last(element, descending), element, first, "best")


def last(element: Type, descending: bool) -> float:
    """What stands behind every element, or is equal to it."""
    if descending:
        return lowest(element)
    return nan if is_float(element) else highest(element)


def _cut(e: Emitter, x: Value, parts: int, part: int, fill: float) -> Value:
    """Rows as parts of equal size, the last one filled up."""
    rows, size = tensor_of(x).shape
    return e.reshape(e.pad(x, [0, 0], [0, parts * part - size], fill), (rows, parts, part), "parts")


# Runs -----------------------------------------------------------------------------------------------------


def _runs(e: Emitter, x: Value, places: Value | None, count: int, descending: bool) -> tuple[Value, Value]:
    """Each row as runs of at most `RUN` elements in order, a power of two of them, and the places of these: of the first `count` of each."""
    rows, size = tensor_of(x).shape
    runs = 1
    while runs * RUN < size:
        runs *= 2
    length = -(-size // runs)
    if places is None:
        counter = lambda s: s(arith.IndexCast(s(linalg.IndexOp(dim=1), "i1"), results=[RANK]), "place")  # noqa: E731
        places = e.map([], (rows, size), RANK, counter, "counted")
    cut, at = (
        _cut(e, x, runs, length, last(tensor_of(x).element, descending)),
        _cut(e, places, runs, length, 0),
    )
    order = ranks(e, cut, 2, descending)
    kept = min(length, count)
    return at_rank(e, order, cut, 2, kept, "run"), at_rank(e, order, at, 2, kept, "run_places")


# Merging --------------------------------------------------------------------------------------------------


def _merged(e: Emitter, x: Value, places: Value, count: int, descending: bool) -> tuple[Value, Value]:
    """Half as many runs: each two as one, of the first `count` elements, by a micro-kernel for each pair."""
    rows, runs, length = tensor_of(x).shape
    kept = min(2 * length, count)
    pairs = [e.reshape(v, (rows * runs // 2, 2 * length), "pairs") for v in (x, places)]
    outs = [e.empty((rows * runs // 2, kept), tensor_of(v).element) for v in (x, places)]
    kernel = merge_kernel(e, tensor_of(x).element, length, kept, descending)
    loop = scf.Forall.make([0], [rows * runs // 2], [1], outs, ["pair"])
    s = Scalars(Builder(loop.body, location=e.op.location))
    pair = loop.ivs[0]

    def part(value: Value, size: int, name: str) -> Value:
        return s(tensor.ExtractSlice.of(value, [pair, 0], [1, size], shape=[size]), name)

    given = [part(v, 2 * length, n) for v, n in zip(pairs, ("runs", "run_places"), strict=True)]
    into = [part(v, kept, n) for v, n in zip(loop.shared, ("into", "places_into"), strict=True)]
    call = s.builder.add(
        ukernel.Dispatch(
            [*given, *into], results=[v.type for v in into], callee=SymbolRefAttr(kernel), outs=2
        )
    )
    end = scf.InParallel(results=[], regions=[Region()])
    for made, whole, name in zip(call.results, loop.shared, ("merged", "merged_places"), strict=True):
        made.name = name
        end.body.append(tensor.ParallelInsertSlice.of(made, whole, [pair, 0], [1, kept]))
    loop.body.append(end)
    e.builder.add(loop)
    for whole, name in zip(loop.results, ("all_merged", "all_merged_places"), strict=True):
        whole.name = f"{e.name}_{name}"
    found = [e.reshape(v, (rows, runs // 2, kept), "merged") for v in loop.results]
    return found[0], found[1]
