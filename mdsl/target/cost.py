"""What work costs on a machine: registers that a block needs, cycles, bytes on their way. The formulas take numbers.

A contraction is cut into blocks, sets of accumulators that stay in registers over its whole reduction; a kernel's tile is
several of them. A block of P rows (of what only the first operand has: matrix rows, pixels) by Q vectors (of what only the
second has: columns, output channels) needs P*Q accumulators, min(P, Q) registers for the operand that is held, and one for
the other, which passes. With F multiply-adds and L loads a cycle a step of the reduction takes

    cycles(P, Q) = max(P*Q / F + overlap * (P + Q) / L, (P + Q) / L, sent, latency) + loop

(P*Q + Q loads where the vectors are not columns but what both operands have: the channels of a depthwise convolution).

A panel of columns is larger than the first-level cache, and the second has `sent` it at its own rate; fewer chains than
`Target.fma_chains` wait for each other; `overlap` is the part of the loads' time that the core does not hide behind
multiply-adds. Of all tilings the one with the fewest cycles in all wins, each tile's start and end counted (and a little
more for each further kind of tile, which is another kernel). A matrix-vector product has one row, and gets more columns.

A decision is a `Choice`: all candidates with their cycles, the best first, so that what was rejected can be shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import log2, prod
from typing import Generic, TypeVar

from mdsl.target.target import ELEMENT_BYTES, Target

Key = TypeVar("Key")
T = TypeVar("T")

ELEMENTS = 8192
"""Elements of a tile of what is bound by memory: a dispatch costs nothing beside its work, and there are still tiles for
every worker."""

RUN = 256
"""Neighbouring elements of a transposed input that such a tile reads at least, if it can."""

SMALL = 4
"""Vectors that a block of a nest without reductions holds."""

ABREAST = 4
"""Vectors of which an elementary function is computed together: as many as its chain of dependent operations leaves room for."""

ROWS, MOST_ROWS = 16, 32
"""Rows of a contraction that share a load of its second operand: enough for two multiply-adds a cycle; and at most."""

STRIDED = 2.0
"""Cost of one lane of a strided vector (a load and an insertion), in vector operations."""

LINE = 64
"""Bytes that a prefetch brings, at least."""

WORTH_PREFETCHING = 8192
"""Bytes from which an operand is worth a prefetch: less arrives with the first lines."""

_KERNEL = 4096.0
"""Cycles that a kernel takes at least, if it can: a dispatch is then a hundredth of it."""

_TILES = 32
"""Tiles that are worth more than that: enough for every worker, whatever the others do."""

_EPILOGUE = 1.0
"""Cycles for an accumulator at a tile's end: it is made, finished and stored."""

_WEIGHTS = 16.0
"""Bytes a cycle of a weight from memory, as far as multiplications do not hide its way, which are not subtracted here
(measured: 10 to 27)."""

_FAR = 0.02
"""The part of the outer caches' time that is never hidden: of two tiles that are otherwise equal, the one that asks them for
less."""

_PASSING = 2
"""Ways of a cache that what passes by takes: the second operand's vectors, and what is stored."""

_REMAINDER = 0.02
"""What a remainder adds to all cycles: another kernel is more code, and its loop more often too short to share
among workers."""

_RUN = 60.0
"""Cycles until the first line of a row arrives that is packed (measured on Emerald Rapids: 40 to 100)."""

_LATE = 0.25
"""The part of an outer cache's rate at which sums come and go between blocks of steps, for a kernel waits for its own
(measured on Emerald Rapids: 2 to 4 bytes a cycle of 16)."""

_CARRIED = 0.5
"""The part of the second-level cache's rate at which sums come and go that stay in it: they are read and written in turn.
(Measured on Emerald Rapids: of K = 4096, blocks of 683 to 2048 steps beat those of 342 by 6 %.)"""

