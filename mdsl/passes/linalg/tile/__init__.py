"""tile: cut structured ops into parallel loops over tiles, one micro-kernel a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.regions import sequences
from mdsl.analysis.rows import row_tile
from mdsl.analysis.tile_sizes import TILE, bulk_tile, contraction_tile, contraction_tiles, noted_tile
from mdsl.dialects import linalg, scf, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.ir.core import Block, Builder, Op
from mdsl.ir.rewrites import rewriting
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.tile.blocks import block
from mdsl.passes.linalg.tile.tiler import Tiler
from mdsl.passes.linalg.tile.transforms import tile_transform
from mdsl.rewriting import remarks
from mdsl.rewriting.lower_pack import lower_relayout
from mdsl.target.target import Target


@dataclass(frozen=True)
class Tile(Pass):
    """Cut structured ops, and regions of fused ones, into parallel loops over tiles.

    Before:

        %c = linalg.matmul ins(%a, %b : tensor<512x64xf32>, tensor<64x512xf32>) outs(%z : tensor<512x512xf32>) -> tensor<512x512xf32>

    After `tile{sizes=[4,16]}`:

        %c = scf.forall (%j, %i) = (0, 0) to (512, 512) step (16, 4) shared_outs(%c_1 = %z) -> (tensor<512x512xf32>) {
          %a_tile = tensor.extract_slice %a[%i, 0] [4, 64] [1, 1] : ...
          %b_tile = tensor.extract_slice %b[0, %j] [64, 16] [1, 1] : ...
          %z_tile = tensor.extract_slice %c_1[%i, %j] [4, 16] [1, 1] : ...
          %c_tile = ukernel.region -> tensor<4x16xf32> {
            %c_2 = linalg.matmul ins(%a_tile, %b_tile : ...) outs(%z_tile : ...) -> tensor<4x16xf32>
            ukernel.yield %c_2 : tensor<4x16xf32>
          }
          scf.forall.in_parallel {
            tensor.parallel_insert_slice %c_tile into %c_1[%i, %j] [4, 16] [1, 1] : ...
          }
        }

    Where a size does not divide its dimension, there are as few tiles as with it, as equal as can be: 56 by 6 are six
    of 6 and four of 5, each kind with loops (and a kernel) of its own. Only the innermost dimension, along which vectors
    lie, keeps whole tiles and a remainder. Sizes come from the cost model in `target/contractions.py`, which has tiles alike where
    that costs nothing, unless given, by the option or by an attribute of a contraction or the region around it,
    `mdsl.tile = array<i64: 4, 16>`: one size for each dimension of the result. Columns are the outer loop, so that a panel of
    weights stays in cache while rows (or pixels) pass by. Where the second operand of products is packed at run time and is more
    than the second-level cache keeps, each panel of its columns, and in it each block of the sum, is packed right before the
    products that read it (`blocks.py`); not where sizes are given. `linalg.pack` and `linalg.unpack` become reshapes and transposes first.
    """

    name: ClassVar[str] = "tile"
    level: ClassVar[str | None] = "linalg"
    leads_to: ClassVar[str | None] = "tiled"
    subject = "structured op outside of a micro-kernel"

    sizes: tuple[int, ...] = option(
        (), "tile of a contraction's last output dimensions (0: whole, the rest: 1)", least=0
    )

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            panels = self._block(func, context.target)
            for op in list(func.walk()):
                if isinstance(op, linalg.Pack | linalg.Unpack):
                    new = lower_relayout(op, Builder.before(op))
                    op.replace_by(new, rename=True)
            for body in [*sequences(func), *(b for loop in panels for b in _bodies(loop))]:
                for op in body.ops:
                    if isinstance(op, ukernel.RegionOp):
                        self._tile(op, context.target)
                    elif isinstance(op, WinogradTransform) and op.results:
                        tile_transform(op)
                    elif isinstance(op, linalg.LinalgOp) and op.results:
                        with rewriting(op, "region"):
                            region = _as_region(op)
                        self._tile(region, context.target)
            drop_unused(func)

    def _block(self, func: Op, target: Target) -> list[scf.Forall]:
        """Blocks products, but where tiles are given; returns the loops over panels of columns."""
        regions = [op for op in func.regions[0].block.ops if isinstance(op, ukernel.RegionOp)]
        return [] if self.sizes else [loop for region in regions for loop in block(region, target)]

    def _tile(self, region: ukernel.RegionOp, target: Target) -> None:
        noted = noted_tile(region)
        region.attributes.pop(TILE, None)
        tiler = Tiler.of(region)
        if tiler is None:
            remarks.missed(region, "stays one kernel: its ops are not cut by tiles of the result")
            return
        sizes = self._sizes(tiler, noted, target)
        if remarks.wanted():
            self._tell(region, tiler, sizes, noted, target)
        tiler.cut(sizes)

    def _tell(
        self,
        region: ukernel.RegionOp,
        tiler: Tiler,
        sizes: list[int],
        noted: list[int] | None,
        target: Target,
    ) -> None:
        """The tile, with the candidates where the cost model chose it."""
        spelled, main = "x".join(map(str, sizes)) or "one number", tiler.main
        if tiler.is_cut_by_rows:
            remarks.applied(region, f"is cut by rows, a tile of {spelled}")
        elif not main.is_contraction:
            remarks.applied(region, f"is cut into tiles of {spelled}: it is bound by memory")
        elif self.sizes or noted:
            remarks.applied(
                region, f"is cut into tiles of {spelled}, as {'asked for' if self.sizes else 'noted'}"
            )
        else:
            tiles = contraction_tiles(main, target)
            remarks.applied(region, f"is cut into tiles of {spelled}: the cheapest", tiles=tiles)

    def _sizes(self, tiler: Tiler, noted: list[int] | None, target: Target) -> list[int]:
        main = tiler.main
        if tiler.is_cut_by_rows:
            return row_tile(tiler.ops, tiler.rows, target)
        if not main.is_contraction:
            return tiler.rows.of_result(bulk_tile(main), main)
        if not self.sizes:
            return noted or tiler.rows.of_result(contraction_tile(main, target), main)
        shape = tiler.shape
        given = [*[1] * (len(shape) - len(self.sizes)), *self.sizes][-len(shape) :] if shape else []
        return [min(s or extent, extent) for s, extent in zip(given, shape, strict=True)]


def _bodies(loop: scf.Forall) -> list[Block]:
    """The body of a loop over panels and those of the loops over blocks in it."""
    return [loop.body, *(op.body for op in loop.body.ops if isinstance(op, scf.For))]


def _as_region(op: linalg.LinalgOp) -> ukernel.RegionOp:
    """Wraps a single op."""
    region = ukernel.RegionOp.make([r.type for r in op.results])
    Builder.before(op).add(region, *[r.name for r in op.results])
    for result, outer in zip(op.results, region.results, strict=True):
        result.replace_by(outer)
    if TILE in op.attributes:
        region.attributes[TILE] = op.attributes.pop(TILE)
    region.body.append(op.detach())
    region.body.append(ukernel.Yield(op.results, results=[]))
    return region
