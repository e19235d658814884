"""block-sums: long sums of a micro-kernel are done some steps at a time, so that columns stay in the first-level cache."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from mdsl.analysis.tile_sizes import steps_at_a_time
from mdsl.dialects import linalg, memref, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.indices import Index
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.affine import Dim
from mdsl.ir.core import Builder, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import memref_of
from mdsl.passes.base import Context, Pass, option
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import counted_loop
from mdsl.target import cost


@dataclass(frozen=True)
class BlockSums(Pass):
    """Cut the sum of a contraction whose micro-kernel has many rows, so that they all use some of the columns' steps before the next.

    Before (a panel of 2 vectors of columns, 1024 steps long: 64 KB):

        linalg.matmul ins(%a, %b : memref<96x1024xf32>, memref<1024x16xf32>) outs(%c : memref<96x16xf32>)

    After `block-sums{steps=256}` (16 KB at a time; the sums, 6 KB, wait in memory):

        scf.for %k = %c0 to %c1024 step %c256 {
          %a_steps = memref.subview %a[0, %k] [96, 256] [1, 1] : memref<96x1024xf32> to memref<96x256xf32, strided<[1024, 1], offset: ?>>
          %b_steps = memref.subview %b[%k, 0] [256, 16] [1, 1] : memref<1024x16xf32> to memref<256x16xf32, strided<[16, 1], offset: ?>>
          linalg.matmul ins(%a_steps, %b_steps : ...) outs(%c : memref<96x16xf32>)
        }

    Without it the panel comes from the second-level cache again for each few rows whose sums the registers hold, beside
    the rows themselves. How many steps, and whether at all, is the cost model's choice unless given.
    """

    name: ClassVar[str] = "block-sums"
    level: ClassVar[str | None] = "buffers"
    subject = "contraction in a micro-kernel"

    steps: int = option(0, "steps of a sum at a time (0: the cost model's choice)", least=0)

    def run(self, module: ModuleOp, context: Context) -> None:
        kernels = [op for op in module.body.ops if isinstance(op, UkernelFunc)]
        for kernel in kernels:
            for op in list(kernel.body.ops):
                if isinstance(op, linalg.LinalgOp) and op.is_contraction and not op.results:
                    self._choose(kernel, op, context)

    def _choose(self, kernel: UkernelFunc, op: linalg.LinalgOp, context: Context) -> None:
        sizes = op.loop_sizes()
        loops = [d for d in op.reduction_dims if sizes[d] > 1]
        if not loops:
            remarks.missed(kernel, "sums at once: it is one step")
            return
        # The outermost loop of the sum is cut: each of its trips is so many steps.
        each = prod(sizes[d] for d in loops[1:])
        choice = None if self.steps else steps_at_a_time(op, context.target)
        steps = choice.best if choice else self.steps
        if steps >= each * sizes[loops[0]]:
            why = (choice.because or "the cheapest") if choice else f"{steps} steps are asked for"
            remarks.missed(kernel, f"sums at once, {each * sizes[loops[0]]} steps: {why}", sums=choice)
            return
        obstacle = _obstacle(op, loops[0])
        if obstacle:
            remarks.missed(kernel, f"sums at once: its outermost loop {obstacle}", sums=choice)
            return
        trips = cost.balanced(sizes[loops[0]], max(1, steps // each), whole=True)
        remarks.applied(kernel, f"sums {trips * each} steps at a time", sums=choice)
        with rewriting(op, "block"):
            _cut(op, loops[0], trips)


def _obstacle(op: linalg.LinalgOp, loop: int) -> str | None:
    """What the loop does beside counting alone along a dimension of each input that it is used for."""
    if any(isinstance(i, linalg.IndexOp) and i.attr("dim") == loop for i in op.body.ops):
        return "is counted in the body"
    used = [e for map in op.maps for e in map.results if loop in e.dims()]
    return None if all(e == Dim(loop) for e in used) else "also moves a window"


def _cut(op: linalg.LinalgOp, loop: int, trips: int) -> None:
    """Makes the op a loop over blocks of so many `trips` of its `loop`; what is left over follows."""
    builder, extent, start = Builder.before(op), op.loop_sizes()[loop], 0
    for size, times in cost.near_equal(extent, trips):
        if times == 1:
            _part(op, loop, start, size, builder)
        else:
            blocks = counted_loop(range(start, start + size * times, size), builder, [], "k")
            builder.add(blocks)
            body = Builder(blocks.body, location=op.location)
            _part(op, loop, blocks.iv, size, body)
            body.add(scf.Yield([], results=[]))
        start += size * times
    op.erase()


def _part(op: linalg.LinalgOp, loop: int, start: Index, size: int, builder: Builder) -> None:
    """The op for `size` trips of the loop from `start` on."""
    operands: list[Value] = []
    for value, map in zip(op.operands, op.maps, strict=True):
        at = [position for position, expr in enumerate(map.results) if expr == Dim(loop)]
        shape = [*memref_of(value).shape]
        offsets: list[Index] = [0] * len(shape)
        for position in at:
            shape[position], offsets[position] = size, start
        name = f"{value.name}_steps" if value.name else None
        operands.append(builder.value(memref.SubView.of(value, offsets, shape), name) if at else value)
    copy = op.clone()
    copy.operands = operands
    builder.add(copy)