_JOIN = 16384.0
"""Cycles for which a block's loops keep workers from their work, where they begin and where they end. (Fitted on Emerald
Rapids, two threads: 96x3072x768 is best in 8 blocks, 2048 cubed in one.)"""

_PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Into how many panels or blocks products are cut, at most."""

_TRANSFORM = 4.0
"""Cycles for each vector that a transform of Winograd's method moves, its arithmetic included (measured: 3 to 5)."""


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """One possibility and what it is estimated to cost, in cycles."""

    what: T
    cycles: float


@dataclass(frozen=True)
class Choice(Generic[T]):
    """Candidates, the cheapest first."""

    candidates: tuple[Candidate[T], ...]

    @staticmethod
    def of(cycles: Iterable[tuple[T, float]]) -> Choice[T]:
        """Of equal ones the first wins."""
        return Choice(tuple(sorted((Candidate(*pair) for pair in cycles), key=lambda c: c.cycles)))

    @property
    def best(self) -> T:
        """What is chosen."""
        return self.candidates[0].what


def roofline_cycles(flops: int, nbytes: int, target: Target) -> float:
    """Cycles that so many f32 operations and so many bytes take at least, whichever take longer: bytes arrive at the rate of
    the cache that holds them all, or of memory. Williams, Waterman, Patterson: Roofline (2009)."""
    core = target.core
    rate = core.rate_of(nbytes) if nbytes <= core.l3_bytes else core.memory_rate
    return max(flops / (2 * target.lanes("f32") * target.fma_rate), nbytes / rate)


# Registers ------------------------------------------------------------------------------------------------------


def registers(accumulators: int, shared: int, passing: int = 1) -> int:
    """Vectors live at once: the accumulators, the vectors of operands that several of them use, and one for each
    operand that passes through."""
    return accumulators + shared + passing


