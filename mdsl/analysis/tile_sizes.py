"""How large the tile of one micro-kernel is: the cost model behind `tile`.

A contraction's tile is the set of accumulators that stay in registers over its whole reduction. With R
vector registers, a tile of P rows (of what only the first operand has: matrix rows, pixels) by Q vectors
(of what only the second has: columns, output channels) needs P*Q accumulators, Q registers for the second
operand and one for a broadcast element of the first: P*Q + Q + 1 <= R. A step of the reduction takes

    cycles(P, Q) = max(P*Q / 2, (P + Q) / 2, 2*Q, latency) + 1

for two multiply-adds and two loads a cycle, and a cycle for the loop and its prefetches; a panel of columns
is larger than the first-level cache, and the second sends a vector every other cycle; and fewer chains than `Target.fma_chains` wait for each other.
Of all tilings the one with the fewest cycles in all wins, remainders counted (and a little more, for each
is another kernel). On 32 registers that is 8 x 2 to 14 x 2 for large matrices: 16 to 28 chains, 1.6
multiply-adds a load and more. A matrix-vector product has one row, and gets more columns.

Everything else is bound by memory: a kernel gets about `ELEMENTS` elements, so that a dispatch costs
nothing beside its work while there are still tiles for every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod

from mdsl.dialects import linalg
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Op
from mdsl.ir.typed import shaped_of
from mdsl.target.target import Target

ELEMENTS = 8192
"""Elements of a tile of what is bound by memory."""

RUN = 512
"""Neighbouring elements of a transposed input that such a tile reads at least, if it can."""

_START = 40.0
"""Cycles for a dispatch, and to fill and drain the pipeline."""

_STREAM = 8.0
"""Bytes a cycle that memory sends to one core. What is computed meanwhile is subtracted; the figure in
`winograd_cost`, where it is not, is that much larger."""

_REMAINDER = 0.04
"""What a remainder adds to all cycles: another kernel is more code, and its loop more often too short to share
among workers."""

TILE = "mdsl.tile"
"""The attribute of a region or a structured op in which `tune` notes the tile that it measured."""


def noted_tile(op: Op) -> list[int] | None:
    """The sizes that the attribute `mdsl.tile` gives for the dimensions of the op's result, no larger than it is;
    None without the attribute. Raises VerifyError if they are not a positive integer a dimension."""
    noted = op.attributes.get(TILE)
    if noted is None:
        return None
    shape = shaped_of(op.results[0]).shape if op.results else ()
    sizes = noted.values if isinstance(noted, DenseArrayAttr) else ()
    integers = [n for n in sizes if isinstance(n, int) and n > 0]
    if not isinstance(noted, DenseArrayAttr) or len(sizes) != len(shape) or len(integers) != len(sizes):
        raise op.error(f"{TILE} must be {len(shape)} integers from 1 on, one a dimension, got {noted}")
    return [min(n, extent) for n, extent in zip(integers, shape, strict=True)]


def contraction_tile(op: linalg.LinalgOp, target: Target) -> list[int]:
    """Tile size for each dimension of the output of a contraction, in order."""
    return contraction_tiles(op, target)[0]


def contraction_tiles(op: linalg.LinalgOp, target: Target) -> list[list[int]]:
    """All tilings that fit the registers, each a size for each dimension of the output; the fastest first."""
    return [list(tile) for tile in _tilings(_Nest.of(op, target))]


@cache
def _tilings(nest: _Nest) -> list[list[int]]:
    """The work of `contraction_tiles`; a network has many layers of few shapes."""
    if prod(nest.sizes[d] for d in nest.out) <= 1:
        return [[1] * len(nest.out)]
    candidates = [
        nest.tile(vectors, rows)
        for vectors in range(1, 13)
        for rows in range(1, nest.target.vector_registers)
    ]
    different = {tuple(t.values()): t for t in candidates if t is not None}
    return [[t[d] for d in nest.out] for t in sorted(different.values(), key=nest.cycles)]


def split_dims(op: linalg.LinalgOp) -> tuple[list[int], list[int]]:
    """The output's loop dimensions that only the first operand has (rows, pixels) and only the second (columns)."""
    left, right = op.maps[0].dims(), op.maps[1].dims()
    out = op.maps[-1].dim_positions() or ()
    return [d for d in out if d in left - right], [d for d in out if d in right - left]


