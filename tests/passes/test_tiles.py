"""The tiles that the cost models choose: for each program of tiles.mir and each named target the shapes that micro-kernels
compute, those of a contraction or reduction if it has any. `make golden` writes tiles.txt anew; read what changed. `make test`
looks at the first target of each instruction set.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mdsl
from mdsl.dialects import linalg, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.passes.base import functions
from mdsl.target.target import TARGETS
from tests.targets import FIRST

PROGRAMS = Path(__file__).with_name("tiles.mir")
TABLE = Path(__file__).with_name("tiles.txt")


def _chosen(target: str) -> dict[str, list[str]]:
    return _tiles(mdsl.opt(PROGRAMS, "tile", target=target))


def _table() -> dict[str, dict[str, str]]:
    """The tiles that are expected of each program for each target."""
    found: dict[str, dict[str, str]] = {}
    for line in TABLE.read_text().splitlines():
        row = re.fullmatch(r"  ((?:\S+, )*\S+) +(.+)", line)
        if row is None:
            found[line] = tiles = {}
        else:
            tiles |= dict.fromkeys(row[2].split(), row[1])
    return found


@pytest.mark.parametrize("target", FIRST)
def test_tiles(target: str) -> None:
    chosen = {program: ", ".join(tiles) for program, tiles in _chosen(target).items()}
    assert chosen == {program: expected[target] for program, expected in _table().items()}, (
        "'make golden' writes them"
    )


@pytest.mark.slow
def test_tiles_of_all_targets(golden: bool) -> None:
    chosen = {name: _chosen(name) for name in TARGETS}
    lines: list[str] = []
    for program in next(iter(chosen.values())):
        lines.append(program)
        alike: dict[str, list[str]] = {}
        for name, tiles in chosen.items():
            alike.setdefault(", ".join(tiles[program]), []).append(name)
        lines += [f"  {tiles:<40} {' '.join(names)}" for tiles, names in alike.items()]
    text = "\n".join(lines) + "\n"
    if golden:
        TABLE.write_text(text)
    assert text == TABLE.read_text(), f"{TABLE} differs; 'make golden' writes it anew"


def _tiles(module: ModuleOp) -> dict[str, list[str]]:
    """The different tiles of each function's kernels, in their order."""
    found: dict[str, list[str]] = {}
    for function in functions(module):
        regions = [op for op in function.walk() if isinstance(op, ukernel.RegionOp)]
        heavy = [op for op in regions if any(_reduces(inner) for inner in op.walk())]
        tiles = [str(result.type) for op in heavy or regions for result in op.results]
        found[function.symbol] = [t.removeprefix("tensor<").removesuffix(">") for t in dict.fromkeys(tiles)]
    return found


def _reduces(op: Op) -> bool:
    return isinstance(op, linalg.LinalgOp) and bool(op.reduction_dims)
