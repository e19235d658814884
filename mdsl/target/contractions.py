"""What products of matrices, and convolutions, cost cut into tiles and blocks: which are the cheapest.

A contraction is cut into blocks, sets of accumulators that stay in registers over its whole reduction; a kernel's tile is
several of them. A block of P rows (of what only the first operand has: matrix rows, pixels) by Q vectors (of what only the
second has: columns, output channels) needs P*Q accumulators, min(P, Q) registers for the operand that is held, and one for
the other, which passes. With F multiply-adds and L loads a cycle a step of the reduction takes

    cycles(P, Q) = max(P*Q / F + overlap * (P + Q) / L, (P + Q) / L, sent, latency) + loop + exposed * sent

(P*Q + Q loads where the vectors are not columns but what both operands have: the channels of a depthwise convolution).

What does not stay in the first-level cache outer ones have `sent` at their own rates: a panel of columns that is larger than
half of it, unless the kernel does some steps of its sums at a time, for all rows of its tile (`block-sums`); and rows, which
come again for each panel. Fewer chains than `Target.fma_chains` wait for each other; `overlap` is the part of the loads'
time that the core does not hide behind multiply-adds, `exposed` that of the caches' time. Of all tilings the one with the
fewest cycles in all wins, each block's start and end counted (and a little more for each further kind of tile, which is
another kernel). A matrix-vector product has one row, and gets more columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import isqrt, prod

from mdsl.target.cost import (
    ENOUGH_TRIPS,
    PASSING,
    Choice,
    balanced,
    near_equal,
    next_fits,
    registers,
    shared_loop,
    step,
)
from mdsl.target.target import Target

_KERNEL = 512.0
"""Dispatches whose time a kernel takes at least, if it can."""

_TILES = 32
"""Tiles that are worth more than that: enough for every worker, whatever the others do."""

_FEW_TILES = 16
"""Tiles that are enough where columns come from afar: the more blocks a tile has, the more of them ask for the columns of the
next one (see `vectorize`). (On Zen 4 ResNet-50 takes 0.98 of the time, an encoder 0.99; 8 tiles are no better, on two threads worse.)"""

_EPILOGUE = 1.0
"""Cycles for an accumulator at a tile's end: it is made, finished and stored."""

_REMAINDER = 0.02
"""What a remainder adds to all cycles: another kernel is more code, and its loop more often too short to share
among workers."""

