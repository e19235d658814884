"""Memory of this process."""

from __future__ import annotations


def peak_bytes() -> int:
    """What it had in memory at most. Not `ru_maxrss`, which begins with the memory of the process that started this one."""
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])
