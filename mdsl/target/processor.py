"""The processor that this process runs on, as its operating system describes it."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path

from mdsl.target.isa import V2, V3, V4

_LINUX_NAMES = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "lahf_lm": "sahf", "bmi1": "bmi", "abm": "lzcnt",
    "asimd": "neon", "rng": "rand",
}  # fmt: skip
"""Features that Linux calls otherwise than LLVM."""

_WINDOWS_LEVELS = ((41, V4), (40, V3), (38, V2))
"""What `IsProcessorFeaturePresent` answers for AVX-512 F, AVX2 and SSE 4.2, and the level that each stands for."""


def architecture() -> str:
    """The instruction set family: "x86_64", "aarch64", ..."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def triple() -> str:
    """The processor and system, as LLVM names them."""
    system = {"darwin": "apple-darwin", "win32": "pc-windows-msvc"}.get(sys.platform, "unknown-linux-gnu")
    return f"{architecture()}-{system}"


@cache
def features() -> frozenset[str]:
    """What the processor can do, by LLVM's names: all that Linux tells; elsewhere the level that it has."""
    if sys.platform == "darwin":
        return _apple()
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return next((level for number, level in _WINDOWS_LEVELS if present(number)), frozenset())
    listed = _said("flags") or _said("Features")
    return frozenset(_LINUX_NAMES.get(name, name) for name in listed.split())


def _apple() -> frozenset[str]:
    def has(name: str) -> bool:
        value, size = ctypes.c_int(0), ctypes.c_size_t(4)
        library = ctypes.CDLL(None)
        failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
        return not failed and value.value == 1

    if architecture() == "aarch64":
        return frozenset(["neon"])
    levels = (("hw.optional.avx512vl", V4), ("hw.optional.avx2_0", V3), ("hw.optional.sse4_2", V2))
    return next((level for name, level in levels if has(name)), frozenset())


_AMD = {
    (0x17, range(0x30, 0x100)): "znver2", (0x19, range(0x10)): "znver3", (0x19, range(0x20, 0x60)): "znver3",
    (0x19, range(0x10, 0x20)): "znver4", (0x19, range(0x60, 0x100)): "znver4", (0x1A, range(0x100)): "znver5",
}  # fmt: skip
_INTEL = {
    (6, (0x3C, 0x3F, 0x45, 0x46, 0x3D, 0x47, 0x4F, 0x56)): "haswell", (6, (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6)): "skylake",
    (6, (0x55,)): "skylake-avx512", (6, (0x6A, 0x6C, 0x7D, 0x7E, 0x8C, 0x8D, 0xA7)): "icelake",
    (6, (0x8F, 0xCF, 0xAD, 0xAE)): "sapphirerapids",
    (6, (0x97, 0x9A, 0xB7, 0xBA, 0xBE, 0xBF, 0xAA, 0xAC, 0xC5, 0xC6)): "alderlake",
}  # fmt: skip
"""Families and models of x86, as CPUID numbers them, and the core that each has: itself or the nearest before it."""

_ARM = {
    (0x41, 0xD0C): "neoverse-n1", (0x41, 0xD49): "neoverse-n2", (0x41, 0xD40): "neoverse-v1", (0x41, 0xD4F): "neoverse-v2",
    (0x41, 0xD08): "cortex-a72", (0x41, 0xD05): "cortex-a55",
}  # fmt: skip
"""Implementers and parts, as the register MIDR_EL1 numbers them."""


@cache
def core_name() -> str:
    """The core by its name in `core.CORES`; empty for an unknown one."""
    if sys.platform == "darwin":
        return "apple-m1" if architecture() == "aarch64" else ""
    if architecture() == "aarch64":
        return _ARM.get((_number("CPU implementer"), _number("CPU part")), "")
    family, model = _number("cpu family"), _number("model")
    vendors = {"AuthenticAMD": _AMD, "GenuineIntel": _INTEL}
    known = vendors.get(_said("vendor_id"), {})
    found = next((name for (f, models), name in known.items() if f == family and model in models), "")
    # A hypervisor may number a processor as an older one; what it can do tells.
    return "sapphirerapids" if found == "icelake" and "amx_tile" in _said("flags").split() else found


@cache
def described() -> str:
    """Everything that Linux tells of the kind of the first processor, as text for a cache key; empty elsewhere."""
    kinds = (
        "vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU architecture", "CPU variant",
        "CPU part", "CPU revision", "Features",
    )  # fmt: skip
    return "; ".join(found for kind in kinds if (found := _said(kind)))


def _number(name: str) -> int:
    try:
        return int(_said(name), 0)
    except ValueError:
        return -1


def _said(name: str) -> str:
    """What Linux tells of the first processor."""
    return _cpuinfo().get(name, "")


@cache
def _cpuinfo() -> dict[str, str]:
    """The lines of that; of a key that comes again, as with every further processor, the first."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}


def cache_bytes(level: int, default: int) -> int:
    """The size of the first core's data cache of that level, from Linux's /sys; `default` elsewhere."""
    return _caches().get(level, default)


@cache
def _caches() -> dict[int, int]:
    """The sizes of the first core's data caches by level."""
    found: dict[int, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            size = re.fullmatch(r"(\d+)([KM]?)", (folder / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if size and kind != "Instruction":
            found.setdefault(level, int(size[1]) << {"": 0, "K": 10, "M": 20}[size[2]])
    return found
