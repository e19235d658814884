"""Cores: how much of what an instruction set offers a processor does in a cycle, and what its caches hold and send.

The numbers are those of the vendors' optimisation guides and of uops.info and Chips and Cheese where they measured;
rates of caches are what a kernel sees, not the width of the wires.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Core:
    """One core, alone. Rates are a cycle; `*_bytes` that follow `fma` and `load` are the widest vector of one instruction."""

    name: str
    fma_units: int = 2
    """Multiply-adds started in a cycle."""
    fma_bytes: int = 32
    """The widest that one unit does in one go; wider ones take several."""
    fma_latency: int = 4
    """Cycles from one multiply-add to the next into the same accumulator, which some cores take in late."""
    load_units: float = 2
    """Loads started in a cycle, as far as a loop of multiply-adds keeps them up."""
    load_bytes: int = 32
    width: int = 6
    """Instructions that enter the back end in a cycle."""
    overlap: float = 0.4
    """The part of the loads' time that multiply-adds do not hide (0.4 is what 3x3 convolutions by 14x1, 4x3 and 6x2 tiles
    tell on Zen 3, 70, 84 and 87 % of the peak, where caches' time is not counted; on an Intel Xeon of 2024 a step of 6x4 vectors takes
    12.3 cycles, of 16x1 10.8)."""
    exposed: float = 0.02
    """The part of the outer caches' time that multiply-adds never hide, and that comes on top: of two tiles that are otherwise
    equal, the one that asks them for less. (Fitted on Zen 3, as its loads and its caches' rates are: 3x3 convolutions of 128
    channels by 4x3, 3x4 and 6x2 tiles reach 76, 85 and 87 % of the peak. On Zen 2 1x1 convolutions by 4 vectors, 64 to 128 steps
    at a time, reach 90 to 91 %, by 2 vectors at once 75 to 80 %; 0.25 to 0.6 choose tiles that differ by 1 % of ResNet-50's time.)"""
    l1_bytes: int = 32 << 10
    l1_ways: int = 8
    l2_bytes: int = 512 << 10
    l3_bytes: int = 16 << 20
    l2_rate: float = 32.0
    """Bytes a cycle that the second-level cache sends."""
    l3_rate: float = 16.0
    memory_rate: float = 8.0
    """Bytes a cycle that memory sends to one core, as long as one stream is followed."""
    line: int = 64
    page: int = 4096
    prefetch_bytes: int = 8192
    """How far ahead of a stream to ask for it: what arrives in the 100 ns that memory takes to answer, and as much again
    for what else is on its way (measured on Zen 5: 2 KB cost 5 % of ResNet-50's time, from 16 KB on it pushes out what is
    in use)."""
    fill_cycles: float = 40.0
    """To fill and drain the pipeline where a loop of multiply-adds begins and ends, a dispatch among them or not."""

    ghz: float = 3.0
    """Billions of cycles a second under vector work on all cores: only to tell cycles as time, never to choose by."""
    dispatch_cycles: float = 8.0
    """What the interpreter takes to issue one micro-kernel (measured: 2.1 ns on Zen 5, 5.2 on Zen 3; Zen 2 is taken to be
as Zen 3)."""

    def seconds(self, cycles: float) -> float:
        """So many cycles as time, at `ghz`."""
        return cycles / self.ghz / 1e9

    def fma_rate(self, vector_bytes: int) -> float:
        """Multiply-adds of vectors of so many bytes, a cycle."""
        return self.fma_units * min(1.0, self.fma_bytes / vector_bytes)

    def load_rate(self, vector_bytes: int) -> float:
        """Loads of vectors of so many bytes, a cycle."""
        return self.load_units * min(1.0, self.load_bytes / vector_bytes)

    @property
    def l1_sets(self) -> int:
        """Sets of the first-level cache: lines that lie so many lines apart meet in one."""
        return self.l1_bytes // (self.line * self.l1_ways)

    @property
    def l2_kept(self) -> float:
        """Bytes of what is read again that the second-level cache keeps: an eighth has other uses."""
        return self.l2_bytes * 7 / 8

    def rate_of(self, nbytes: float) -> float:
        """Bytes a cycle at which so much arrives when it is read again and again: no less than loads take them from a half of
        the first-level cache; the other half has other uses."""
        if nbytes <= self.l1_bytes / 2:
            return inf
        return self.l2_rate if nbytes <= self.l2_kept else self.l3_rate


_KB, _MB = 1 << 10, 1 << 20

CORES = {
    core.name: core
    for core in (
        Core("generic-128", fma_bytes=16, load_bytes=16, l2_rate=16.0),
        # As Zen 2: the AVX2 that most have is AMD's, and Intel's caches do not mind what spares those of AMD.
        Core("generic-256", fma_latency=5, load_units=1.8, overlap=0.06, exposed=0.3, l2_rate=22.0, l3_rate=10.0),
        Core("generic-512", fma_bytes=64, load_bytes=64, l2_bytes=1 * _MB),
        Core("haswell", fma_latency=5, width=4, l2_bytes=256 * _KB, l3_bytes=8 * _MB, ghz=3.2),
        Core("skylake", width=4, l2_bytes=256 * _KB, l3_bytes=8 * _MB, ghz=3.6),
        Core("skylake-avx512", fma_bytes=64, load_bytes=64, width=4, l2_bytes=1 * _MB, l3_bytes=22 * _MB, ghz=2.4),
        Core("icelake", fma_bytes=64, load_bytes=64, width=5, l1_bytes=48 * _KB, l1_ways=12, l2_bytes=1280 * _KB, l3_bytes=24 * _MB, ghz=2.6),
        Core("sapphirerapids", fma_bytes=64, load_units=1.6, load_bytes=64, overlap=0.1, l1_bytes=48 * _KB, l1_ways=12, l2_bytes=2 * _MB,
             l3_bytes=60 * _MB, l3_rate=8.0, memory_rate=4.5, ghz=3.0),
        Core("alderlake", load_units=3, l1_bytes=48 * _KB, l1_ways=12, l2_bytes=1280 * _KB, l3_bytes=24 * _MB, ghz=4.5),
        Core("znver2", fma_latency=5, dispatch_cycles=18.0, load_units=1.8, overlap=0.06, exposed=0.4, l2_rate=22.0, l3_rate=10.0, ghz=3.3),
        Core("znver3", dispatch_cycles=18.0, load_units=1.6, overlap=0.06, exposed=0.3, l3_bytes=32 * _MB, l2_rate=22.0, l3_rate=10.0, ghz=3.4),
        Core("znver4", l2_bytes=1 * _MB, l3_bytes=32 * _MB, ghz=3.6),
        Core("znver5", fma_bytes=64, load_bytes=64, width=8, overlap=0.05, l1_bytes=48 * _KB, l1_ways=12, l2_bytes=1 * _MB, l3_bytes=32 * _MB, ghz=4.2),
        Core("neoverse-n1", fma_bytes=16, fma_latency=2, load_bytes=16, width=4, l1_bytes=64 * _KB, l1_ways=4, l2_bytes=1 * _MB, ghz=2.6),
        Core("neoverse-n2", fma_bytes=16, fma_latency=2, load_bytes=16, load_units=3, width=5, l1_bytes=64 * _KB, l1_ways=4, l2_bytes=1 * _MB, ghz=2.8),
        Core("neoverse-v1", 4, 16, 2, load_bytes=16, load_units=3, width=8, l1_bytes=64 * _KB, l1_ways=4, l2_bytes=1 * _MB, ghz=2.6),
        Core("neoverse-v2", 4, 16, 2, load_bytes=16, load_units=3, width=8, l1_bytes=64 * _KB, l1_ways=4, l2_bytes=1 * _MB, ghz=2.8),
        Core("apple-m1", 4, 16, load_bytes=16, load_units=3, width=8, l1_bytes=128 * _KB, l2_bytes=12 * _MB, line=128,
             page=16384, ghz=3.2),
        Core("cortex-a72", 2, 8, 4, 1, 16, width=3, l1_ways=2, l2_bytes=1 * _MB, l3_bytes=0, l2_rate=16.0, memory_rate=4.0, ghz=1.8),
        Core("cortex-a55", 1, 16, 4, 1, 8, width=2, l1_ways=4, l2_bytes=128 * _KB, l3_bytes=1 * _MB, l2_rate=8.0, memory_rate=4.0, ghz=1.8),
    )
}  # fmt: skip
"""By LLVM's names of them; the generic ones stand for a core of which only the width of its vectors is known."""
