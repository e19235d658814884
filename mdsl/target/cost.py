"""What work costs on a machine: registers that a block needs, cycles, bytes on their way. The formulas take numbers; those
of contractions are in `contractions.py`.

A decision is a `Choice`: all candidates with their cycles, the best first, so that what was rejected can be shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd, log2, prod
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

ROWS_WORTH_PACKING = 16
"""Rows that a pack of the weights at run time must serve: it costs about as much as two."""

ENOUGH_TRIPS = 8
"""Trips of a loop that workers share evenly enough; fewer leave one of them without work for too long."""

PASSING = 2
"""Ways of a cache that what passes by takes: the second operand's vectors, and what is stored."""

_READ_AGAIN = 16
"""Vectors of columns from which on a transposition pays: it moves an element once, and three or four of them together read it
again. (Fitted on Zen 2.)"""

_WEIGHTS = 16.0
"""Bytes a cycle of a weight from memory, as far as multiplications do not hide its way, which are not subtracted here
(measured: 10 to 27)."""

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
    because: str = ""
    """Why there is no other than the first, if it is the only one."""

    @staticmethod
    def of(cycles: Iterable[tuple[T, float]], because: str = "") -> Choice[T]:
        """Of equal ones the first wins."""
        return Choice(tuple(sorted((Candidate(*pair) for pair in cycles), key=lambda c: c.cycles)), because)

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
    return max(computing, loading, sent, target.core.fma_latency) + loop + target.core.exposed * sent


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
    """As `balanced`, in so many whole units, and rather tiles that are alike."""
    return min(size, unit * balanced(-(-size // unit), limit // unit, whole=True))


def shared_loop(trips: Sequence[int]) -> int:
    """The loop of a nest, each with so many trips, that workers share: the outermost with enough of them, else the longest."""
    return next((i for i, n in enumerate(trips) if n >= ENOUGH_TRIPS), trips.index(max(trips)))


def lines_kept(apart: int, target: Target) -> int:
    """How many lines, so many bytes apart, the first-level cache keeps while others pass by."""
    core = target.core
    sets = core.l1_sets
    taken = sets // gcd(sets, apart // core.line) if apart % core.line == 0 else sets
    return taken * max(1, core.l1_ways - PASSING)


def next_fits(nbytes: float, target: Target) -> bool:
    """Whether the second-level cache keeps what the next tile reads, so many bytes, beside what this one does: then the blocks
    of a tile share the asking for it."""
    return 2 * nbytes <= target.core.l2_kept


def most_prefetches(target: Target) -> int:
    """How often a line may be prefetched that is needed from memory once: loads are kept waiting for as long as memory takes
    to send it. (On an Intel Xeon of 2024 ResNet-50 took 0.90 of the time when each of a tile's 2 to 14 blocks asked for all
    weights that it reads; 1.02 with vectors of 8 floats and 17 blocks.)"""
    core = target.core
    return max(1, int(core.line / core.memory_rate * target.load_rate))


def worth_transposing(lines: int, apart: int, vectors: float, target: Target) -> bool:
    """Whether an operand of products whose steps lie on so many lines, so many bytes apart, is worth a transposition: the first-level
    cache does not keep its lines, and so many vectors of columns read each element again, a few at a time."""
    return vectors >= _READ_AGAIN and lines > lines_kept(apart, target)


def lanes_loaded(elements: int, most: int) -> int:
    """Lanes of the vector in which so many elements are best loaded, `most` at most. Of an odd number one is loaded and put into its
    place alone: the smallest vector that is one access has them all. (3x3 convolutions to 5 and 7 channels take 0.63 of the time with 8
    lanes, those to 6, 10 and 12 no less than with as many, on an Intel Xeon of 2024.)"""
    return min(most, 1 << (elements - 1).bit_length() if elements % 2 else elements)


# Transpositions -------------------------------------------------------------------------------------------------


def run_length(element: str, most: int, target: Target) -> int:
    """Elements of each row that a transposition in registers takes at a time, `most` at most; 1 where there is none, as of masks, whose
    lanes are bits."""
    return 1 if element == "i1" else min(target.isa.shuffle_bytes // ELEMENT_BYTES[element], most)


def transposed(length: int, lanes: float) -> float:
    """Vector operations for an element that is read so: a load for each run, and a round of shuffles for each bit of
    its length."""
    return 1 / length + log2(length) / lanes


# Convolutions ---------------------------------------------------------------------------------------------------


def products_cycles(multiplications: float, weights: float, target: Target) -> float:
    """Cycles of f32 products and of as many weights on their way from memory, which sends no faster than it can, however
    little is computed meanwhile."""
    computing = multiplications / (target.lanes("f32") * target.fma_rate)
    return max(computing + 4 * weights / _WEIGHTS, 4 * weights / target.core.memory_rate)


def passing_cycles(elements: float, target: Target) -> float:
    """Cycles that so many f32 numbers take on their way out and in again where one kernel makes them and the next reads them. A line
    that the caches do not keep comes from memory before it is written."""
    nbytes, core = 4 * elements, target.core
    if 2 * nbytes <= core.l3_bytes:
        return 2 * nbytes / core.rate_of(nbytes)
    return 3 * nbytes / core.memory_rate


def transform_cycles(vectors: float) -> float:
    """Cycles of a transform that moves so many vectors to or from the products."""
    return _TRANSFORM * vectors
