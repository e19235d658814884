"""lower-vm: which loop of a parallel nest the workers share."""

from __future__ import annotations

from collections.abc import Sequence

_ENOUGH_TRIPS = 8
"""A loop with fewer does not share its work evenly."""


def shared_loop(bounds: Sequence[tuple[object, object, object]]) -> int:
    """The loop of a nest whose trips the workers share: the outermost with enough of them, else the longest."""
    trips = [
        (u - lo + s - 1) // s if isinstance(lo, int) and isinstance(u, int) and isinstance(s, int) else 1
        for lo, u, s in bounds
    ]
    return next((i for i, t in enumerate(trips) if t >= _ENOUGH_TRIPS), trips.index(max(trips)))
