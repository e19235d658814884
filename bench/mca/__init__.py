"""The main kernels on cores that nobody here has: what LLVM's models say of their innermost loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.figure import Figure
from bench.mca.kernels import CONTRACTIONS, loops, programs
from bench.mca.model import model, rates
from bench.mca.page import SHARE, Row, page
from mdsl.support.files import replacing
from mdsl.target.target import TARGETS, Target

PAGE = Path(__file__).parent.parent / "MCA.md"


def figures() -> Iterator[Figure]:
    """What `llvm-mca` says of each target's kernels; bench/MCA.md is written as well."""
    alike: dict[Target, list[str]] = {}
    for name, target in TARGETS.items():
        alike.setdefault(replace(target, name=""), []).append(name)
    rows = [_row(target, names) for target, names in alike.items()]
    with replacing(PAGE) as file:
        file.write(page(rows).encode())
    for row in rows:
        for program in CONTRACTIONS:
            name = f"{row.name}, {program}, of the core's multiply-adds"
            yield Figure(name, row.share(program), "%", "at least", SHARE, row.detail(program))
        for kind in ("spill", "move"):
            found = {m.loop.function: m.loop.mix[kind] for m in row.loops if m.loop.mix[kind]}
            detail = ", ".join(f"{function}: {number}" for function, number in found.items())
            name = f"{row.name}, {kind}s in innermost loops"
            yield Figure(name, sum(found.values()), "", "at most", 0, detail)


def _row(target: Target, names: list[str]) -> Row:
    found = {name: loops(name, target) for name in programs()}
    models = iter(model([loop for some in found.values() for loop in some], target))
    modelled = {name: [next(models) for _ in some] for name, some in found.items()}
    return Row(names, target, rates(target), modelled)
