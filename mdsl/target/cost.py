"""What work costs on a machine: registers that a block needs, cycles, bytes on their way. The formulas take numbers.

A contraction's tile is the set of accumulators that stay in registers over its whole reduction. A tile of P rows (of
what only the first operand has: matrix rows, pixels) by Q vectors (of what only the second has: columns, output
channels) needs P*Q accumulators, Q registers for the second operand and one for a broadcast element of the first. A
step of the reduction takes

    cycles(P, Q) = max(P*Q / 2, (P + Q) / 2, 2*Q, latency) + 1

for two multiply-adds and two loads a cycle, and a cycle for the loop and its prefetches; a panel of columns is larger
than the first-level cache, and the second sends a vector every other cycle; and fewer chains than `Target.fma_chains`
wait for each other. Of all tilings the one with the fewest cycles in all wins, remainders counted (and a little more,
for each is another kernel). On 32 registers that is 8 x 2 to 14 x 2 for large matrices: 16 to 28 chains, 1.6
multiply-adds a load and more. A matrix-vector product has one row, and gets more columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TypeVar

from mdsl.target.target import Target

Key = TypeVar("Key")

ELEMENTS = 8192
"""Elements of a tile of what is bound by memory: a dispatch costs nothing beside its work, and there are still tiles for
every worker."""

RUN = 512
"""Neighbouring elements of a transposed input that such a tile reads at least, if it can."""

SMALL = 4
"""Vectors that a block of a nest without reductions holds."""

ABREAST = 4
"""Vectors of which an elementary function is computed together: as many as its chain of dependent operations leaves room for."""

ROWS, MOST_ROWS = 16, 32
"""Rows of a contraction that share a load of its second operand: enough for two multiply-adds a cycle; and at most."""

STRIDED = 2.0
"""Cost of one lane of a strided vector (a load and an insertion), in vector operations."""

AHEAD = 8192
"""Bytes between what a stream reads and what it prefetches: at 40 GB/s, 200 ns, the 100 that memory takes to
answer and as many for what else is on its way (measured on whole networks: 2 KB cost 5 % of ResNet-50's
time, 16 KB and more push out what is in use)."""

WORTH_PREFETCHING = 8192
"""Bytes from which an operand is worth a prefetch: less arrives with the first lines."""

_START = 40.0
"""Cycles for a dispatch, and to fill and drain the pipeline."""

_MEMORY = 8.0
"""Bytes a cycle that memory sends to one core. What is computed meanwhile is subtracted."""

_WEIGHTS = 16.0
"""Bytes a cycle of a weight from memory, as far as multiplications do not hide its way, which are not subtracted here
(measured: 10 to 27)."""

_REMAINDER = 0.04
"""What a remainder adds to all cycles: another kernel is more code, and its loop more often too short to share
among workers."""

_TRANSFORM = 4.0
"""Cycles for each vector that a transform of Winograd's method moves, its arithmetic included (measured: 3 to 5)."""


# Registers ------------------------------------------------------------------------------------------------------


def registers(accumulators: int, shared: int, passing: int = 1) -> int:
    """Vectors live at once: the accumulators, the vectors of operands that several of them use, and one for each
    operand that passes through."""
    return accumulators + shared + passing


