"""The processor that this process runs on, as its operating system describes it."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from functools import cache
from pathlib import Path

V2 = frozenset(["cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3"])
V3 = V2 | frozenset(["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"])
V4 = V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])
"""What the levels of x86-64 consist of beyond what every such processor has, by LLVM's names."""

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
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(_LINUX_NAMES.get(name, name) for name in listed[1].split()) if listed else frozenset()


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
