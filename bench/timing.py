"""Paired timing: what is compared runs in turn, so that a change of the machine's speed meets all alike.

Before it is timed, a call runs once untimed: else it would pay for the caches that the one before it filled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

Call = Callable[[], object]


@dataclass(frozen=True)
class Samples:
    """Seconds a call took, run by run."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)


def interleave(calls: Mapping[str, Call], seconds: float = 2.0, least: int = 7) -> dict[str, Samples]:
    """Times every call once a round, for about `seconds` and at least `least` rounds."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(found.values()))) < least:
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: Samples(samples) for name, samples in found.items()}


def ratio(a: Samples, b: Samples) -> float:
    """The median over rounds of a / b."""
    return median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))
