"""Regions that share rows: which dimensions of a region's result all its ops can be cut along, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mdsl.codegen.target import Target
from mdsl.dialects import linalg
from mdsl.ir.core import Value
from mdsl.passes.regions import shaped
from mdsl.passes.tile_sizes import balanced

Labels = list[int | None]
"""For each dimension of a tensor (or loop of an op) the dimension of the region's result that it is cut with;
None where it stays whole."""

_ROWS = 16
"""Rows of a contraction that share a load of its second operand: enough for two multiply-adds a cycle."""
_MOST_ROWS = 32


@dataclass(frozen=True)
class Rows:
    """The rows of a region: dimensions `dims` of the last op's result, along which every op can be cut, so that a
    tile of the result needs only its own part of what the ops compute. `loops` are the labels of each op's loops."""

    dims: frozenset[int]
    loops: dict[linalg.LinalgOp, Labels]


def find_rows(ops: Sequence[linalg.LinalgOp]) -> Rows | None:
    """The rows of a region of `ops`, in program order; None if a map is not of plain dimensions.

    A dimension of the last result is one of the rows if, followed backwards through the indexing maps, it is
    a dimension of everything that the ops compute: the columns of a softmax are not, for its row's maximum
    lacks them.
    """
    root = ops[-1]
    if any(m.dim_positions() is None for op in ops for m in op.maps):
        return None
    dims = frozenset(range(shaped(root.results[0]).rank))
    while True:
        loops, kept = _follow(ops, dims)
        if kept == dims:
            return Rows(dims, loops)
        dims = kept


def _follow(
    ops: Sequence[linalg.LinalgOp], dims: frozenset[int]
) -> tuple[dict[linalg.LinalgOp, Labels], frozenset[int]]:
    """The labels of all loops if `dims` are the rows, and those of them that no op contradicts."""
    inside = set(ops)
    labels: dict[Value, Labels] = {}
    for result in ops[-1].results:
        labels[result] = [d if d in dims else None for d in range(shaped(result).rank)]
    found: dict[linalg.LinalgOp, Labels] = {}
    kept = set(dims)
    for op in reversed(ops):
        loops: Labels = [None] * op.num_loops
        for result, map in zip(op.results, op.maps[len(op.inputs) :], strict=True):
            own = labels.get(result)
            kept &= set(own or ())
            for loop, label in zip(map.dim_positions() or (), own or (), strict=True):
                loops[loop] = label
        found[op] = loops
        for value, map in zip(op.operands, op.maps, strict=True):
            if value.owner not in inside:
                continue
            wanted = [loops[d] for d in map.dim_positions() or ()]
            known = labels.setdefault(value, wanted)
            kept -= {
                label for pair in zip(known, wanted, strict=True) if pair[0] != pair[1] for label in pair
            }
    return found, frozenset(kept)


def is_row_region(ops: Sequence[linalg.LinalgOp], rows: Rows | None) -> bool:
    """True if an op reads more than the same point of what another computes, and there are rows to cut along."""
    return rows is not None and len(rows.dims) < shaped(ops[-1].results[0]).rank


def row_bytes(ops: Sequence[linalg.LinalgOp], rows: Rows) -> int:
    """Bytes of everything that the ops compute for one row, but for the result."""
    total = 0
    for op in ops[:-1]:
        if isinstance(op, linalg.Fill):
            continue
        sizes, labels = op.loop_sizes(), rows.loops[op]
        for result, map in zip(op.results, op.maps[len(op.inputs) :], strict=True):
            whole = prod(sizes[d] for d in map.dim_positions() or () if labels[d] is None)
            type = shaped(result)
            total += whole * type.nbytes // max(type.size, 1)
    return total


def row_tile(ops: Sequence[linalg.LinalgOp], rows: Rows, target: Target) -> list[int]:
    """Tile size for each dimension of the result: all columns, and as many rows as stay in the first-level
    cache with what is computed for them; where there are contractions, enough to make use of what each loads."""
    shape = shaped(ops[-1].results[0]).shape
    sizes = [1 if d in rows.dims else size for d, size in enumerate(shape)]
    each = max(row_bytes(ops, rows), 1)
    count = max(target.l1_bytes // 2 // each, 1)
    order = sorted(rows.dims, reverse=True)
    if any(op.is_contraction for op in ops):
        count = min(max(count, _ROWS), _MOST_ROWS, max(target.l2_bytes // 2 // each, 1))
        order = [d for d in order if d not in shared_dims(ops, rows)]
    for d in order:
        sizes[d] = balanced(shape[d], count, whole=True)
        count //= sizes[d]
        if count < 2 or sizes[d] < shape[d]:
            break
    return sizes


def shared_dims(ops: Sequence[linalg.LinalgOp], rows: Rows) -> set[int]:
    """The rows that the second operands of contractions have too (batches, heads): outer loops, so that these
    operands stay in cache while the other rows pass by."""
    found: set[int] = set()
    for op in ops:
        if op.is_contraction:
            found |= {label for d in op.maps[1].dims() if (label := rows.loops[op][d]) is not None}
    return found
