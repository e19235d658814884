"""How large the tile of one micro-kernel is: the cost model behind `tile`.

A contraction's tile is the set of accumulators that stay in registers over its whole reduction. With R
vector registers, a tile of P rows (of what only the first operand has: matrix rows, pixels) by Q vectors
(of what only the second has: columns, output channels) needs P*Q accumulators, Q registers for the second
operand and one for a broadcast element of the first: P*Q + Q + 1 <= R. A step of the reduction takes

    cycles(P, Q) = max(P*Q / 2, (P + Q) / 2, latency)

for two multiply-adds and two loads a cycle; fewer chains than `Target.fma_chains` wait for each other.
For every Q the largest P that fits is balanced (512 rows in tiles of at most 14 are 37 tiles), and the
tiling with the fewest cycles in all wins, remainders counted (and a little more, for each is another kernel). On 32 registers that is 14 x 2 for large
matrices: 28 chains, 1.75 multiply-adds a load. A matrix-vector product has one row, and gets more columns.

Everything else is bound by memory: a kernel gets about `ELEMENTS` elements, so that a dispatch costs
nothing beside its work while there are still tiles for every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod

from mdsl.codegen.target import Target
from mdsl.dialects import linalg
from mdsl.passes.regions import shaped

ELEMENTS = 8192
_START = 40.0  # cycles for a dispatch, and to fill and drain the pipeline
_REMAINDER = 0.04  # another kernel is more code, and its loop more often too short to share among workers


def contraction_tile(op: linalg.LinalgOp, target: Target) -> list[int]:
    """Tile size for each dimension of the output of a contraction, in order."""
    out = op.maps[-1].dim_positions() or ()
    if not out:
        return []
    candidates = [_tile_with(op, vectors, target) for vectors in range(1, 13)]
    best = min(candidates, key=lambda tile: _cycles(op, tile, target))
    return [best[d] for d in out]


def split_dims(op: linalg.LinalgOp) -> tuple[list[int], list[int]]:
    """The output's loop dimensions that only the first operand has (rows, pixels) and only the second (columns)."""
    left, right = op.maps[0].dims(), op.maps[1].dims()
    out = op.maps[-1].dim_positions() or ()
    return [d for d in out if d in left - right], [d for d in out if d in right - left]


def _tile_with(op: linalg.LinalgOp, vectors: int, target: Target) -> dict[int, int]:
    """The tile with (at most) `vectors` vectors of columns and as many rows as fit beside them."""
    sizes = op.loop_sizes()
    out = op.maps[-1].dim_positions() or ()
    rows, columns = split_dims(op)
    lanes = target.lanes(str(shaped(op.outputs[0]).element))
    vector = out[-1]
    tile = dict.fromkeys(out, 1)
    outer = next((d for d in reversed(out) if d in columns and d != vector), None)
    if sizes[vector] > lanes or outer is None or vector not in columns:
        tile[vector] = min(sizes[vector], vectors * lanes)
        vectors = -(-tile[vector] // lanes)
    else:
        tile[vector], tile[outer] = sizes[vector], min(sizes[outer], vectors)
        vectors = tile[outer]
    limit = max(1, (target.vector_registers - vectors - 1) // vectors)
    for d in reversed([d for d in rows if d != vector]):
        tile[d] = _balanced(sizes[d], limit)
        limit = limit // tile[d] if tile[d] == sizes[d] else 1
    return tile


def _balanced(size: int, limit: int) -> int:
    """The tile of at most `limit` that leaves the least remainder with the fewest tiles."""
    tiles = -(-size // max(limit, 1))
    return -(-size // tiles)


def _cycles(op: linalg.LinalgOp, tile: Mapping[int, int], target: Target) -> float:
    """Estimated cycles of the whole contraction."""
    sizes = op.loop_sizes()
    lanes = target.lanes(str(shaped(op.outputs[0]).element))
    _, columns = split_dims(op)
    steps = prod(sizes[d] for d in op.reduction_dims)
    pieces = [[(d, tile[d], sizes[d] // tile[d]), (d, sizes[d] % tile[d], 1)] for d in tile]
    vector = (op.maps[-1].dim_positions() or (0,))[-1]
    total = 0.0
    for part in product(*[[p for p in dim if p[1] and p[2]] for dim in pieces]):
        rows = prod(size for d, size, _ in part if d not in columns and d != vector)
        vectors = prod(-(-size // lanes) if d == vector else size for d, size, _ in part if d in columns or d == vector)
        step = max(rows * vectors / 2, (rows + vectors) / 2, target.fma_chains / 2)
        total += prod(count for _, _, count in part) * (steps * step + _START)
    kernels = prod(sum(1 for p in dim if p[1] and p[2]) for dim in pieces)
    return total * (1 + _REMAINDER * (kernels - 1))


def bulk_tile(op: linalg.LinalgOp) -> list[int]:
    """Tile size for each output dimension of an op that is bound by memory."""
    sizes = op.loop_sizes()
    out: Sequence[int] = op.maps[-1].dim_positions() or ()
    budget = max(1, ELEMENTS // max(prod(sizes[d] for d in op.reduction_dims), 1))
    tile: dict[int, int] = {}
    for d in reversed(out):
        tile[d] = _balanced(sizes[d], budget)
        budget = max(budget // tile[d], 1) if tile[d] == sizes[d] else 1
    return [tile[d] for d in out]
