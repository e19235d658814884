"""pack: data tiling. Contractions work on blocked layouts, which are propagated through the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.pack.blocks import (
    blocked_loops,
    inherited_tiles,
    is_better_plain,
    moves_argument,
    with_lanes,
)
from mdsl.passes.linalg.pack.constants import cancel_pairs, pack_constants
from mdsl.passes.linalg.pack.groups import share_blocks
from mdsl.passes.linalg.pack.move import MOVING, move_behind, move_transpose
from mdsl.passes.linalg.pack.raising import raise_packs
from mdsl.passes.linalg.pack.reading import read_blocks
from mdsl.passes.linalg.pack.relayout import change_at_once
from mdsl.passes.linalg.pack.transposition import transpose_rows
from mdsl.rewriting import remarks
from mdsl.rewriting.pack_layout import pack_op
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
            op = transpose_rows(with_lanes(op), target)
            tiles = blocked_loops(op, self._block(op, target))
        elif self.propagate and not moves_argument(op):
            tiles = inherited_tiles(op)
            if tiles and is_better_plain(op, tiles):
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
