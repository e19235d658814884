"""tile: Winograd's transforms, cut by tiles of the image. Each op of a kernel moves some of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from mdsl.analysis.tile_sizes import transform_tile
from mdsl.dialects import scf, tensor, ukernel
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.ir.core import Builder, Region, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.linalg.tile.parts import COUNTERS, Part, count, parts
from mdsl.passes.linalg.tile.slices import Slicer, Span
from mdsl.rewriting.winograd import image_parts


def tile_transform(op: WinogradTransform) -> None:
    """Replaces the op by loops over tiles: first those of whole tiles of the image, then those that its end cuts."""
    builder = Builder.before(op)
    result: Value = op.outputs[0]
    sizes = op.loop_sizes()
    rank = op.tile_loops
    pixels = [op.pixels_along(d) for d in op.image]
    for rows in image_parts(pixels[0], op.m):
        for columns in image_parts(pixels[1], op.m):
            cut = dict(zip(op.image, (rows, columns), strict=True))
            extents = [cut[d].count if d in cut else sizes[d] for d in range(rank)]
            starts = [cut[d].first if d in cut else 0 for d in range(rank)]
            order = [d for expr in op.maps[-1].results for d in sorted(expr.dims()) if d < rank]
            tile = transform_tile(extents, order, op.elements(rows.outputs, columns.outputs))
            pieces = [
                [(a + start, b + start, step) for a, b, step in parts(extent, size, d == order[-1])]
                for d, (extent, size, start) in enumerate(zip(extents, tile, starts, strict=True))
            ]
            for piece in product(*pieces):
                result = _loops(op, piece, order, (rows.outputs, columns.outputs), result, builder)
    op.replace_by(result, rename=True)


def _loops(
    op: WinogradTransform,
    part: Sequence[Part],
    order: Sequence[int],
    outputs: tuple[int, int],
    whole: Value,
    builder: Builder,
) -> Value:
    """`whole` with the tiles of `part`; `outputs` is how much of each lies in the image."""
    looped = [d for d in order if count(part[d]) > 1]
    if not looped:
        spans = [Span(lower, step) for lower, _, step in part]
        tile, place = _tile(op, spans, outputs, whole, builder)
        if tile.type == whole.type:
            return tile
        insert = tensor.InsertSlice.of(tile, whole, [s.offset for s in place], [s.size for s in place])
        return builder.value(insert, op.results[0].name)
    bounds = [[part[d][i] for d in looped] for i in range(3)]
    names = [COUNTERS[d] for d in looped]
    loop = builder.add(scf.Forall.make(*bounds, outputs=[whole], ivs=names), op.results[0].name)
    counters = dict(zip(looped, loop.ivs, strict=True))
    spans = [Span(counters.get(d, lower), step) for d, (lower, _, step) in enumerate(part)]
    tile, place = _tile(op, spans, outputs, loop.shared[0], Builder(loop.body, location=op.location))
    end = scf.InParallel(results=[], regions=[Region()])
    offsets, sizes = [s.offset for s in place], [s.size for s in place]
    end.body.append(tensor.ParallelInsertSlice.of(tile, loop.shared[0], offsets, sizes))
    loop.body.append(end)
    return loop.results[0]


def _tile(
    op: WinogradTransform, spans: Sequence[Span], outputs: tuple[int, int], whole: Value, builder: Builder
) -> tuple[Value, list[Span]]:
    """The transform of the tiles at `spans`, and its place in the output."""
    slicer, loops = Slicer(builder), [*spans, *(Span(0, n) for n in op.inner_sizes(outputs))]
    operands: list[Value] = []
    for value, map in zip(op.inputs, op.maps, strict=False):
        read = [slicer.span(expr, loops) for expr in map.results]
        operands.append(slicer.slice(value, read) if isinstance(value.type, TensorType) else value)
    place = [slicer.span(expr, loops) for expr in op.maps[-1].results]
    operands.append(slicer.slice(whole, place))
    type = TensorType(tuple(s.size for s in place), shaped_of(whole).element)
    region = ukernel.RegionOp.make([type])
    name = op.results[0].name
    copy = op.clone()
    copy.operands = operands
    copy.set_result_types([type])
    Builder(region.body).add(copy, name)
    region.body.append(ukernel.Yield(copy.results, results=[]))
    return builder.value(region, f"{name}_tile" if name else None), place