@dataclass(frozen=True)
class _Nest:
    """What the model needs to know of a contraction. Dimensions are loop positions."""

    sizes: tuple[int, ...]
    out: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    steps: int  # of the reduction
    lanes: int
    target: Target

    @staticmethod
    def of(op: linalg.LinalgOp, target: Target) -> _Nest:
        sizes = op.loop_sizes()
        out = op.maps[-1].dim_positions() or ()
        rows, columns = split_dims(op)
        rows = tuple(d for d in rows if d != (out or (None,))[-1])
        steps = prod(sizes[d] for d in op.reduction_dims)
        return _Nest(
            tuple(sizes),
            out,
            rows,
            tuple(columns),
            steps,
            target.lanes(str(shaped_of(op.outputs[0]).element)),
            target,
        )

    @property
    def vector(self) -> int:
        """The dimension that vectors lie along: the innermost."""
        return self.out[-1]

    def tile(self, vectors: int, rows: int) -> dict[int, int] | None:
        """The tile of (at most) `vectors` vectors and `rows` rows; None if it needs too many registers."""
        tile = dict.fromkeys(self.out, 1)
        outer = next((d for d in reversed(self.out) if d in self.columns and d != self.vector), None)
        if self.sizes[self.vector] > self.lanes or outer is None or self.vector not in self.columns:
            tile[self.vector] = min(self.sizes[self.vector], vectors * self.lanes)
            vectors = -(-tile[self.vector] // self.lanes)
        else:
            tile[self.vector], tile[outer] = self.sizes[self.vector], min(self.sizes[outer], vectors)
            vectors = tile[outer]
        if rows > 1 and rows * vectors + vectors + 1 > self.target.vector_registers:
            return None
        for d in reversed(self.rows):
            tile[d] = balanced(self.sizes[d], rows)
            rows = rows // tile[d] if tile[d] == self.sizes[d] else 1
        return tile

    def cycles(self, tile: Mapping[int, int]) -> float:
        """Estimated cycles of the whole contraction."""
        pieces = [[(d, tile[d], self.sizes[d] // tile[d]), (d, self.sizes[d] % tile[d], 1)] for d in tile]
        pieces = [[p for p in dim if p[1] and p[2]] for dim in pieces]
        total = 0.0
        for part in product(*pieces):
            step = self._step({d: size for d, size, _ in part})
            total += prod(count for _, _, count in part) * (self.steps * step + _START)
        kernels = prod(len(dim) for dim in pieces)
        total += self._waiting(tile)
        return total * (1 + _REMAINDER * (kernels - 1))

    def _step(self, tile: Mapping[int, int]) -> float:
        """Cycles of one step of the reduction."""
        rows, vectors = prod(size for d, size in tile.items() if d in self.rows), self._vectors(tile)
        return max(rows * vectors / 2, (rows + vectors) / 2, 2 * vectors, self.target.fma_chains / 2) + 1

    def _vectors(self, tile: Mapping[int, int]) -> int:
        return prod(
            -(-size // self.lanes) if d == self.vector else size
            for d, size in tile.items()
            if d not in self.rows
        )

    def _waiting(self, tile: Mapping[int, int]) -> float:
        """Cycles by which the first tile of rows waits for its panel of columns, where all of them are more
        than the second-level cache holds; the tiles after it find the panel there."""
        others = [d for d in tile if d not in self.rows]
        elements = self.steps * prod(self.sizes[d] for d in others)
        if elements * self.target.vector_bytes / self.lanes <= self.target.l2_bytes:
            return 0.0
        step = self._step(tile)
        panels = prod(-(-self.sizes[d] // tile[d]) for d in others)
        vectors = self._vectors(tile)
        return panels * self.steps * max(0.0, vectors * self.target.vector_bytes / _STREAM - step)


def balanced(size: int, limit: int, *, whole: bool = False) -> int:
    """The tile of at most `limit` that leaves the least remainder with the fewest tiles; if `whole`, rather one that
    divides `size`, which is at least 1, where it is not much smaller."""
    limit = max(min(limit, size), 1)
    if whole:
        divisor = max(n for n in range(1, limit + 1) if size % n == 0)
        if 2 * divisor >= limit:
            return divisor
    return -(-size // -(-size // limit))


def bulk_tile(op: linalg.LinalgOp) -> list[int]:
    """Tile size for each output dimension of an op that is bound by memory.

    The tile grows along the output's innermost dimensions; where a transposed input has others innermost,
    first along those, to `RUN` neighbouring elements: a tile that reads a few elements of every row would
    fetch a page for each.
    """
    sizes = op.loop_sizes()
    out: Sequence[int] = op.maps[-1].dim_positions() or ()
    budget = max(1, ELEMENTS // len(op.outputs) // max(prod(sizes[d] for d in op.reduction_dims), 1))
    tile = dict.fromkeys(out, 1)

    def grow(order: Sequence[int], limit: int) -> None:
        for d in order:
            others = prod(tile.values()) // tile[d]
            tile[d] = max(tile[d], balanced(sizes[d], max(limit // others, 1)))
            if tile[d] < sizes[d]:
                return

    for map in op.maps[: len(op.inputs)]:
        read = [d for d in reversed(map.dim_positions() or ()) if d in tile]
        if len(read) == len(out):
            grow(read, min(RUN, budget))
    grow(out[::-1], budget)
    return [tile[d] for d in out]
