"""tile: how a dimension is cut into tiles."""

from __future__ import annotations

from mdsl.target import cost

Part = tuple[int, int, int]
"""Some tiles along one dimension: where the first begins, where the last ends, their size."""

COUNTERS = "ijklmnop"


def parts(extent: int, size: int, innermost: bool) -> list[Part]:
    """How a dimension is cut: into near-equal tiles; the innermost, along which vectors lie, into whole ones and what
    is left."""
    if innermost:
        whole = extent // size * size
        pieces = [(size, extent // size), (extent - whole, 1)]
    else:
        pieces = cost.near_equal(extent, size)
    found: list[Part] = []
    for step, number in pieces:
        start = found[-1][1] if found else 0
        found += [(start, start + step * number, step)] if step * number else []
    return found


def count(part: Part) -> int:
    """How many tiles a part holds."""
    return -(-(part[1] - part[0]) // part[2])
