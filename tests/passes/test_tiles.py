"""The tiles that the cost models choose: for each program of tiles.mir and each named target the shapes that micro-kernels
compute, those of a contraction or reduction if it has any. `make golden` writes tiles.txt anew; read what changed.
"""

from __future__ import annotations

from pathlib import Path

import mdsl
from mdsl.dialects import linalg, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.passes.base import functions
from mdsl.target.target import TARGETS

PROGRAMS = Path(__file__).with_name("tiles.mir")
TABLE = Path(__file__).with_name("tiles.txt")


def test_tiles(golden: bool) -> None:
    chosen = {name: _tiles(mdsl.opt(PROGRAMS, "tile", target=name)) for name in TARGETS}
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