_ALONE = 0.1
"""What is added to all cycles where a second worker would have nothing to do: of nearly equal tiles those are chosen that two
share evenly. (On Zen 4 ResNet-50 at 28x28 has layers of 16 vectors, which 3 tiles or 4 serve as well on one thread.)"""

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
    units: tuple[int, ...]
    """For each of `rows`, what a tile has a multiple of unless it has less: the pixels of an image's row, where its rows and
    columns are counted as one dimension, since their elements lie without gaps; elsewhere 1."""
    left: int
    """Bytes of the first operand."""
    steps: int
    """Of the reduction."""
    lanes: int
    target: Target

    def tilings(self) -> Choice[tuple[int, ...]]:
        """All tilings that fit the registers: a size for each dimension of the output, in order."""
        if prod(self.sizes[d] for d in self.out) <= 1:
            return Choice.of([((1,) * len(self.out), 0.0)])
        found: dict[tuple[int, ...], float] = {}
        for block in self._blocks():
            little, many = self._little(block), self._many(block)
            few, many = self._grown(block, little, self._spare(block)), self._grown(block, many, many)
            in_parts = self._summing(block, self._rows(many)).best < self.steps
            tile = many if in_parts else few
            cycles, key = self._cycles(block, tile), tuple(tile.values())
            found[key] = min(cycles, found.get(key, cycles))
        return Choice.of(found.items())

    def summing(self) -> Choice[int]:
        """How many steps are summed at a time if this is one tile: all, or as many as keep their columns in a half of the
        first-level cache while all rows pass by, as Goto and van de Geijn's method has it."""
        rows = prod(self.sizes[d] for d in self.rows)
        if rows <= 1 or 0 in self.sizes:
            return Choice.of([(self.steps, 0.0)], "no two rows share columns")
        block = min(self._blocks(), key=lambda block: self._cycles(block, self._whole))
        return self._summing(block, rows)

    @cached_property
    def _whole(self) -> dict[int, int]:
        return {d: self.sizes[d] for d in self.out}

    def _blocks(self) -> list[dict[int, int]]:
        """What fits the registers."""
        found = [
            self._tile(vectors, rows) for vectors in range(1, 13) for rows in range(1, self.target.isa.free)
        ]
        return list({tuple(block.values()): block for block in found if block is not None}.values())

    def _little(self, block: Mapping[int, int]) -> int:
        """As many blocks of rows as are worth `_KERNEL` dispatches, while there are tiles for many workers; where their columns
        come from afar, and two tiles' stay near, as many as leave some tiles."""
        if not self._near(self._whole) and next_fits(self._column_bytes(block), self.target):
            return self._spare(block, _FEW_TILES)
        cycles = self._block_cycles(block, self._rows(block))
        return min(int(_KERNEL * self.target.core.dispatch_cycles / cycles), self._spare(block))

    def _many(self, block: Mapping[int, int]) -> int:
        """As many blocks of rows as keep their sums in a quarter of the first-level cache while they wait for the next steps."""
        sums = self._rows(block) * self._vectors(block) * self.target.vector_bytes
        return min(self.target.core.l1_bytes // 4 // sums, 2 * self._spare(block))

    def _spare(self, block: Mapping[int, int], tiles: int = _TILES) -> int:
        """Blocks that a tile may have while there are so many tiles."""
        return prod(-(-self.sizes[d] // size) for d, size in block.items()) // tiles

    def _near(self, tile: Mapping[int, int]) -> bool:
        """Whether the second-level cache holds the columns of a tile."""
        return self._column_bytes(tile) <= self.target.core.l2_bytes

    def _column_bytes(self, tile: Mapping[int, int]) -> float:
        element = self.target.vector_bytes / self.lanes
        return self.steps * element * prod(size for d, size in tile.items() if d not in self.rows)

    def _grown(self, block: Mapping[int, int], wanted: int, most: int) -> dict[int, int]:
        """The tile of a kernel: `wanted` blocks of rows, or up to `most` if tiles are all alike then."""
        tile = dict(block)
        for d in reversed(self.rows):
            tile[d] = _alike(self.sizes[d], block[d], wanted, most, self._unit(d))
            blocks = -(-self.sizes[d] // block[d])
            wanted, most = wanted // blocks, most // blocks
        return tile

    def _unit(self, d: int) -> int:
        return self.units[self.rows.index(d)] if d in self.rows else 1

    @cached_property
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

    def _cycles(self, block: Mapping[int, int], tile: Mapping[int, int]) -> float:
        """Estimated cycles of the whole contraction, cut into such blocks, several of which are a tile."""
        parts, rows = list(self._parts(block, tile)), self._rows(tile)
        total = sum(times * self._block_cycles(part, rows) for part, times in parts) + self._waiting(block)
        alone = _ALONE * self._alone(tile) if total > _JOIN else 0.0
        return total * (1 + _REMAINDER * (len(parts) - 1) + alone)

    def _alone(self, tile: Mapping[int, int]) -> float:
        """The part of the time in which one of two workers waits for the other's last tile: each kind of tile is a loop of its
        own, of whose counters one is shared."""
        alone = 0.0
        for kinds in product(*(self._tiles(d, tile[d]) for d in self.out)):
            trips = [n for _, n in kinds]
            shared = trips[shared_loop(trips)]
            share = prod(size * n for size, n in kinds) / prod(self.sizes[d] for d in self.out)
            if shared < ENOUGH_TRIPS:
                alone += share * (shared % 2) / shared
        return alone

    def _tiles(self, d: int, tile: int) -> list[tuple[int, int]]:
        """The tiles along a dimension: sizes, and how often each occurs."""
        extent = self.sizes[d]
        if d == self._vector:
            return [(size, n) for size, n in ((tile, extent // tile), (extent % tile, 1)) if size and n]
        unit = self._unit(d)
        row = unit if tile < unit else extent
        return [(size, n * (extent // row)) for size, n in near_equal(row, tile)]

    def _parts(
        self, block: Mapping[int, int], tile: Mapping[int, int]
    ) -> Iterator[tuple[dict[int, int], int]]:
        """Each kind of block, and how often it occurs: near-equal ones of near-equal tiles, and along vectors whole ones and
        what is left."""
        size, extent = block[self._vector], self.sizes[self._vector]
        others = [d for d in block if d != self._vector]
        for pieces in product(*(self._pieces(d, block[d], tile[d]) for d in others)):
            part, times = dict(zip(others, (n for n, _ in pieces), strict=True)), prod(n for _, n in pieces)
            for along, n in ((size, extent // size), (extent % size, 1)):
                if along and n:
                    yield {**part, self._vector: along}, times * n

    def _pieces(self, d: int, block: int, tile: int) -> list[tuple[int, int]]:
        """The blocks along a dimension of which a tile has so much: sizes, and how often each occurs."""
        found: Counter[int] = Counter()
        for part, times in self._tiles(d, tile):
            for size, n in near_equal(part, block):
                found[size] += times * n
        return [*found.items()]

    def _block_cycles(self, block: Mapping[int, int], rows: int) -> float:
        return min(self._sums(block, rows)[0].values())

    def _summing(self, block: Mapping[int, int], rows: int) -> Choice[int]:
        choices, because = self._sums(block, rows)
        return Choice.of(choices.items(), because)

    def _sums(self, block: Mapping[int, int], rows: int) -> tuple[dict[int, float], str]:
        """How many steps are summed at a time in a tile of so many rows, and the cycles of one of its blocks; and why they are
        all, where they must be."""
        height, vectors, core = self._rows(block), self._vectors(block), self.target.core
        accumulators, row, sent = height * vectors, vectors * self.target.vector_bytes, self._columns(block)
        each = core.fill_cycles + _EPILOGUE * accumulators
        choices = {self.steps: self.steps * self._step(block, sent) + each}
        some = max(1, min(self.steps, core.l1_bytes // 2 // row))
        if some == self.steps:
            return choices, "its columns stay in the first-level cache"
        if rows <= height:
            return choices, "registers hold the sums of all its rows"
        # Sums come and go as often, and the columns come once for all rows.
        once = self._step(block, sent * height / rows)
        choices[some] = self.steps * once + (-(-self.steps // some) + 1) * each
        return choices, ""

    def _columns(self, block: Mapping[int, int]) -> float:
        """Cycles that outer caches take for the columns of a step."""
        row = self._vectors(block) * self.target.vector_bytes
        return row / self.target.core.rate_of(self.steps * row)

    def _step(self, block: Mapping[int, int], sent: float) -> float:
        """Cycles of a step, for which outer caches send columns in so many."""
        rows, vectors, core = self._rows(block), self._vectors(block), self.target.core
        again = rows * core.line / core.l2_rate if self._conflicts(block) else 0.0
        # An element of the first operand serves all vectors of columns.
        loads = rows + vectors if self._vector in self.columns else rows * vectors + vectors
        return step(rows * vectors, loads, self.target, sent + self._left(rows) + again)

    def _left(self, rows: int) -> float:
        """Cycles that outer caches take for what a step reads of so many rows, which come again for each panel of columns. Of a
        window each element serves several steps."""
        share, rate = self._element
        return rows * share / rate

    @cached_property
    def _element(self) -> tuple[float, float]:
        """Bytes of the first operand that a step needs anew of a row, and the rate at which they come."""
        batch = prod(self.sizes[d] for d in self.out[:-1] if d not in (*self.rows, *self.columns))
        nbytes = self.left / max(1, batch)
        element = self.target.vector_bytes / self.lanes
        steps = self.steps * prod(self.sizes[d] for d in self.rows)
        return min(element, nbytes / max(1, steps)), self.target.core.rate_of(nbytes)

    def _conflicts(self, tile: Mapping[int, int]) -> bool:
        """True if rows lie so far apart that their cache lines meet in the same sets of the first-level cache, more than
        it keeps: each step then fetches lines that the steps before had already."""
        core = self.target.core
        if self._rows(tile) <= core.l1_ways - PASSING:
            return False
        places = [
            range(0, stride * tile[d], stride or 1) for d, stride in zip(self.rows, self.strides, strict=True)
        ]
        lines = {sum(place) // core.line for place in product(*places)}
        most = max(Counter(line % core.l1_sets for line in lines).values())
        return most > core.l1_ways - PASSING

    def _rows(self, tile: Mapping[int, int]) -> int:
        return prod([size for d, size in tile.items() if d in self.rows])

    def _vectors(self, tile: Mapping[int, int]) -> int:
        others = [
            -(-size // self.lanes) if d == self._vector else size
            for d, size in tile.items()
            if d not in self.rows
        ]
        return prod(others)

    def _waiting(self, tile: Mapping[int, int]) -> float:
        """Cycles by which the first tile of rows waits for its panel of columns, where all of them are more
        than the second-level cache holds; the tiles after it find the panel there."""
        if self._near(self._whole):
            return 0.0
        others = [d for d in tile if d not in self.rows]
        panels = prod(-(-self.sizes[d] // tile[d]) for d in others)
        sent = self._vectors(tile) * self.target.vector_bytes / self.target.core.memory_rate
        return panels * self.steps * max(0.0, sent - self._step(tile, self._columns(tile)))


def _alike(extent: int, block: int, wanted: int, most: int, unit: int) -> int:
    """The smallest tile of at least `wanted` blocks that divides `extent`, and `unit` or is so many whole ones, and does not cut
    it into more blocks. Where that is more than `most` blocks, and not less than twice `wanted`: a tile of so many as wanted."""
    limit = min(block * max(1, wanted), extent)
    blocks = extent // unit * -(-unit // block) if unit > 1 else -(-extent // block)
    tile = next(
        n
        for n in _divisors(extent)
        if n >= limit and 0 in (n % unit, unit % n) and -(-n // block) * (extent // n) <= blocks
    )
    if -(-tile // block) <= max(most, 2 * max(1, wanted) - 1):
        return tile
    return balanced(unit, limit) if limit < unit else unit * balanced(extent // unit, limit // unit)


@cache
def _divisors(number: int) -> list[int]:
    """All of them, the least first: a million rows are asked about for each of hundreds of blocks."""
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


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
        fits = panel + sums + self.rows * steps * self.element <= core.l2_kept
        rate = _CARRIED * core.l2_rate if fits else _LATE * core.l3_rate
        keeping = (parts - 1) * panels * 2 * sums / rate
        return packing + keeping + panels * parts * _JOIN
