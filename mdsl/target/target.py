"""The machine that code is generated for: an instruction set, a core, and what LLVM calls them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil

from mdsl.target import isa, processor
from mdsl.target.core import CORES, Core
from mdsl.target.isa import Isa

ELEMENT_BYTES = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2,
    "index": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "i1": 1,
}  # fmt: skip
"""Bytes of an element in memory."""

MAX_FRAME_BYTES = 256 << 10
"""Local memory of a kernel, at most: it lies on the stack of the thread that runs it."""


HOST = "MDSL_HOST"
"""The environment variable that names a target for which the host is taken."""


ITSELF = "itself"
"""The `cpu` of the processor that this process runs on: what it is exactly, the code generator knows."""


class TargetError(ValueError):
    """An unknown target name, or a target that this machine cannot run."""


@dataclass(frozen=True)
class Target:
    """A machine: what LLVM must know to generate code, and what the passes must know to shape it."""

    name: str
    triple: str
    cpu: str
    """What may be executed, by LLVM's name of a processor or a level."""
    features: str
    isa: Isa
    core: Core
    tune: str = ""
    """The core whose pipeline LLVM orders instructions for; without it, that of `cpu`."""
    needs: frozenset[str] = field(default=frozenset(), repr=False)
    """The features, as LLVM calls them, that a processor must have to execute the code. (A repr is part of keys, and
    a set has no order.)"""

    @staticmethod
    def host() -> Target:
        """The machine that this process runs on, or the one that MDSL_HOST takes it for.

        Raises TargetError if that variable names no target.
        """
        return _taken_for(os.environ.get(HOST, "host"), _processor())

    @staticmethod
    def parse(name: str) -> Target:
        """The target called `name` ("host", "avx512", "avx2", "neon", ...).

        Raises TargetError naming the known targets.
        """
        if name == "host":
            return Target.host()
        known = TARGETS.get(name)
        if known is None:
            raise TargetError(f"unknown target '{name}'; known targets: {', '.join(['host', *TARGETS])}")
        return known

    @property
    def architecture(self) -> str:
        """The instruction set family: "x86_64", "aarch64", ..."""
        family = self.triple.split("-")[0]
        return "aarch64" if family == "arm64" else family

    @property
    def runs_here(self) -> bool:
        """Whether the host can execute code generated for this target. What it is taken for and what it is must both
        be able to."""
        return all(
            (self.architecture, self._system) == (host.architecture, host._system)
            and self.needs <= host.needs
            for host in (Target.host(), _processor())
        )

    @property
    def _system(self) -> str:
        """What decides the format of object files and how functions are called."""
        return next((name for name in ("apple", "windows") if name in self.triple), "elf")

    @property
    def vector_bytes(self) -> int:
        """Of one register."""
        return self.isa.vector_bytes

    @property
    def fma_rate(self) -> float:
        """Multiply-adds of whole vectors, a cycle."""
        return self.core.fma_rate(self.vector_bytes)

    @property
    def load_rate(self) -> float:
        """Loads of whole vectors, a cycle."""
        return self.core.load_rate(self.vector_bytes)

    @property
    def fma_chains(self) -> int:
        """Independent chains of multiply-adds that keep all units busy."""
        return ceil(self.fma_rate * self.core.fma_latency)

    def lanes(self, element: str) -> int:
        """How many elements (named as in the IR: "f32", "bf16", "index") one vector register holds."""
        return self.vector_bytes // ELEMENT_BYTES[element]


@cache
def _taken_for(name: str, real: Target) -> Target:
    """The machine `real`, taken for the target called `name`: all but its system is the target's."""
    if name in ("", "host"):
        return real
    try:
        target = Target.parse(name)
    except TargetError as error:
        raise TargetError(f"{HOST}: {error}") from None
    return replace(target, triple=real.triple) if target.architecture == real.architecture else target


@cache
def _processor() -> Target:
    """The machine that this process really runs on."""
    features = processor.features()
    known = _isa_of(features)
    core = CORES.get(processor.core_name(), CORES[f"generic-{8 * known.vector_bytes}"])
    sizes = {f"l{n}_bytes": processor.cache_bytes(n, getattr(core, f"l{n}_bytes")) for n in (1, 2, 3)}
    return Target(
        name="host",
        triple=processor.triple(),
        cpu=ITSELF,
        features=_FEATURES.get(known.name, ""),
        isa=known,
        core=replace(core, **sizes),
        needs=features,
    )


def _isa_of(features: frozenset[str]) -> Isa:
    if processor.architecture() != "x86_64":
        return isa.NEON
    if features >= {"avx2", "fma"}:
        return isa.AVX512 if features >= {"avx512f", "avx512vl"} else isa.AVX2
    return isa.SSE4 if features >= isa.V2 else isa.SSE2


_FEATURES = {"avx512": "-prefer-256-bit"}
"""Some Intel parts ask LLVM to prefer 256 bits; the kernels' vectors are as wide as the registers."""


def _x86(name: str, level: str, core: str = "") -> Target:
    known = _LEVELS[level]
    needs = _NEEDS[level]
    core = core or f"generic-{8 * known.vector_bytes}"
    tune = "" if core.startswith("generic") else core
    return Target(
        name,
        "x86_64-unknown-linux-gnu",
        level,
        _FEATURES.get(known.name, ""),
        known,
        CORES[core],
        tune,
        needs,
    )


def _arm(name: str, core: str = "generic-128", triple: str = "aarch64-unknown-linux-gnu") -> Target:
    return Target(
        name,
        triple,
        "generic",
        "+neon",
        isa.NEON,
        CORES[core],
        "neoverse-n2" if core.startswith("generic") else core,
    )


_LEVELS = {"x86-64": isa.SSE2, "x86-64-v2": isa.SSE4, "x86-64-v3": isa.AVX2, "x86-64-v4": isa.AVX512}
_NEEDS = {"x86-64": frozenset[str](), "x86-64-v2": isa.V2, "x86-64-v3": isa.V3, "x86-64-v4": isa.V4}

TARGETS = {
    target.name: target
    for target in (
        _x86("avx512", "x86-64-v4"),
        _x86("avx2", "x86-64-v3"),
        *(_x86(level, level) for level in _LEVELS),
        *(_x86(core, "x86-64-v3", core) for core in ("haswell", "skylake", "alderlake", "znver2", "znver3")),
        *(_x86(core, "x86-64-v4", core) for core in ("znver4", "znver5")),
        _arm("neon"),
        *(_arm(core, core) for core in ("neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2")),
        *(_arm(core, core) for core in ("cortex-a72", "cortex-a55")),
        _arm("apple-m1", "apple-m1", "arm64-apple-macosx11.0.0"),
    )
}
