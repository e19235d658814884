"""Transposition in registers: vectors along one axis of memory that is contiguous along another.

Of each lane's row a run of neighbouring elements is loaded, as many as a piece of a register holds within which
elements of two registers interleave at once (`Isa.shuffle_bytes`). Runs side by side fill vectors:

    a0 a1 | c0 c1        a0 b0 | c0 d0
    b0 b1 | d0 d1   ->   a1 b1 | c1 d1

and the pieces are transposed all at once, in as many rounds as the length of a run has bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from mdsl.analysis.nest import Access, Axis
from mdsl.dialects import vector
from mdsl.ir.core import Value
from mdsl.ir.types import VectorType
from mdsl.passes.buffers.vectorize.plan import Point
from mdsl.rewriting.kernel_builder import KernelBuilder


def load_transposed(
    out: KernelBuilder, access: Access, points: Sequence[Point], across: Axis, length: int
) -> None:
    """Loads the vectors of the access at all points, a run of `length` elements along `across` a lane; the builder
    then knows them. Reads no element outside of the axes' extents, of which `across` has at least `length`."""
    for some in _runs(points, across, length):
        first, name = some[0], access.memory.name
        before = length - len(
            some
        )  # at the edge, elements in front of the run take the place of those behind
        start = {**first.env, across: first.env[across].plus(-before)}
        ((along, lanes),) = first.dims
        rows = [
            out.read(access, {**start, along: first.env[along].plus(lane)}, ((across, length),))
            for lane in range(lanes)
        ]
        columns = _transposed(out, rows, length, name)
        for point, column in zip(some, columns[before:], strict=True):
            out.remember(out.key(access, point.env, point.dims), column, out.leaf)


def _runs(points: Sequence[Point], across: Axis, length: int) -> Iterator[list[Point]]:
    """Up to `length` points that follow each other along `across`."""

    def place(point: Point) -> list[tuple[int, int]]:
        others = [(axis, at) for axis, at in point.env.items() if axis is not across]
        return sorted((axis.serial, at.constant) for axis, at in others)

    ordered = sorted(points, key=lambda point: (place(point), point.env[across].constant))
    for _, line in groupby(ordered, place):
        run = list(line)
        yield from (run[start : start + length] for start in range(0, len(run), length))


def _transposed(out: KernelBuilder, rows: Sequence[Value], length: int, name: str | None) -> list[Value]:
    """The columns of rows of `length` elements."""
    pieces = 1 << (-(-len(rows) // length) - 1).bit_length()
    filled = [*rows, *[rows[-1]] * (pieces * length - len(rows))]
    vectors = [_side_by_side(out, filled[row::length], name) for row in range(length)]
    half = length // 2
    starts = range(0, pieces * length, length)
    masks = [
        [n for at in starts for i in range(at + part, at + part + half) for n in (i, i + pieces * length)]
        for part in (0, half)
    ]
    for _ in range(half.bit_length()):
        pairs = zip(vectors[:half], vectors[half:], strict=True)
        vectors = [_shuffle(out, a, b, mask, name) for a, b in pairs for mask in masks]
    if len(filled) > len(rows):
        vectors = [_shuffle(out, v, v, range(len(rows)), name) for v in vectors]
    return vectors


def _side_by_side(out: KernelBuilder, parts: Sequence[Value], name: str | None) -> Value:
    """Vectors one after another as one; there are a power of two of them."""
    while len(parts) > 1:
        parts = [_joined(out, a, b, name) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _joined(out: KernelBuilder, a: Value, b: Value, name: str | None) -> Value:
    assert isinstance(a.type, VectorType)
    return _shuffle(out, a, b, range(2 * a.type.size), name)


def _shuffle(out: KernelBuilder, a: Value, b: Value, mask: Sequence[int], name: str | None) -> Value:
    return out.emit(vector.Shuffle.of(a, b, mask), name)
