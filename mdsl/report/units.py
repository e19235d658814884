"""Numbers as a person reads them: three figures and a unit."""

from __future__ import annotations


def seconds_text(seconds: float) -> str:
    """`1.44 ms`."""
    return _scaled(seconds * 1e9, ("ns", "us", "ms", "s"))


def bytes_text(count: float) -> str:
    """`145 MB`, of a thousand each."""
    return _scaled(count, ("B", "KB", "MB", "GB", "TB"))


def flops_text(count: float) -> str:
    """`8.2 GFLOP`: operations on floats, a multiply-add counting two."""
    return _scaled(count, ("FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP"))


def count_text(count: int) -> str:
    """`30,898`."""
    return f"{count:,}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{_three(value)} {unit}"
        value /= 1000
    return f"{_three(value)} {units[-1]}"


def _three(value: float) -> str:
    """Three figures, without zeros behind the point that say nothing."""
    if value >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
