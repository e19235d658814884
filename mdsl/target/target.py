"""The machine that code is generated for: its vectors, registers, caches and LLVM target machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

ELEMENT_BYTES = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2,
    "index": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "i1": 1,
}  # fmt: skip
"""Bytes of an element in memory."""

MAX_FRAME_BYTES = 256 << 10
"""Local memory of a kernel, at most: it lies on the stack of the thread that runs it."""


HOST = "MDSL_HOST"
"""The environment variable that names a target for which the host is taken."""


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

    def fingerprint(self) -> str:
        """Everything that machine code depends on beside its LLVM IR, as text for a cache key. What the passes
        choose by is in the target's repr."""
        version = ".".join(map(str, llvm.llvm_version_info))
        return f"{self.triple} {self.cpu} {self.features} llvm-{version}"

    def machine(self) -> llvm.TargetMachine:
        """A new LLVM target machine. Position independent and small, so that constants are addressed
        relative to the code; the linker (JITLink) makes stubs for functions that are far away."""
        _initialize(self.architecture == _processor().architecture)
        target = llvm.Target.from_triple(self.triple)
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="small"
        )


@cache
def _initialize(native: bool) -> None:
    """Register LLVM's back ends: the host's own, or all of them for a cross target."""
    if native:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


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
    triple = llvm.get_process_triple()
    features = llvm.get_host_cpu_features()
    x86 = triple.startswith("x86_64")
    if x86 and features.get("avx512f") and features.get("avx512vl"):
        vector_bytes, vector_registers = 64, 32
    elif x86 and features.get("avx2") and features.get("fma"):
        vector_bytes, vector_registers = 32, 16
    else:
        vector_bytes, vector_registers = 16, 16 if x86 else 32
    flags = features.flatten()
    # Some Intel parts ask LLVM to prefer 256 bits; the kernels' vectors are as wide as the registers.
    if vector_bytes == 64:
        flags += ",-prefer-256-bit"
    return Target(
        name="host",
        triple=triple,
        cpu=llvm.get_host_cpu_name(),
        features=flags,
        vector_bytes=vector_bytes,
        vector_registers=vector_registers,
        l1_bytes=cache_bytes(1, 32 << 10),
        l2_bytes=cache_bytes(2, 512 << 10),
        needs=frozenset(name for name, present in features.items() if present),
    )


def host_name() -> str:
    """What to call this machine in messages."""
    taken = os.environ.get(HOST, "").removeprefix("host")
    return _processor().cpu + (f", taken for {taken} by {HOST}" if taken else "")


def cache_bytes(level: int, default: int) -> int:
    """The size of the first core's data cache of that level, from Linux's /sys; `default` elsewhere."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            if int((folder / "level").read_text()) != level or kind == "Instruction":
                continue
            size = re.fullmatch(r"(\d+)([KM]?)", (folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if size:
            return int(size[1]) << {"": 0, "K": 10, "M": 20}[size[2]]
    return default


_LINUX_X86, _LINUX_ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

# What the levels of x86-64 consist of, beyond what every such processor has.
_V2 = frozenset(["cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"])
_V3 = _V2 | frozenset(["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"])
_V4 = _V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])

TARGETS = {
    target.name: target
    for target in (
        Target("avx512", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 64, 32, needs=_V4),
        Target("avx2", _LINUX_X86, "x86-64-v3", "", 32, 16, needs=_V3),
        Target("x86-64", _LINUX_X86, "x86-64", "", 16, 16),
        Target("x86-64-v2", _LINUX_X86, "x86-64-v2", "", 16, 16, needs=_V2),
        Target("x86-64-v3", _LINUX_X86, "x86-64-v3", "", 32, 16, needs=_V3),
        Target("x86-64-v4", _LINUX_X86, "x86-64-v4", "-prefer-256-bit", 64, 32, needs=_V4),
        Target("neon", _LINUX_ARM, "generic", "+neon", 16, 32),
        Target("neoverse-v1", _LINUX_ARM, "neoverse-v1", "", 16, 32, 16, needs=frozenset(["sve", "rand"])),
        Target("apple-m1", "arm64-apple-macosx11.0.0", "apple-m1", "", 16, 32, fma_chains=16),
    )
}
