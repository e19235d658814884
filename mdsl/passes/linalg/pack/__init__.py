"""pack: data tiling. Contractions work on blocked layouts, which are propagated through the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import Dim
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.pack.constants import cancel_pairs, pack_constants
from mdsl.passes.linalg.pack.groups import share_blocks
from mdsl.passes.linalg.pack.move import MOVING, move_behind, move_transpose, unpacked
from mdsl.passes.linalg.pack.raising import raise_packs
from mdsl.passes.linalg.pack.reading import read_blocks
from mdsl.passes.linalg.pack.relayout import change_at_once
from mdsl.passes.linalg.pack.transposition import transpose_rows
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data
from mdsl.rewriting.pack_layout import Tiles, pack_op
from mdsl.target import cost
from mdsl.target.target import Target


@dataclass(frozen=True)
class Pack(Pass):
    """Block channels and columns by the vector length; pack weights at compile time; cancel pack/unpack pairs.

    Before:

        %c = linalg.matmul ins(%a, %w : tensor<8x64xf32>, tensor<64x32xf32>) outs(%z : tensor<8x32xf32>) -> tensor<8x32xf32>

    After (with blocks of 16):

        %w_packed = linalg.pack %w outer_dims_perm = [1, 0] inner_dims_pos = [1] inner_tiles = [16] into %0 : tensor<64x32xf32> -> tensor<2x64x16xf32>
        %c_packed = linalg.generic ... ins(%a, %w_packed : ...) outs(%z_packed : ...) -> tensor<8x2x16xf32>
        %c = linalg.unpack %c_packed inner_dims_pos = [1] inner_tiles = [16] into %z : tensor<8x2x16xf32> -> tensor<8x32xf32>

    A kernel then reads the columns of one vector, and of the next step of the reduction, next to each
    other in memory. A pack of a constant is done now ("pre-packed weights"). An elementwise op, a
    reduction, a pooling, a padding, a slice or a concatenation that reads an unpacked tensor is moved in
    front of the unpack, a pack in front of an elementwise op that works for it alone, and a pack of an unpack cancels, so that
    a layout is kept from one contraction to the next, also by an op of several results, as a window's largest element and its
    place. A contraction reads blocks where they lie that an op only puts into another order, as the gradient of a convolution
    reads the filters, from last to first. A pack of an unpack in another layout becomes one transposition.
    The first operand of products is transposed if the steps of a row lie too far apart for the first-level cache, as in the gradient of
    a weight. Where the channels of groups fill no blocks, one block holds all channels, and depthwise convolutions and
    concatenations around them keep it.
    The scheme is that of Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD
    Architectures" (SC 2018).
    """

    name: ClassVar[str] = "pack"
    level: ClassVar[str | None] = "linalg"
    subject = "contraction, and no op on blocked tensors"

    block: int = option(0, "elements a block; 0: the target's vector length for the element type", least=0)
    propagate: bool = option(
        True,
        "move layouts through elementwise ops, reductions, poolings, paddings, slices and concatenations",
    )

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            shared: set[Op] = set()
            for op in func.body.ops:
                if isinstance(op, linalg.LinalgOp) and op.block is not None and op.is_contraction:
                    shared |= share_blocks(op, self._block(op, context.target))
            for op in func.body.ops:
                if op in shared or (
                    self.propagate and isinstance(op, linalg.Transpose) and move_transpose(op)
                ):
                    continue
                if isinstance(op, linalg.LinalgOp) and op.results:
                    self._visit(op, context.target)
                elif self.propagate and isinstance(op, MOVING):
                    move_behind(op, self._block(op, context.target))
                    if op.block is not None:
                        _tell_unpacked(op, "not whole blocks are moved")
            if self.propagate:
                raise_packs(func)
            cancel_pairs(func)
            if self.propagate:
                read_blocks(func)
            change_at_once(func)
            pack_constants(func)
            drop_unused(func)

    def _block(self, op: Op, target: Target) -> int:
        return self.block or target.lanes(str(shaped_of(op.results[0]).element))

    def _visit(self, op: linalg.LinalgOp, target: Target) -> None:
        if op.is_contraction:
            op = transpose_rows(op, target)
            tiles = _blocked_loops(op, self._block(op, target))
        elif self.propagate:
            tiles = _inherited_tiles(op)
            if tiles and _is_better_plain(op, tiles):
                _tell_unpacked(
                    op, "another operand would be packed for a result that nothing reads in blocks"
                )
                return
            if not tiles:
                _tell_unpacked(op, "it does not go through the blocks of all its operands alike")
        else:
            return
        # A counter that is data of the body would count blocks.
        counted = {i.attr("dim") for i in op.body.ops if isinstance(i, linalg.IndexOp)}
        if tiles and not counted & set(tiles):
            blocks = ", ".join(f"loop {d} by {size}" for d, size in sorted(tiles.items()))
            remarks.applied(op, f"is blocked: {blocks}", tiles={str(d): size for d, size in tiles.items()})
            pack_op(op, tiles)


def _tell_unpacked(op: Op, why: str) -> None:
    """What is in blocks until `op` reads it, and why not there."""
    found = [unpack for v in op.operands if isinstance(unpack := v.owner, linalg.Unpack)]
    if found:
        remarks.missed(op, f"reads {remarks.name_of(found[0])}, which is unpacked for it: {why}", found[0])


def _blocked_loops(op: linalg.LinalgOp, block: int) -> Tiles:
    """The loops to block. For products: the innermost one that only the second operand and the output share
    (columns, output channels), and the channels that are summed where the image has pixels innermost. For a
    filter a channel: the channels. Empty if there is none."""
    image, weight, out = op.maps
    if not (out.is_projected_permutation and weight.is_projected_permutation):
        return {}
    sizes = op.loop_sizes()
    columns = [d for d in (out.dim_positions() or ()) if d in weight.dims() and d not in image.dims()]
    if min(sizes) < 1:
        return {}
    if not columns:
        found = _channel_tiles(op, block)
        if not found:
            remarks.missed(
                op, "is not packed: it has no columns or channels, outside of the pixels, to block"
            )
        return found
    rows = prod(sizes[d] for d in out.dim_positions() or () if d not in columns)
    if rows < cost.ROWS_WORTH_PACKING and constant_data(op.operands[1]) is None:
        remarks.missed(op, f"is not packed: {rows} rows would use what is packed at run time", rows=rows)
        return {}
    column = columns[-1]
    if sizes[column] <= block and all(m.results[-1] == Dim(column) for m in (weight, out)):
        remarks.missed(op, "is not packed: its columns are one vector already")
        return {}
    return {**_summed_tiles(op, block), column: _column_tile(op, sizes[column], block)}


def _column_tile(op: linalg.LinalgOp, columns: int, block: int) -> int:
    """The columns of a block. Constants get columns of zeros where these make it faster to load; to add them at run time costs more."""
    known = constant_data(op.operands[1]) is not None
    return cost.lanes_loaded(columns, block) if known else min(block, columns)


def _summed_tiles(op: linalg.LinalgOp, block: int) -> Tiles:
    """The reduction loop over what lies outside of the pixels in the image: it is blocked in a convolution,
    and wherever the image comes blocked."""
    image, weight, _ = op.maps
    sizes = op.loop_sizes()
    plain = [e.position for e in image.results if isinstance(e, Dim)]
    found = {d: min(block, sizes[d]) for d in op.reduction_dims if d in plain and d in weight.dims()}
    found.update({d: sizes[d] for d in found if _comes_whole(op, d)})
    if image.is_projected_permutation:
        source = unpacked(op.operands[0])
        blocked = [plain[p] for p in source.tiles] if source else []
        found = {d: t for d, t in found.items() if d in blocked and d != plain[-1]}
    if len(found) > 1 or (any(sizes[d] % t for d, t in found.items()) and not op.sums_products):
        return {}
    return found


def _channel_tiles(op: linalg.LinalgOp, block: int) -> Tiles:
    """The channels of a depthwise convolution: a loop that all operands have, where pixels lie inside of it."""
    image, weight, out = op.maps
    if image.is_projected_permutation:
        return {}
    plain = [e.position for e in image.results[:-1] if isinstance(e, Dim)]
    channels = [d for d in plain if d in weight.dims() and d in (out.dim_positions() or ())]
    shared = weight.dims() & out.dims()
    if not channels or image.results[-1].dims() & shared:
        return {}
    size = op.loop_sizes()[channels[-1]]
    return {channels[-1]: size if _comes_whole(op, channels[-1]) else min(block, size)}


def _comes_whole(op: linalg.LinalgOp, dim: int) -> bool:
    """True if all of loop `dim` is one block of the first operand as it comes."""
    source, place = unpacked(op.operands[0]), op.maps[0].results.index(Dim(dim))
    return source is not None and source.tiles.get(place) == op.loop_sizes()[dim]


def _inherited_tiles(op: linalg.LinalgOp) -> Tiles:
    """The blocking that op's inputs were unpacked from, if the op can work on it."""
    found: Tiles = {}
    maps = op.maps
    for value, map in zip(op.inputs, maps, strict=False):
        unpack = unpacked(value)
        for position, tile in (unpack.tiles if unpack else {}).items():
            expr = map.results[position]
            if not isinstance(expr, Dim) or found.setdefault(expr.position, tile) != tile:
                return {}
    fits = all(dim in op.parallel_dims and _plain_everywhere(dim, op) for dim in found)
    return found if fits else {}