def chains_of(accumulators: int, target: Target) -> int:
    """Accumulators for each of so many values that together hide the latency of an FMA."""
    return max(1, -(-target.fma_chains // accumulators))


def step(operations: float, loads: float, target: Target, sent: float = 0) -> float:
    """Cycles of one step of a reduction that does so many vector operations and loads, for which caches beyond the first
    have `sent` for so many cycles; too few chains wait for their latency; a round of the loop costs one."""
    loading = loads / target.load_rate
    computing = operations / target.fma_rate + target.core.overlap * loading
    loop = 1 / steps_a_line(target)
    return max(computing, loading, sent, target.core.fma_latency) + loop + _FAR * sent


def steps_a_line(target: Target) -> int:
    """Steps of a reduction that read a cache line of each operand that is read vector by vector; one where products take
    registers of their own, for more steps together would not leave enough."""
    return max(1, LINE // target.vector_bytes) if target.isa.fma else 1


def worth_widening(rows: int, target: Target) -> bool:
    """Whether a product of 16-bit floats is worth f32 operands: so many rows are multiplied by each element of the second
    that its 4 bytes arrive in that time."""
    return rows / (target.lanes("f32") * target.fma_rate) >= 4 / _WEIGHTS


def blocks(extents: Mapping[Key, int], block: Mapping[Key, int]) -> Iterator[tuple[dict[Key, int], int]]:
    """Each kind of near-equal block with the number of times that it occurs."""
    pieces = [[(d, size, n) for size, n in near_equal(extent, block[d])] for d, extent in extents.items()]
    for part in product(*pieces):
        yield {d: size for d, size, _ in part}, prod(n for _, _, n in part)


def near_equal(extent: int, size: int) -> list[tuple[int, int]]:
    """The fewest pieces of at most `size` that make up `extent`, as equal as can be: sizes and how often each occurs, the
    larger first. (56 by 6 are six of 6 and four of 5: a remainder of 2 would keep few units busy.)"""
    pieces = -(-extent // size)
    small, more = divmod(extent, pieces)
    return [(n, times) for n, times in ((small + 1, more), (small, pieces - more)) if times]


def balanced(size: int, limit: int, *, whole: bool = False) -> int:
    """The tile of at most `limit` that leaves the least remainder with the fewest tiles; if `whole`, rather one that
    divides `size`, which is at least 1, where it is not much smaller."""
    limit = max(min(limit, size), 1)
    if whole:
        divisor = max(n for n in range(1, limit + 1) if size % n == 0)
        if 2 * divisor >= limit:
            return divisor
    return -(-size // -(-size // limit))


def in_units(size: int, limit: int, unit: int) -> int:
    """As `balanced`, in so many whole units."""
    return min(size, unit * balanced(-(-size // unit), limit // unit))


# Transpositions -------------------------------------------------------------------------------------------------


def run_length(element: str, most: int, target: Target) -> int:
    """Elements of each row that a transposition in registers takes at a time, `most` at most; 1 where there is none, as of masks, whose
    lanes are bits."""
    return 1 if element == "i1" else min(target.isa.shuffle_bytes // ELEMENT_BYTES[element], most)


def transposed(length: int, lanes: float) -> float:
    """Vector operations for an element that is read so: a load for each run, and a round of shuffles for each bit of
    its length."""
    return 1 / length + log2(length) / lanes


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
    strides: tuple[int, ...]
    """Bytes from one row to the next in the first operand, for each of `rows`."""
    steps: int
    """Of the reduction."""
    lanes: int
    target: Target

    def tilings(self) -> Choice[tuple[int, ...]]:
        """All tilings that fit the registers: a size for each dimension of the output, in order."""
        if prod(self.sizes[d] for d in self.out) <= 1:
            return Choice.of([((1,) * len(self.out), 0.0)])
        candidates = [
            self._tile(vectors, rows) for vectors in range(1, 13) for rows in range(1, self.target.isa.free)
        ]
        different = {tuple(block.values()): block for block in candidates if block is not None}
        blocks = Choice.of((block, self._cycles(block)) for block in different.values())
        found: dict[tuple[int, ...], float] = {}
        for block in blocks.candidates:
            found.setdefault(tuple(self._grown(block.what).values()), block.cycles)
        return Choice.of(found.items())

    def _grown(self, block: Mapping[int, int]) -> dict[int, int]:
        """The tile of a kernel: as many blocks of rows as take `_KERNEL` cycles, while there are tiles for many workers."""
        total = prod(-(-self.sizes[d] // size) for d, size in block.items())
        wanted = min(int(_KERNEL / self._block_cycles(block)), total // _TILES)
        tile = dict(block)
        for d in reversed(self.rows):
            blocks = -(-self.sizes[d] // block[d])
            if wanted < 2:
                break
            tile[d] = balanced(self.sizes[d], block[d] * min(wanted, blocks))
            wanted = wanted // blocks
        return tile

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
        if rows > 1 and registers(rows * vectors, min(rows, vectors)) > self.target.isa.free:
            return None
        for d in reversed(self.rows):
            tile[d] = balanced(self.sizes[d], rows)
            rows = rows // tile[d] if tile[d] == self.sizes[d] else 1
        return tile

    def _cycles(self, tile: Mapping[int, int]) -> float:
        """Estimated cycles of the whole contraction, cut into such blocks."""
        parts = list(self._parts(tile))
        total = sum(times * self._block_cycles(part) for part, times in parts)
        return (total + self._waiting(tile)) * (1 + _REMAINDER * (len(parts) - 1))

    def _parts(self, tile: Mapping[int, int]) -> Iterator[tuple[dict[int, int], int]]:
        """Each kind of tile, and how often it occurs: near-equal ones, and along vectors whole ones and what is left."""
        size, extent = tile[self._vector], self.sizes[self._vector]
        others = {d: self.sizes[d] for d in tile if d != self._vector}
        for part, times in blocks(others, tile):
            for along, n in ((size, extent // size), (extent % size, 1)):
                if along and n:
                    yield {**part, self._vector: along}, times * n

    def _block_cycles(self, block: Mapping[int, int]) -> float:
        accumulators = self._rows(block) * self._vectors(block)
        return self.steps * self._step(block) + self.target.core.fill_cycles + _EPILOGUE * accumulators

    def _step(self, tile: Mapping[int, int]) -> float:
        rows, vectors = self._rows(tile), self._vectors(tile)
        core, row = self.target.core, vectors * self.target.vector_bytes
        sent = row / core.rate_of(self.steps * row)
        again = rows * core.line / core.l2_rate if self._conflicts(tile) else 0.0
        # An element of the first operand serves all vectors of columns.
        loads = rows + vectors if self._vector in self.columns else rows * vectors + vectors
        return step(rows * vectors, loads, self.target, sent + again)

    def _conflicts(self, tile: Mapping[int, int]) -> bool:
        """True if rows lie so far apart that their cache lines meet in the same sets of the first-level cache, more than
        it keeps: each step then fetches lines that the steps before had already."""
        core = self.target.core
        sets = core.l1_bytes // (core.line * core.l1_ways)
        places = [
            range(0, stride * tile[d], stride or 1) for d, stride in zip(self.rows, self.strides, strict=True)
        ]
        lines = {sum(place) // core.line for place in product(*places)}
        most = max(Counter(line % sets for line in lines).values())
        return most > core.l1_ways - _PASSING

    def _rows(self, tile: Mapping[int, int]) -> int:
        return prod(size for d, size in tile.items() if d in self.rows)

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
        sent = self._vectors(tile) * self.target.vector_bytes / self.target.core.memory_rate
        return panels * self.steps * max(0.0, sent - self._step(tile))


@dataclass(frozen=True)
class Products:
    """Products of matrices whose second operand is packed while the program runs."""

    rows: int
    steps: int
    """Of the reduction."""
    blocks: int
    """Of columns, one vector wide."""
    lanes: int
    element: int
    """Bytes of one."""
    target: Target

    def blockings(self) -> Choice[tuple[int, int]]:
        """How many steps are summed, and how many blocks of columns packed, at a time."""
        sizes = {(-(-self.steps // k), -(-self.blocks // n)): None for k in _PIECES for n in _PIECES}
        return Choice.of((size, self._cycles(*size)) for size in sizes)

    def _cycles(self, steps: int, blocks: int) -> float:
        """Cycles of the packing, and of keeping sums from one block of steps to the next. A panel has half of the
        second-level cache; what of it is more goes out, and comes back for the products."""
        core, row = self.target.core, blocks * self.lanes * self.element
        panels, parts = -(-self.blocks // blocks), -(-self.steps // steps)
        panel, packed = steps * row, self.steps * self.blocks * self.lanes * self.element
        spilled = packed * max(0.0, 1 - core.l2_bytes / 2 / panel)
        packing = (packed + 2 * spilled) / core.l3_rate + _RUN * panels * self.steps
        sums = self.rows * row
        fits = panel + sums + self.rows * steps * self.element <= core.l2_bytes * 7 / 8
        rate = _CARRIED * core.l2_rate if fits else _LATE * core.l3_rate
        keeping = (parts - 1) * panels * 2 * sums / rate
        return packing + keeping + panels * parts * _JOIN


# Convolutions ---------------------------------------------------------------------------------------------------


def products_cycles(multiplications: float, weights: float, target: Target) -> float:
    """Cycles of f32 products and of as many weights on their way from memory, which sends no faster than it can, however
    little is computed meanwhile."""
    computing = multiplications / (target.lanes("f32") * target.fma_rate)
    return max(computing + 4 * weights / _WEIGHTS, 4 * weights / target.core.memory_rate)


def transform_cycles(vectors: float) -> float:
    """Cycles of a transform that moves so many vectors to or from the products."""
    return _TRANSFORM * vectors
