"""Row analysis of fused regions: along which dimensions of the result all ops of a region can be tiled together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mdsl.dialects import linalg
from mdsl.ir.core import Value
from mdsl.ir.typed import shaped_of
from mdsl.target import cost
from mdsl.target.target import MAX_FRAME_BYTES, Target

Labels = list[int | None]
"""For each dimension of a tensor (or loop of an op) the dimension of the region's result that it is cut with;
None where it stays whole."""


@dataclass(frozen=True)
class Rows:
    """The rows of a region: dimensions `dims` of the last op's result, along which every op can be cut, so that a
    tile of the result needs only its own part of what the ops compute. `loops` are the labels of each op's loops."""

    dims: frozenset[int]
    loops: dict[linalg.LinalgOp, Labels]

    def of_result(self, sizes: Sequence[int], op: linalg.LinalgOp) -> list[int]:
        """The tile `sizes` of the output of `op`, which has all the rows, in the order of the region's result."""
        made = [self.loops[op][loop] for loop in op.maps[-1].dim_positions() or ()]
        return [sizes[made.index(d)] for d in sorted(self.dims)]


def find_rows(ops: Sequence[linalg.LinalgOp]) -> Rows | None:
    """The rows of a region of `ops`, in program order; None if an op makes, or reads of another one, anything but
    plain dimensions.

    A dimension of the last result is one of the rows if, followed backwards through the indexing maps, it is
    a dimension of everything that the ops compute: the columns of a softmax are not, for its row's maximum
    lacks them.
    """
    inside = set(ops)
    for op in ops:
        followed = [m for v, m in zip(op.operands, op.maps, strict=True) if v.owner in inside]
        if any(m.dim_positions() is None for m in (*followed, *op.maps[len(op.inputs) :])):
            return None
    dims = frozenset(range(shaped_of(ops[-1].results[0]).rank))
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
        labels[result] = [d if d in dims else None for d in range(shaped_of(result).rank)]
    found: dict[linalg.LinalgOp, Labels] = {}
    kept = set(dims)
    for op in reversed(ops):
        loops: Labels = [None] * op.num_loops
        for result, map in zip(op.results, op.maps[len(op.inputs) :], strict=True):
            own = labels.get(result)
            kept &= set(own or ())
            for loop, label in zip(map.dim_positions() or (), own or (), strict=False):
                kept -= {loops[loop], label} if loops[loop] not in (None, label) else set()
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


def is_row_region(ops: Sequence[linalg.LinalgOp], rows: Rows) -> bool:
    """True if an op reads more than the same point of what another computes: a whole row of it, or one element again
    and again. Then the region is cut along the rows alone, be they all dimensions of its result or none."""
    return len(rows.dims) < shaped_of(ops[-1].results[0]).rank or any(_crosses(op, set(ops)) for op in ops)


def _crosses(op: linalg.LinalgOp, members: Collection[linalg.LinalgOp]) -> bool:
    reads = zip(op.inputs, op.maps, strict=False)
    inner = [m for v, m in reads if v.owner in members and not isinstance(v.owner, linalg.Fill)]
    return any(m.dims() != set(op.parallel_dims) for m in inner)


def row_bytes(ops: Sequence[linalg.LinalgOp], rows: Rows) -> int:
    """Bytes of everything that the ops compute for one row, but for the result."""
    return sum(_bytes_made(op, rows.loops[op]) for op in ops[:-1] if not isinstance(op, linalg.Fill))


def _bytes_made(op: linalg.LinalgOp, labels: Labels) -> int:
    total, sizes = 0, op.loop_sizes()
    for result, map in zip(op.results, op.maps[len(op.inputs) :], strict=True):
        whole = prod(sizes[d] for d in map.dim_positions() or () if labels[d] is None)
        type = shaped_of(result)
        total += whole * type.nbytes // max(type.size, 1)
    return total


def frame_bytes(ops: Sequence[linalg.LinalgOp], rows: Rows) -> int:
    """Bytes of the local memory that a kernel of one row needs: what `row_bytes` counts, but for what replaces,
    element by element, something that is not needed any more."""
    temporaries = [op for op in ops[:-1] if not isinstance(op, linalg.Fill)]
    last = {v: op for op in ops for v in op.operands}
    return sum(_bytes_made(op, rows.loops[op]) for op in temporaries if not _takes_over(op, set(ops), last))


def _takes_over(
    op: linalg.LinalgOp, members: Collection[linalg.LinalgOp], last: Mapping[Value, linalg.LinalgOp]
) -> bool:
    return op.is_elementwise and any(
        v.owner in members and last[v] is op and v.type == op.results[0].type and m == op.maps[-1]
        for v, m in zip(op.inputs, op.maps, strict=False)
    )


def row_tile(ops: Sequence[linalg.LinalgOp], rows: Rows, target: Target) -> list[int]:
    """Tile size for each dimension of the result: all columns, and as many rows as stay in the first-level
    cache with what is computed for them; where there are contractions, enough to make use of what each loads. They
    are no more than a kernel's local memory holds."""
    shape = shaped_of(ops[-1].results[0]).shape
    sizes = [1 if d in rows.dims else size for d, size in enumerate(shape)]
    each = max(row_bytes(ops, rows), 1)
    count = max(target.core.l1_bytes // 2 // each, 1)
    order = sorted(rows.dims, reverse=True)
    if any(op.is_contraction for op in ops):
        count = min(max(count, cost.ROWS), cost.MOST_ROWS, max(target.core.l2_bytes // 2 // each, 1))
        order = [d for d in order if d not in shared_dims(ops, rows)] or order
    count = min(count, MAX_FRAME_BYTES // max(frame_bytes(ops, rows), 1))
    for d in order:
        sizes[d] = cost.balanced(shape[d], count, whole=True)
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
