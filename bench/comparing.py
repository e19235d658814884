"""mdsl beside other runtimes, as figures: its time divided by the best one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mdsl
from bench.figure import Figure
from mdsl.benchmarking.peers import UNLIMITED
from mdsl.benchmarking.versus import Contender, compare
from mdsl.compiler.entry import random_arrays


def against(
    file: str,
    peers: Mapping[str, str],
    threads: int,
    rounds: int = 20,
    settings: Mapping[str, Any] | None = None,
) -> list[Contender]:
    """The contenders, mdsl first, whose program is compiled before any is loaded."""
    arrays = random_arrays(mdsl.compile(file, **(settings or {})).inputs)  # type: ignore[arg-type]
    return compare(file, arrays, peers, threads, rounds, settings or {})


def best_of(title: str, found: Sequence[Contender], limit: float | None, names: Sequence[str]) -> Figure:
    """mdsl's time divided by the best one's of the peers `names`, those that are held to the target if there are any."""
    known = [c for c in found if c.name in names and c.ratio is not None]
    known = [c for c in known if c.how != UNLIMITED] or known
    best = max(1 / c.ratio for c in known if c.ratio) if known else float("nan")
    against = " or ".join(c.name for c in known) or " or ".join(names)
    return Figure(f"{title}, against {against}", best, "x", "at most", limit, told(found))


def told(found: Sequence[Contender]) -> str:
    """The time of each, or what came in its way."""
    return "; ".join(map(one, found))


def one(c: Contender) -> str:
    if c.failed:
        return f"{c.name}: {c.failed}"
    text = f"{c.name} {1e3 * c.median:.4g} ms ({1e3 * c.low:.4g} to {1e3 * c.high:.4g})"
    if c.how == UNLIMITED:
        text += f", {c.how}"
    if c.unsteady and c.ratios is not None:
        text += f", UNSTEADY: {c.ratios[0]:.2f} to {c.ratios[1]:.2f}"
    return text if c.agrees else f"{text}, DISAGREES: error {c.error:.1e}"
