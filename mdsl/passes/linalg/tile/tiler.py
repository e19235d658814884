"""tile: one region cut into loops over tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from mdsl.analysis.rows import Rows, find_rows, is_row_region, shared_dims
from mdsl.analysis.tile_sizes import split_dims
from mdsl.dialects import linalg, scf, tensor, ukernel
from mdsl.ir.core import Builder, Region, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.linalg.tile.parts import COUNTERS, Part, count
from mdsl.passes.linalg.tile.parts import parts as dimension_parts
from mdsl.passes.linalg.tile.slices import Slicer, Span, on_tiles
from mdsl.passes.linalg.tile.windows import windows
from mdsl.rewriting.structured import empty_like

_PANELS = 8
"""Panels of columns that keep all workers busy, each with panels of its own; fewer are shared by rows as well."""


@dataclass(frozen=True)
class _Tile:
    """One tile of a region while it is being built."""

    body: Builder
    slicer: Slicer
    spans: list[Span]
    """Its place in the destinations."""
    destinations: Sequence[Value]
    known: dict[Value, Value]
    """What the region's ops computed -> what those of the tile do."""


class Tiler:
    """Cuts one region: its last op gives the tile, the others follow through their indexing maps."""

    def __init__(self, region: ukernel.RegionOp, ops: list[linalg.LinalgOp], rows: Rows) -> None:
        self.region = region
        self.ops = ops
        self.rows = rows
        self.root = ops[-1]
        self.main = next((op for op in ops if op.reduction_dims), self.root)
        self.shape = list(shaped_of(self.root.results[0]).shape)
        self.windows = {op: windows(op) for op in ops}
        self.is_cut_by_rows = is_row_region(ops, rows)
        self.made: list[ukernel.RegionOp] = []
        """The regions that took its place."""

    @staticmethod
    def of(region: ukernel.RegionOp) -> Tiler | None:
        """None for a region that cannot be cut, or has nothing to cut: it stays one kernel."""
        ops = [op for op in region.body.ops if isinstance(op, linalg.LinalgOp)]
        if not ops or not region.results or list(region.body.terminator.operands) != list(ops[-1].results):
            return None
        root = ops[-1]
        if 0 in shaped_of(root.results[0]).shape:
            return None
        split = len(root.inputs)
        outs = root.maps[split:]
        if not all(m == outs[0] and m.is_projected_permutation for m in outs):
            return None
        if any(e.coefficients() is None for op in ops for m in op.maps for e in m.results):
            return None
        rows = find_rows(ops)
        return None if rows is None else Tiler(region, ops, rows)

    def cut(self, sizes: Sequence[int]) -> None:
        """Replaces the region by loops over tiles of `sizes`; nothing changes if one tile is all."""
        order = self._loop_order(sizes)
        results = [self._destination(v) for v in self.root.outputs]
        builder = Builder.before(self.region)
        values = list(results)
        parts = [
            dimension_parts(e, s, d == len(sizes) - 1)
            for d, (e, s) in enumerate(zip(self.shape, sizes, strict=True))
        ]
        inner = self._in_panel(parts, order)
        for part in product(*(pieces for d, pieces in enumerate(parts) if d not in inner)):
            fixed = dict(zip((d for d in range(len(parts)) if d not in inner), part, strict=True))
            values = self._panels(fixed, [parts[d] for d in inner], inner, order, values, builder)
        self.region.replace_by(*values, rename=True)

    def _loop_order(self, sizes: Sequence[int]) -> list[int]:
        """Output dimensions that need a loop, outermost first: columns, then the rest."""
        looped = [d for d, (s, e) in enumerate(zip(sizes, self.shape, strict=True)) if s < e]
        if self.is_cut_by_rows:
            shared = shared_dims(self.ops, self.rows)
            return sorted(looped, key=lambda d: (d not in shared, d))
        if not self.main.is_contraction:
            return looped
        rows, columns = self._split()
        # What both operands have comes first: all of a batch is done before the next.
        return sorted(looped, key=lambda d: (d in rows) * 2 + (d in columns))

    def _split(self) -> tuple[set[int | None], set[int | None]]:
        """The result's dimensions that are rows of the contraction, and those that are its columns."""
        loops = self.rows.loops[self.main]
        rows, columns = split_dims(self.main)
        return {loops[d] for d in rows}, {loops[d] for d in columns}

    def _in_panel(self, parts: Sequence[Sequence[Part]], order: Sequence[int]) -> list[int]:
        """The dimensions whose tiles, whole ones and a remainder, all belong into one iteration over the others:
        rows, if there is a remainder. In a loop of its own it would fetch every panel of columns once more."""
        if not self.main.is_contraction or self.is_cut_by_rows:
            return []
        rows, columns = self._split()
        inner = [d for d in range(len(parts)) if d in rows]
        panels = prod(count(parts[d][0]) for d in order if d in columns)
        return inner if panels >= _PANELS and any(len(parts[d]) > 1 for d in inner) else []

    def _panels(
        self,
        fixed: Mapping[int, Part],
        pieces: Sequence[Sequence[Part]],
        inner: Sequence[int],
        order: Sequence[int],
        values: list[Value],
        builder: Builder,
    ) -> list[Value]:
        """Loops over `fixed`, and in each iteration over the combinations of `pieces`, parts of the dimensions `inner`."""
        looped = [d for d in order if d in fixed and count(fixed[d]) > 1]
        rank = len(self.shape)
        if not inner or not looped:
            for piece in product(*pieces):
                part = {**fixed, **dict(zip(inner, piece, strict=True))}
                values = self._loops([part[d] for d in range(rank)], order, values, builder, {})
            return values
        loop = self._forall({d: fixed[d] for d in looped}, values, builder)
        counters = dict(zip(looped, loop.ivs, strict=True))
        panel = {d: Span(counters.get(d, lower), size) for d, (lower, _, size) in fixed.items()}
        spans = [panel.get(d) or Span(0, self.shape[d]) for d in range(rank)]
        body = Builder(loop.body, location=self.region.location)
        slicer = Slicer(body)
        tiles = [slicer.slice(shared, spans) for shared in loop.shared]
        for piece in product(*pieces):
            chosen = dict(zip(inner, piece, strict=True))
            part = [chosen.get(d) or (0, fixed[d][2], fixed[d][2]) for d in range(rank)]
            tiles = self._loops(part, order, tiles, body, panel)
        self._close(loop, tiles, spans)
        return list(loop.results)

    def _destination(self, value: Value) -> Value:
        """The tensor, outside the region, that the result goes to."""
        owner = value.owner
        if isinstance(owner, linalg.LinalgOp) and owner in self.ops:
            return self._destination(owner.outputs[list(owner.results).index(value)])  # type: ignore[arg-type]
        if isinstance(owner, tensor.Empty):
            if owner.block is self.region.block:
                return value
            name = self.region.results[0].name
            return Builder.before(self.region).value(owner.clone(), f"{name}_init" if name else None)
        return value

    def _loops(
        self,
        part: Sequence[Part],
        order: Sequence[int],
        values: list[Value],
        builder: Builder,
        panel: Mapping[int, Span],
    ) -> list[Value]:
        """One loop nest (or, without loops, one tile) over `part` of the destinations `values`, which lie at `panel`
        in the output along some dimensions."""
        looped = [d for d in order if count(part[d]) > 1]
        if not looped:
            spans = [Span(lower, step) for lower, _, step in part]
            tiles = self._tile(spans, values, builder, panel)
            if all(t.type == v.type for t, v in zip(tiles, values, strict=True)):
                return tiles
            offsets, sizes = [s.offset for s in spans], [s.size for s in spans]
            return [
                builder.value(tensor.InsertSlice.of(t, v, offsets, sizes), v.name)
                for t, v in zip(tiles, values, strict=True)
            ]
        loop = self._forall({d: part[d] for d in looped}, values, builder)
        counters = dict(zip(looped, loop.ivs, strict=True))
        spans = [Span(counters.get(d, part[d][0]), part[d][2]) for d in range(len(part))]
        tiles = self._tile(spans, loop.shared, Builder(loop.body, location=self.region.location), panel)
        self._close(loop, tiles, spans)
        return list(loop.results)

    def _forall(self, parts: Mapping[int, Part], values: Sequence[Value], builder: Builder) -> scf.Forall:
        """A loop over the parts of some dimensions, its body empty."""
        names = [COUNTERS[d] if d < len(COUNTERS) else f"i{d}" for d in parts]
        bounds = [[part[i] for part in parts.values()] for i in range(3)]
        loop = builder.add(scf.Forall.make(*bounds, outputs=values, ivs=names))
        for result, old in zip(loop.results, self.region.results, strict=True):
            result.name = old.name
        return loop

    def _close(self, loop: scf.Forall, tiles: Sequence[Value], spans: Sequence[Span]) -> None:
        """Ends the loop: each tile becomes the part `spans` of a shared output."""
        end = scf.InParallel(results=[], regions=[Region()])
        offsets, sizes = [s.offset for s in spans], [s.size for s in spans]
        for tile, shared in zip(tiles, loop.shared, strict=True):
            end.body.append(tensor.ParallelInsertSlice.of(tile, shared, offsets, sizes))
        loop.body.append(end)

    def _tile(
        self, spans: list[Span], destinations: Sequence[Value], builder: Builder, panel: Mapping[int, Span]
    ) -> list[Value]:
        """The region on the tile `spans` of the destinations; slices of what it reads stand in front of it.

        Where the destinations are panels of the output, the other operands are read at the panel's place."""
        places = [panel.get(d, span) for d, span in enumerate(spans)]
        region = ukernel.RegionOp.make(
            [TensorType(tuple(s.size for s in spans), shaped_of(d).element) for d in destinations]
        )
        tile = _Tile(Builder(region.body), Slicer(builder), spans, destinations, {})
        for op in self.ops:
            labels = zip(op.loop_sizes(), self.rows.loops[op], strict=True)
            loops = [Span(0, size) if d is None else places[d] for size, d in labels]
            operands = [self._operand(op, i, loops, tile) for i in range(len(op.operands))]
            copy = on_tiles(op, operands, self.windows[op], loops)
            tile.body.add(copy, *[r.name for r in op.results])
            tile.known.update(zip(op.results, copy.results, strict=True))
        region.body.append(ukernel.Yield([tile.known[v] for v in self.root.results], results=[]))
        names = [f"{r.name}_tile" if r.name else None for r in self.region.results]
        builder.add(region, *names)
        self.made.append(region)
        return list(region.results)

    def _operand(self, op: linalg.LinalgOp, position: int, loops: list[Span], tile: _Tile) -> Value:
        """What the op reads, or writes into, in the tile where its loops run over `loops`."""
        value, map, slicer = op.operands[position], op.maps[position], tile.slicer
        if value in tile.known:
            return tile.known[value]
        if not isinstance(value.type, TensorType):
            return value
        split = len(op.inputs)
        final = self._final_output(op, position - split) if position >= split else None
        if final is not None:
            # A slice of the loop's shared output, whatever the destination was before.
            return slicer.slice(tile.destinations[final], tile.spans)
        if isinstance(value.owner, tensor.Empty):
            shape = tuple(slicer.span(expr, loops).size for expr in map.results)
            return empty_like(TensorType(shape, value.type.element), tile.body, value.name)
        return slicer.slice(value, slicer.window(self.windows[op][position], loops))

    def _final_output(self, op: linalg.LinalgOp, output: int) -> int | None:
        """Which of the region's results the op's destination ends up in, None for a temporary."""
        for number, value in enumerate(self.root.outputs):
            owner: object = self.root
            at, wanted = number, value
            while True:
                if owner is op and at == output and wanted.owner not in self.ops:
                    return number
                if wanted.owner not in self.ops:
                    break
                owner = wanted.owner
                assert isinstance(owner, linalg.LinalgOp)
                at = list(owner.results).index(wanted)  # type: ignore[arg-type]
                wanted = owner.outputs[at]
        return None
