"""The machine that code is generated for: its vectors, registers and caches."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cache

from mdsl.target import processor

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
    features: str
    vector_bytes: int
    vector_registers: int
    fma_chains: int = 8
    """Independent FMA chains that keep the FMA units busy: 2 a cycle times 4 cycles of latency."""
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
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
    features, x86 = processor.features(), processor.architecture() == "x86_64"
    vector_bytes = 16
    if x86 and features >= {"avx2", "fma"}:
        vector_bytes = 64 if features >= {"avx512f", "avx512vl"} else 32
    return Target(
        name="host",
        triple=processor.triple(),
        cpu=ITSELF,
        # Some Intel parts ask LLVM to prefer 256 bits; the kernels' vectors are as wide as the registers.
        features="-prefer-256-bit" if vector_bytes == 64 else "",
        vector_bytes=vector_bytes,
        vector_registers=32 if vector_bytes == 64 or not x86 else 16,
        l1_bytes=processor.cache_bytes(1, 32 << 10),
        l2_bytes=processor.cache_bytes(2, 512 << 10),
        needs=features,
    )


_LINUX_X86, _LINUX_ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

TARGETS = {
    target.name: target
    for target in (
        Target("avx512", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 64, 32, needs=processor.V4),
        Target("avx2", _LINUX_X86, "x86-64-v3", "", 32, 16, needs=processor.V3),
        Target("x86-64", _LINUX_X86, "x86-64", "", 16, 16),
        Target("x86-64-v2", _LINUX_X86, "x86-64-v2", "", 16, 16, needs=processor.V2),
        Target("x86-64-v3", _LINUX_X86, "x86-64-v3", "", 32, 16, needs=processor.V3),
        Target("x86-64-v4", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 64, 32, needs=processor.V4),
        Target("neon", _LINUX_ARM, "generic", "+neon", 16, 32),
        Target("neoverse-v1", _LINUX_ARM, "neoverse-v1", "", 16, 32, 16, needs=frozenset(["sve", "rand"])),
        Target("apple-m1", "arm64-apple-macosx11.0.0", "apple-m1", "", 16, 32, fma_chains=16),
    )
}
