"""tile: the slices that one tile of a region reads, and the region's ops cloned onto them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.dialects import arith, linalg, tensor
from mdsl.dialects.indices import Index
from mdsl.ir.affine import AffineExpr
from mdsl.ir.attributes import AffineMapAttr, ArrayAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import index
from mdsl.passes.linalg.tile.windows import Window, linear, rebased
from mdsl.rewriting.structured import offset


@dataclass(frozen=True)
class Span:
    """A tile's part of one dimension: where it starts and how long it is."""

    offset: Index
    size: int


class Slicer:
    """Makes the slices and offsets that a tile needs, in front of its region."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.offsets: dict[object, Index] = {}
        self.slices: dict[object, Value] = {}

    def span(self, expr: AffineExpr, loops: Sequence[Span]) -> Span:
        """What the expression runs over where each loop does its part."""
        factors, constant = linear(expr)
        size = 1 + sum(abs(f) * (loops[d].size - 1) for d, f in factors.items())
        # A falling dimension starts at its last element.
        start = constant + sum(f * (loops[d].size - 1) for d, f in factors.items() if f < 0)
        terms = [(loops[d].offset, f) for d, f in factors.items() if f]
        start += sum(o * f for o, f in terms if isinstance(o, int))
        moving = tuple((o, f) for o, f in terms if isinstance(o, Value))
        key = (moving, start)
        if key not in self.offsets:
            self.offsets[key] = offset(moving, start, self.builder)
        return Span(self.offsets[key], size)

    def window(self, window: Window, loops: Sequence[Span]) -> list[Span]:
        """The part of an operand that the loops reach."""
        spans = [self.span(expr, loops) for expr in window.lowest]
        return [Span(s.offset, s.size + extra) for s, extra in zip(spans, window.spread, strict=True)]

    def slice(self, value: Value, spans: Sequence[Span]) -> Value:
        """The part of `value`; `value` itself where that is all of it."""
        offsets, sizes = [s.offset for s in spans], [s.size for s in spans]
        if tuple(sizes) == shaped_of(value).shape:
            return value
        key = (value, tuple(spans))
        if key not in self.slices:
            name = f"{value.name}_tile" if value.name else None
            self.slices[key] = self.builder.value(tensor.ExtractSlice.of(value, offsets, sizes), name)
        return self.slices[key]


def on_tiles(
    op: linalg.LinalgOp, operands: Sequence[Value], windows: Sequence[Window], loops: Sequence[Span]
) -> Op:
    """A copy of `op` on tiles, of which each operand is what the tile reaches in its window. Its counters (`linalg.index`) still count from the start of the whole."""
    mapping = dict(zip(op.operands, operands, strict=True))
    copy = op.clone(mapping)
    copy.operands = list(operands)
    copy.set_result_types(linalg.result_types(copy.outputs))
    _rebase_reversed(copy, op, windows, loops)
    for inner in copy.body.ops:
        if not isinstance(inner, linalg.IndexOp):
            continue
        first = loops[inner.attr("dim")].offset
        if first == 0:
            continue
        builder = Builder.after(inner)
        start = first if isinstance(first, Value) else builder.value(arith.Constant.of(first, index), "start")
        users = list(inner.result.users)
        moved = builder.value(arith.AddI(inner.result, start), inner.result.name)
        for user in users:
            user.operands = [moved if v is inner.result else v for v in user.operands]
    return copy


def _rebase_reversed(copy: Op, op: linalg.LinalgOp, windows: Sequence[Window], loops: Sequence[Span]) -> None:
    """Constants of the maps were offsets into the whole operand; the slice starts at its first element."""
    if not isinstance(copy, linalg.Generic):
        return
    maps = rebased(op, windows, [s.size for s in loops])
    if maps != op.maps:
        copy.attributes = {
            **copy.attributes,
            "indexing_maps": ArrayAttr(tuple(AffineMapAttr(m) for m in maps)),
        }