def _is_better_plain(op: linalg.LinalgOp, tiles: Tiles) -> bool:
    """True if one more tensor as large as the result would be packed, and that unpacked: to unpack what comes in blocks
    is cheaper. So are updates of weights, which are as large as their gradients."""
    if not op.is_elementwise or not _is_read_plain(op):
        return False
    large = [(v, m) for v, m in zip(op.inputs, op.maps, strict=False) if m.dims() == {*op.parallel_dims}]
    come = [
        isinstance(v.owner, linalg.Unpack | linalg.Fill) or constant_data(v) is not None for v, _ in large
    ]
    return any(
        not known and _moves_data(shaped_of(v).shape, {m.results.index(Dim(d)): t for d, t in tiles.items()})
        for known, (v, m) in zip(come, large, strict=True)
    )


def _moves_data(shape: Sequence[int], tiles: Tiles) -> bool:
    """True if a pack of a tensor in rows moves elements: not where its last dimension is split into whole blocks."""
    return any(prod(shape[d + 1 :]) != 1 or shape[d] % tile for d, tile in tiles.items())


def _is_read_plain(op: linalg.LinalgOp) -> bool:
    """True if the op's result, and what elementwise ops make of it, is only returned."""
    return all(
        user.has("terminator")
        or (isinstance(user, linalg.LinalgOp) and user.is_elementwise and _is_read_plain(user))
        for result in op.results
        for user in result.users
    )


def _plain_everywhere(dim: int, op: linalg.LinalgOp) -> bool:
    """True if `dim` occurs in the maps only as itself, and in those of all results."""
    return all(isinstance(e, Dim) or dim not in e.dims() for m in op.maps for e in m.results) and all(
        dim in m.dims() for m in op.maps[len(op.inputs) :]
    )
