"""lower-vm: division of a function among its workers: which parts they share, which one of them does alone.

All workers run the whole function. What a part writes is written once: either its parallel loops are shared
out, or the first worker does all of it. What it only computes, each computes for itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import scf
from mdsl.ir.core import BlockArgument, Op, Value

_ENOUGH_TRIPS = 8
"""A loop with fewer does not share its work evenly."""

_EFFECTS = ("memref.store", "memref.copy", "linalg.fill", "linalg.copy", "ukernel.dispatch")


def writes(op: Op) -> bool:
    return any(inner.name in _EFFECTS for inner in op.walk())


def is_shared(op: Op) -> bool:
    """True for a parallel loop, or a structure around some, that all workers come to.

    They must agree on whether and how often it runs, and nothing in it may be for one worker alone that
    the others need the result of.
    """
    if isinstance(op, scf.Forall):
        return all(map(_is_uniform, op.operands))
    if not isinstance(op, scf.For | scf.If) or not any(isinstance(inner, scf.Forall) for inner in op.walk()):
        return False
    control = op.operands[:3] if isinstance(op, scf.For) else op.operands[:1]
    inside = [inner for region in op.regions for inner in region.block.ops]
    return all(map(_is_uniform, control)) and not any(map(is_for_one, inside))


def is_for_one(op: Op) -> bool:
    """True for an op that writes and computes a number besides: only the worker that runs it knows that."""
    return bool(op.results) and writes(op) and not is_shared(op)


def _is_uniform(value: Value) -> bool:
    """True if the loader sees that every worker has the same number: it comes from counters and constants."""
    owner = value.owner
    if isinstance(value, BlockArgument):
        loop = value.block.parent_op
        return isinstance(loop, scf.For) and value is loop.iv and all(map(_is_uniform, loop.operands[:3]))
    assert isinstance(owner, Op)
    return owner.has("pure") and not owner.regions and all(map(_is_uniform, owner.operands))


def shared_loop(bounds: Sequence[tuple[object, object, object]]) -> int:
    """The loop of a nest whose trips the workers share: the outermost with enough of them, else the longest."""
    trips = [
        (u - lo + s - 1) // s if isinstance(lo, int) and isinstance(u, int) and isinstance(s, int) else 1
        for lo, u, s in bounds
    ]
    return next((i for i, t in enumerate(trips) if t >= _ENOUGH_TRIPS), trips.index(max(trips)))
