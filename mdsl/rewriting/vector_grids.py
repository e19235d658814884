"""How vectors are taken apart into registers: a grid of pieces along the last dimension of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from mdsl.dialects import arith, scf, vector
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.attributes import DenseAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.types import VectorType, element_of
from mdsl.target.target import ELEMENT_BYTES, Target

At = tuple[int, ...]
"""Where in a vector a piece begins."""


@dataclass(frozen=True)
class Grid:
    """How vectors of one shape are taken apart."""

    shape: tuple[int, ...]
    lanes: int

    @cached_property
    def points(self) -> list[At]:
        """The pieces' places, in the order in which they are computed."""
        steps = [*[1] * (len(self.shape) - 1), self.lanes]
        ranges = [range(0, size, step) for size, step in zip(self.shape, steps, strict=True)]
        order = sorted(range(len(ranges)), key=lambda d: -len(ranges[d]))
        found = product(*(ranges[d] for d in order))
        return [tuple(at[order.index(d)] for d in range(len(ranges))) for at in found]

    @property
    def is_split(self) -> bool:
        """Whether there are several pieces, or dimensions."""
        return len(self.shape) > 1 or max(self.shape) > self.lanes

    def width(self, at: At) -> int:
        """The elements of a piece."""
        return min(self.lanes, self.shape[-1] - at[-1])


class Grids(dict[Value, Grid]):
    """The grids of the vectors of a kernel that are taken apart: those that ops compute of each other have one. Vectors
    stay whole that fit a register, or that ops work on which see more than elements one by one."""

    def __init__(self, func: UkernelFunc, target: Target) -> None:
        self._leaders: dict[Value, Value] = {}
        kept: set[Value] = set()
        transferred: set[Value] = set()
        for op in func.walk():
            vectors = [v for v in (*op.operands, *op.results) if isinstance(v.type, VectorType)]
            for v in vectors:
                self._leaders.setdefault(v, v)
            if isinstance(op, vector.Transfer):
                transferred.update(vectors)
            elif not _is_piecewise(op):
                kept.update(vectors)
            for same in _alike(op):
                self._join(same)
        parts: dict[Value, list[Value]] = {}
        for value in self._leaders:
            parts.setdefault(self._leader(value), []).append(value)
        for members in parts.values():
            grid = _grid_of(members, target) if kept.isdisjoint(members) else None
            if grid is not None and (grid.is_split or not transferred.isdisjoint(members)):
                self.update(dict.fromkeys(members, grid))

    def _join(self, values: Sequence[Value]) -> None:
        vectors = [v for v in values if isinstance(v.type, VectorType)]
        for v in vectors[1:]:
            self._leaders[self._leader(v)] = self._leader(vectors[0])

    def _leader(self, value: Value) -> Value:
        path: list[Value] = []
        while (above := self._leaders.get(value, value)) is not value:
            path.append(value)
            value = above
        self._leaders.update(dict.fromkeys(path, value))
        return value


def _grid_of(members: Sequence[Value], target: Target) -> Grid | None:
    """The grid of vectors that are computed together; None if no machine has them."""
    shapes = {v.type.shape for v in members}  # type: ignore[attr-defined]
    elements = {str(element_of(v.type)) for v in members}
    if () in shapes or not elements <= ELEMENT_BYTES.keys():
        return None
    (shape,) = shapes
    return Grid(shape, min(map(target.lanes, elements)))


def _alike(op: Op) -> Iterable[Sequence[Value]]:
    """Values that an op makes of each other, or that take each other's place."""
    if isinstance(op, scf.For):
        return zip(op.operands[3:], op.carried, op.body.terminator.operands, op.results, strict=True)
    if isinstance(op, scf.If) and op.results:
        return zip(*(branch.terminator.operands for branch in op.branches), op.results, strict=True)
    return [[*op.operands, *op.results]] if is_elementwise(op) else []


def _is_piecewise(op: Op) -> bool:
    """Whether an op can work on the pieces of a vector."""
    if isinstance(op, arith.Constant):
        return isinstance(op.attributes["value"], DenseAttr)
    known = isinstance(op, vector.Load | vector.Store | vector.Broadcast | scf.For | scf.If)
    return known or is_elementwise(op) or op.has("terminator")


def is_elementwise(op: Op) -> bool:
    """Whether an op computes each element of its result of one of each operand."""
    return len(op.results) == 1 and (op.has("elementwise") or isinstance(op, vector.Fma))
