"""fuse-rows: a normalisation becomes one micro-kernel a tile of rows."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from math import prod
from typing import ClassVar

from mdsl.analysis.order import Order
from mdsl.analysis.rows import Rows, find_rows, frame_bytes, is_row_region, row_bytes
from mdsl.dialects import linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.linalg.fuse import MOST_INPUTS, fuse_producers, wrap
from mdsl.rewriting import remarks
from mdsl.target import cost
from mdsl.target.target import MAX_FRAME_BYTES, Target

MOST_OPS = 64
"""Ops of one region, at most: the longest normalisations and attentions have some twenty. To read and write a
tensor once more is little beside so many, and the time to compile a region grows with the square of its ops."""


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
    subject = "chain of ops that normalises rows"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            # Regions are made from the end of the program on: what belongs to one above stays as it is.
            belongs = cache(_belongs)
            hopeless: set[linalg.LinalgOp] = set()
            order = Order()  # of all that may become a member: nothing else does, while regions are made
            for op in reversed(func.body.ops):
                if op.block is not func.body or op in hopeless:
                    continue
                if isinstance(op, linalg.LinalgOp) and op.results:
                    hopeless |= _group(op, belongs, order, context.target)
            drop_unused(func)


def _group(
    root: linalg.LinalgOp, belongs: Callable[[linalg.LinalgOp], bool], order: Order, target: Target
) -> set[linalg.LinalgOp]:
    """Puts `root`, and the chain of reductions and elementwise ops that it ends, into one region.

    Returns the ops that need not be tried as roots any more: those of a chain that is no normalisation. A chain
    that one of them ends is a part of it (or begins where the bounds of a region have cut it)."""
    if isinstance(root, linalg.Fill) or root.is_contraction or not root.is_elementwise:
        return set()

    def fits(members: Sequence[linalg.LinalgOp], rows: Rows) -> bool:
        return _is_cheap(members, rows, target)

    if not _normalises(widest := widest_region(root, belongs, order)):
        return set(widest)
    members = grow(root, belongs, order, fits)
    if _normalises(members):
        message = f"and {len(members) - 1} ops before it stay in cache row by row"
        remarks.fused(root, message, *members[:-1], ops=len(members))
        group(members)
    else:
        remarks.missed(
            root,
            "does not end a kernel of rows: they do not fit the cache, or are too few to share among workers",
        )
    return set()


def _normalises(members: Sequence[linalg.LinalgOp]) -> bool:
    """True if one of the members, which come in program order, reads what a reduction led to again for each element of the row. An
    epilogue that works on the result alone, like the division of a mean, is left to `fuse`, and so is what reads a number a channel that
    only arithmetic made: until then `pack` may block it."""
    reduced: set[linalg.LinalgOp] = set()
    for op in members:
        reads = [(v.owner, m) for v, m in zip(op.inputs, op.maps, strict=False) if v.owner in reduced]
        if any(not m.is_permutation for _, m in reads):
            return True
        if reads or op.reduction_dims:
            reduced.add(op)
    return False


def widest_region(
    root: linalg.LinalgOp, belongs: Callable[[linalg.LinalgOp], bool], order: Order
) -> list[linalg.LinalgOp]:
    """What `grow` finds if all of it fits."""
    return _region(root, _feeding(root, belongs, (), order), order)


def grow(
    root: linalg.LinalgOp,
    belongs: Callable[[linalg.LinalgOp], bool],
    order: Order,
    fits: Callable[[Sequence[linalg.LinalgOp], Rows], bool],
) -> list[linalg.LinalgOp]:
    """`root` and the producers that share rows with it, in program order: those that belong, that nothing else
    reads, and with which the region still fits. Of a region that fits, every part fits: so the first producer
    that does not is found by bisection."""

    def fails(count: int) -> bool:
        members = _region(root, joined[:count], order)
        rows = find_rows(members)
        return rows is None or not fits(members, rows)

    rejected: set[linalg.LinalgOp] = set()
    joined = _feeding(root, belongs, rejected, order)
    while joined and fails(len(joined)):
        first = bisect_left(range(1, len(joined)), True, key=fails)
        rejected.add(joined[first])
        joined = _feeding(root, belongs, rejected, order)
    return _region(root, joined, order)


def _region(root: linalg.LinalgOp, joined: Sequence[linalg.LinalgOp], order: Order) -> list[linalg.LinalgOp]:
    """The members in program order, and the fills that those which joined the root accumulate in."""
    fills = [v.owner for op in joined for v in op.outputs if isinstance(v.owner, linalg.Fill)]
    return sorted({root, *joined, *fills}, key=order.of)


def _feeding(
    root: linalg.LinalgOp,
    belongs: Callable[[linalg.LinalgOp], bool],
    rejected: Collection[linalg.LinalgOp],
    order: Order,
) -> list[linalg.LinalgOp]:
    """The producers that belong and whose results only `root` and others of them read, but for the rejected ones
    and those beyond the bounds of a region. What the last op in the program reads comes first."""
    members: dict[linalg.LinalgOp, None] = {}
    read: set[Value] = set()
    waiting: list[tuple[int, int, linalg.LinalgOp]] = []
    joining = root
    while True:
        read = read.difference(joining.results).union(joining.inputs)
        if members and len(read) > MOST_INPUTS:
            return list(members)[1:]
        members[joining] = None
        for value in joining.inputs:
            producer = value.owner
            if not isinstance(producer, linalg.LinalgOp) or producer.block is not root.block:
                continue
            users = [user for r in producer.results for user in r.users]
            if any(user not in members for user in users) or producer in rejected or not belongs(producer):
                continue
            last = max(users, key=order.of)
            entry = (-order.of(last), last.operands.index(value), producer)
            if entry not in waiting:
                heappush(waiting, entry)
        if not waiting or len(members) >= MOST_OPS:
            return list(members)[1:]
        joining = heappop(waiting)[2]


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
    """True if an elementwise op works on what a contraction of that kind made, not too many ops before: better in
    its registers."""
    waiting, seen = [op], {op}
    while waiting and len(seen) < MOST_OPS:
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
    shape = shaped_of(members[-1].results[0]).shape
    columns = prod(size for d, size in enumerate(shape) if d not in rows.dims)
    count = prod(shape[d] for d in rows.dims)
    near = (
        row_bytes(members, rows) <= target.core.l2_bytes // 4
        and frame_bytes(members, rows) <= MAX_FRAME_BYTES
    )
    return near and (count >= 8 or count * columns <= 2 * cost.ELEMENTS)
