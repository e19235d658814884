"""fuse-rows: a normalisation becomes one micro-kernel a tile of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from mdsl.codegen.target import Target
from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.passes.base import Pass, functions
from mdsl.passes.canonicalize import drop_unused
from mdsl.passes.fuse import fuse_producers, wrap
from mdsl.passes.regions import shaped
from mdsl.passes.rows import Rows, find_rows, is_row_region, row_bytes
from mdsl.passes.tile_sizes import ELEMENTS


@dataclass(frozen=True)
class FuseRows(Pass):
    """Group reductions along rows and the elementwise ops around them: a normalisation is one region.

    Before:

        %max = linalg.generic (d0, d1 -> d0: maximum) ins(%x : tensor<128x64xf32>) ... -> tensor<128xf32>
        %exp = linalg.generic (d0, d1: exp(x - max)) ins(%x, %max : ...) ... -> tensor<128x64xf32>
        %sum = linalg.generic (d0, d1 -> d0: add) ins(%exp : tensor<128x64xf32>) ... -> tensor<128xf32>
        %y = linalg.generic (d0, d1: divide) ins(%exp, %sum : ...) ... -> tensor<128x64xf32>

    After:

        %y = ukernel.region -> tensor<128x64xf32> {
          %max = ...
          %exp = ...
          %sum = ...
          %y = ...
          ukernel.yield %y : tensor<128x64xf32>
        }

    The region of `fuse` has ops that read each other element by element. Here an op may read a whole row of
    another: all of them are cut along the rows only, and a tile of rows stays in the first-level cache from
    the first op to the last. So are softmax, layer norm, instance and group norm, RMS norm, and whatever an
    exporter wrote instead of them, wherever nothing else reads what lies in between.
    """

    name: ClassVar[str] = "fuse-rows"
    level: ClassVar[str | None] = "linalg"

    def run(self, module: ModuleOp, target: Target) -> None:
        for func in functions(module):
            for op in reversed(func.body.ops):
                if op.block is func.body and isinstance(op, linalg.LinalgOp) and op.results:
                    _group(op, target)
            drop_unused(func)


def _group(root: linalg.LinalgOp, target: Target) -> None:
    """Puts `root`, and the chain of reductions and elementwise ops that it ends, into one region."""
    if isinstance(root, linalg.Fill) or root.is_contraction or not root.is_elementwise:
        return

    def fits(members: Sequence[linalg.LinalgOp], rows: Rows) -> bool:
        return _is_cheap(members, rows, target)

    members = grow(root, _belongs, fits)
    if any(_returns_to_rows(op, members) for op in members):
        group(members)


def _returns_to_rows(op: linalg.LinalgOp, members: Sequence[linalg.LinalgOp]) -> bool:
    """True if the op reads what a reduction led to again for each element of the row. An epilogue that works on
    the result alone, like the division of a mean, is left to `fuse`: until then `pack` may block the reduction."""
    return any(
        v.owner in members and not isinstance(v.owner, linalg.Fill) and not m.is_permutation
        for v, m in zip(op.inputs, op.maps, strict=False)
    )


def grow(
    root: linalg.LinalgOp,
    belongs: Callable[[linalg.LinalgOp], bool],
    fits: Callable[[Sequence[linalg.LinalgOp], Rows], bool],
) -> list[linalg.LinalgOp]:
    """`root` and the producers that share rows with it, in program order: those that belong, that nothing else
    reads, and with which the region still fits."""
    members = [root]
    assert root.block is not None
    place = {op: i for i, op in enumerate(root.block.ops)}
    rejected: set[Op] = set()
    changed = True
    while changed:
        changed = False
        for producer in _producers(members):
            if producer in rejected or producer.block is not root.block or not belongs(producer):
                continue
            if any(user not in members for r in producer.results for user in r.users):
                continue
            fills = [v.owner for v in producer.outputs if isinstance(v.owner, linalg.Fill)]
            wider = sorted({*members, producer, *fills}, key=lambda op: place[op])
            rows = find_rows(wider)
            if rows is None or not fits(wider, rows):
                rejected.add(producer)
                continue
            members, changed = wider, True
            break
    return members


def _producers(members: Sequence[linalg.LinalgOp]) -> list[linalg.LinalgOp]:
    found = [v.owner for op in reversed(members) for v in op.inputs]
    return [o for o in found if isinstance(o, linalg.LinalgOp) and o not in members]


def group(members: Sequence[linalg.LinalgOp]) -> None:
    """Puts the members into a region and merges the elementwise ones among them."""
    main = next((op for op in members if op.is_contraction), members[-1])
    ops: list[Op] = list(members)
    region = wrap(ops, main)
    for op in region.body.ops:
        if isinstance(op, linalg.LinalgOp) and op.block is not None:
            fuse_producers(op)


def _belongs(op: linalg.LinalgOp) -> bool:
    """True for elementwise ops and reductions, but not for the epilogue of a contraction."""
    if isinstance(op, linalg.Fill | linalg.Transpose) or op.is_contraction or len(op.results) != 1:
        return False
    if op.reduction_dims:
        return all(m.is_projected_permutation for m in op.maps)
    return op.is_elementwise and not follows(op, lambda producer: True)


def follows(op: linalg.LinalgOp, kind: Callable[[linalg.LinalgOp], bool]) -> bool:
    """True if an elementwise op works on what a contraction of that kind made: better in its registers."""
    waiting, seen = [op], {op}
    while waiting:
        for value in waiting.pop().inputs:
            owner = value.owner
            if not isinstance(owner, linalg.LinalgOp) or owner in seen or len(value.users) > 1:
                continue
            if owner.is_contraction and kind(owner):
                return True
            if owner.is_elementwise and not isinstance(owner, linalg.Fill):
                seen.add(owner)
                waiting.append(owner)
    return False


def _is_cheap(members: Sequence[linalg.LinalgOp], rows: Rows, target: Target) -> bool:
    """True if a row and what is computed for it stay in cache, and the rows are enough to share among workers."""
    if not is_row_region(members, rows):
        return True
    shape = shaped(members[-1].results[0]).shape
    columns = prod(size for d, size in enumerate(shape) if d not in rows.dims)
    count = prod(shape[d] for d in rows.dims)
    return row_bytes(members, rows) <= target.l2_bytes // 4 and (
        count >= 8 or count * columns <= 2 * ELEMENTS
    )