def chains_of(accumulators: int, target: Target) -> int:
    """Accumulators for each of so many values that together hide the latency of an FMA."""
    return max(1, -(-target.fma_chains // accumulators))


def step(operations: float, loads: float, target: Target, far: float = 0) -> float:
    """Cycles of one step of a reduction that does so many vector operations and loads, `far` of them from the
    second-level cache; too few chains wait for their latency; 1 for the loop."""
    sent = far * target.vector_bytes / target.core.l2_rate
    return max(operations / target.fma_rate, loads / target.load_rate, sent, target.core.fma_latency) + 1


def worth_widening(rows: int, target: Target) -> bool:
    """Whether a product of 16-bit floats is worth f32 operands: so many rows are multiplied by each element of the second
    that its 4 bytes arrive in that time."""
    return rows / (target.lanes("f32") * target.fma_rate) >= 4 / _WEIGHTS


def blocks(extents: Mapping[Key, int], block: Mapping[Key, int]) -> Iterator[tuple[dict[Key, int], int]]:
    """Each kind of block, whole or cut by the edge, with the number of times that it occurs."""
    pieces = [
        [(d, size, n) for size, n in ((block[d], extent // block[d]), (extent % block[d], 1)) if size and n]
        for d, extent in extents.items()
    ]
    for part in product(*pieces):
        yield {d: size for d, size, _ in part}, prod(n for _, _, n in part)


def balanced(size: int, limit: int, *, whole: bool = False) -> int:
    """The tile of at most `limit` that leaves the least remainder with the fewest tiles; if `whole`, rather one that
    divides `size`, which is at least 1, where it is not much smaller."""
    limit = max(min(limit, size), 1)
    if whole:
        divisor = max(n for n in range(1, limit + 1) if size % n == 0)
        if 2 * divisor >= limit:
            return divisor
    return -(-size // -(-size // limit))


# Contractions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contraction:
    """What the model needs to know of a contraction. Dimensions are loop positions."""

    sizes: tuple[int, ...]
    out: tuple[int, ...]
    rows: tuple[int, ...]
    """Those that only the first operand has, but for the innermost."""
    columns: tuple[int, ...]
    """Those that only the second has."""
    steps: int
    """Of the reduction."""
    lanes: int
    target: Target

    def tilings(self) -> list[dict[int, int]]:
        """All tilings that fit the registers; the fastest first."""
        if prod(self.sizes[d] for d in self.out) <= 1:
            return [dict.fromkeys(self.out, 1)]
        candidates = [
            self._tile(vectors, rows)
            for vectors in range(1, 13)
            for rows in range(1, self.target.isa.registers)
        ]
        different = {tuple(t.values()): t for t in candidates if t is not None}
        return sorted(different.values(), key=self._cycles)

    @property
    def _vector(self) -> int:
        """The dimension that vectors lie along: the innermost."""
        return self.out[-1]

    def _tile(self, vectors: int, rows: int) -> dict[int, int] | None:
        """The tile of (at most) `vectors` vectors and `rows` rows; None if it needs too many registers."""
        tile = dict.fromkeys(self.out, 1)
        outer = next((d for d in reversed(self.out) if d in self.columns and d != self._vector), None)
        if self.sizes[self._vector] > self.lanes or outer is None or self._vector not in self.columns:
            tile[self._vector] = min(self.sizes[self._vector], vectors * self.lanes)
            vectors = -(-tile[self._vector] // self.lanes)
        else:
            tile[self._vector], tile[outer] = self.sizes[self._vector], min(self.sizes[outer], vectors)
            vectors = tile[outer]
        if rows > 1 and registers(rows * vectors, vectors) > self.target.isa.registers:
            return None
        for d in reversed(self.rows):
            tile[d] = balanced(self.sizes[d], rows)
            rows = rows // tile[d] if tile[d] == self.sizes[d] else 1
        return tile

    def _cycles(self, tile: Mapping[int, int]) -> float:
        """Estimated cycles of the whole contraction."""
        parts = list(blocks({d: self.sizes[d] for d in tile}, tile))
        total = sum(times * (self.steps * self._step(part) + _START) for part, times in parts)
        return (total + self._waiting(tile)) * (1 + _REMAINDER * (len(parts) - 1))

    def _step(self, tile: Mapping[int, int]) -> float:
        rows, vectors = prod(size for d, size in tile.items() if d in self.rows), self._vectors(tile)
        return step(rows * vectors, rows + vectors, self.target, far=vectors)

    def _vectors(self, tile: Mapping[int, int]) -> int:
        return prod(
            -(-size // self.lanes) if d == self._vector else size
            for d, size in tile.items()
            if d not in self.rows
        )

    def _waiting(self, tile: Mapping[int, int]) -> float:
        """Cycles by which the first tile of rows waits for its panel of columns, where all of them are more
        than the second-level cache holds; the tiles after it find the panel there."""
        others = [d for d in tile if d not in self.rows]
        element = self.target.vector_bytes / self.lanes
        if self.steps * prod(self.sizes[d] for d in others) * element <= self.target.core.l2_bytes:
            return 0.0
        panels = prod(-(-self.sizes[d] // tile[d]) for d in others)
        sent = self._vectors(tile) * self.target.vector_bytes / _MEMORY
        return panels * self.steps * max(0.0, sent - self._step(tile))


# Convolutions ---------------------------------------------------------------------------------------------------


def products_cycles(multiplications: float, weights: float, target: Target) -> float:
    """Cycles of f32 products, two vectors of multiply-adds each, and of as many weights on their way from memory."""
    return multiplications / (2 * target.lanes("f32")) + 4 * weights / _WEIGHTS


def transform_cycles(vectors: float) -> float:
    """Cycles of a transform that moves so many vectors to or from the products."""
    return _TRANSFORM * vectors
