"""The window of an operand that a tile reads: its offsets and sizes, halo included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.dialects import linalg
from mdsl.ir.affine import AffineExpr, AffineMap
from mdsl.ir.core import Value


@dataclass(frozen=True)
class Window:
    """What all maps read that lead to one operand and differ by constants alone: one slice serves them.

    For each dimension of the operand, the map with the smallest constant, and how far the largest lies off.
    """

    lowest: tuple[AffineExpr, ...]
    spread: tuple[int, ...]


def windows(op: linalg.LinalgOp) -> list[Window]:
    """The window of each operand of the op; that of an output is its map alone."""
    inputs = len(op.inputs)
    keys = [
        _key(v, m, None if i < inputs else i)
        for i, (v, m) in enumerate(zip(op.operands, op.maps, strict=True))
    ]
    alike: dict[object, list[AffineMap]] = {}
    for key, map in zip(keys, op.maps, strict=True):
        alike.setdefault(key, []).append(map)
    known = {key: _window(maps) for key, maps in alike.items()}
    return [known[key] for key in keys]


def _key(value: Value, map: AffineMap, number: int | None) -> object:
    return value, number, tuple(tuple(sorted(linear(e)[0].items())) for e in map.results)


def _window(maps: Sequence[AffineMap]) -> Window:
    if len(maps) == 1:
        return Window(maps[0].results, (0,) * len(maps[0].results))
    columns = list(zip(*(m.results for m in maps), strict=True))
    constants = [[linear(e)[1] for e in column] for column in columns]
    lowest = tuple(column[c.index(min(c))] for column, c in zip(columns, constants, strict=True))
    return Window(lowest, tuple(max(c) - min(c) for c in constants))


def rebased(op: linalg.LinalgOp, windows: Sequence[Window], sizes: Sequence[int]) -> list[AffineMap]:
    """The maps of `op` on a tile with these loop extents: a slice starts at the first element of its window,
    which a falling dimension reaches last."""
    found: list[AffineMap] = []
    for map, window in zip(op.maps, windows, strict=True):
        results = (_rebased(e, low, sizes) for e, low in zip(map.results, window.lowest, strict=True))
        found.append(AffineMap(map.num_dims, 0, tuple(results)))
    return found


def _rebased(expr: AffineExpr, lowest: AffineExpr, sizes: Sequence[int]) -> AffineExpr:
    factors, constant = linear(expr)
    start = constant - linear(lowest)[1] - sum(f * (sizes[d] - 1) for d, f in factors.items() if f < 0)
    return expr if start == constant else expr - constant + start


def linear(expr: AffineExpr) -> tuple[dict[int, int], int]:
    """Factors of the dimensions, and the constant, of an expression known to be linear."""
    found = expr.coefficients()
    assert found is not None
    return found
