"""Meaning of the linalg dialect: a loop nest, evaluated with whole arrays.

The parallel dimensions of a nest become axes of NumPy arrays. Reductions are a loop in Python, in order,
unless the body says `out = combine(out, f(inputs))` with an associative `combine`: then `f` is evaluated
over reduction axes too and the axes are reduced; a sum of products of floats goes through `einsum`.

Floats are computed in float64 and rounded to the element type when the output is stored: the reference
is at least as exact as any order of summation that a pass may choose. An explicit `arith.truncf` rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np

from mdsl.dialects.linalg import IndexOp, LinalgOp, Pack, Unpack
from mdsl.ir.core import BlockArgument, Op, OpResult, Value
from mdsl.ir.registry import operations
from mdsl.ir.types import TensorType, i1, is_float
from mdsl.reference.evaluator import Scope, Step
from mdsl.reference.extrema import Extremum, maximum, maximum_number, minimum, minimum_number
from mdsl.reference.loops import loop_sizes, spread, widen
from mdsl.reference.memref import writable
from mdsl.reference.registry import STRUCTURED, failure, semantics

CHUNK = 1 << 22
"""Elements of the largest intermediate array that a vectorised reduction may make."""

COMBINERS: dict[str, np.ufunc | Extremum] = {
    "arith.addf": np.add,
    "arith.mulf": np.multiply,
    "arith.maximumf": maximum,
    "arith.minimumf": minimum,
    "arith.maxnumf": maximum_number,
    "arith.minnumf": minimum_number,
    "arith.addi": np.add,
    "arith.muli": np.multiply,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
}
"""Associative ops, whose order NumPy may choose. One-bit arithmetic is not NumPy's and stays a loop."""


def structured_op(scope: Scope, op: LinalgOp, *operands: Any) -> tuple[Any, ...]:
    """The results (one an output tensor) of a structured op; output memrefs are written in place."""
    return Nest(scope, op, operands).run()


@semantics("linalg.index")
def index(op: Op) -> Any:
    """`Nest` gives it its value: the counter of the loops around it."""
    raise failure(op, "stands outside of a linalg op")


STRUCTURED.update({name: structured_op for name, kind in operations().items() if issubclass(kind, LinalgOp)})


@dataclass(frozen=True)
class Combination:
    """A body that is `yield combine(out, value)`."""

    op: Op
    ufunc: np.ufunc | Extremum
    value: Value

    @staticmethod
    def of(op: LinalgOp) -> Combination | None:
        """The combination that the body is, if it is one."""
        if len(op.outputs) != 1 or not op.reduction_dims:
            return None
        out, yielded = op.body.args[-1], op.body.terminator.operands[0]
        combine = yielded.owner
        if not isinstance(yielded, OpResult) or not isinstance(combine, Op) or combine.block is not op.body:
            return None
        if combine.name not in COMBINERS or yielded.type == i1 or list(out.users) != [combine]:
            return None
        left, right = combine.operands
        if left is right:
            return None
        return Combination(combine, COMBINERS[combine.name], right if left is out else left)


class Nest:
    """One structured op at work. Axes are the parallel dimensions, then the reduction dimensions."""

    def __init__(self, scope: Scope, op: LinalgOp, operands: Sequence[Any]) -> None:
        self.scope = scope
        self.op = op
        self.operands = operands
        self.maps = op.maps
        self.sizes = loop_sizes(op, self.maps, operands)
        self.parallel, self.reductions = op.parallel_dims, op.reduction_dims
        self.rank = len(self.parallel)
        self.shape = tuple(self.sizes[d] for d in self.parallel)
        self.split = len(op.inputs)

    def run(self) -> tuple[Any, ...]:
        targets = [
            np.array(array) if isinstance(value.type, TensorType) else writable(self.op, array)
            for value, array in zip(self.op.outputs, self.operands[self.split :], strict=True)
        ]
        views = [self._target(*pair) for pair in zip(self.maps[self.split :], targets, strict=True)]
        # Copied: a body may yield an old element of one output as the new one of another.
        found = [np.array(new) for new in self._evaluate([widen(v) for v in views])]
        for view, new in zip(views, found, strict=True):
            view[...] = new
        return tuple(
            t for v, t in zip(self.op.outputs, targets, strict=True) if isinstance(v.type, TensorType)
        )

    def _target(self, map: Any, array: np.ndarray) -> np.ndarray:
        """The output as a writable view whose axes are the parallel dimensions."""
        view = spread(self.op, array, map, self.sizes, writeable=True).transpose(
            [*self.parallel, *self.reductions]
        )
        if view.shape != (*self.shape, *[1] * len(self.reductions)):
            raise failure(
                self.op, f"an output's map {map} must hold each parallel dimension and no reduction"
            )
        return view[(..., *[0] * len(self.reductions))]

    def _evaluate(self, old: list[Any]) -> list[Any]:
        """The new elements of the outputs whose old ones are `old`."""
        combination = Combination.of(self.op)
        if combination is None:
            return self._in_order(old)
        factors = self._factors(combination)
        if factors is not None:
            return [old[0] + self._contraction(*factors)]
        return [self._combined(combination, old[0])]

    @cached_property
    def inputs(self) -> list[Any]:
        """Each input with an axis a loop dimension (of 1 where the input does not depend on it)."""
        order = [*self.parallel, *self.reductions]
        pairs = zip(self.maps, self.operands[: self.split], strict=False)
        return [
            spread(self.op, widen(array), map, self.sizes).transpose(order)
            if isinstance(array, np.ndarray)
            else widen(array)
            for map, array in pairs
        ]

    # The body ---------------------------------------------------------------------------------------------

    def _body(
        self, point: Sequence[int], old: Sequence[Any], wanted: Sequence[Value], skipped: Op | None = None
    ) -> list[Any]:
        """The body's values `wanted` with the first reduction dimensions at `point` and the others as axes.

        `skipped` is an op whose result is not needed.
        """
        values = self.scope.values
        free = len(self.reductions) - len(point)
        for arg, array in zip(self.op.body.args, self.inputs, strict=False):
            values[arg] = _at(array, self.rank, point) if isinstance(array, np.ndarray) else array
        values.update(zip(self.op.body.args[self.split :], old, strict=False))
        for step in self.scope.evaluator.steps(self.op.body):
            if isinstance(step.op, IndexOp):
                values[step.op.result] = self._counter(step.op.attr("dim"), point, free)
            elif step.op is not skipped:
                self._execute(step)
        return [values[v] for v in wanted]

    def _execute(self, step: Step) -> None:
        self.scope.execute(step)
        for result in step.results:
            if is_float(result.type):
                self.scope.values[result] = widen(self.scope.values[result])

    def _counter(self, dim: int, point: Sequence[int], free: int) -> Any:
        """The loop counter of dimension `dim`: a number at `point`, else an array along its axis."""
        axis = [*self.parallel, *self.reductions].index(dim)
        if self.rank <= axis < self.rank + len(point):
            return np.int64(point[axis - self.rank])
        axis -= len(point) if axis >= self.rank else 0
        shape = [1] * (self.rank + free)
        shape[axis] = self.sizes[dim]
        return np.arange(self.sizes[dim], dtype=np.int64).reshape(shape)

    # Reductions -------------------------------------------------------------------------------------------

    def _in_order(self, values: list[Any]) -> list[Any]:
        """Every point of the reduction space, one after another."""
        wanted = self.op.body.terminator.operands
        for point in product(*(range(self.sizes[d]) for d in self.reductions)):
            values = self._body(point, values, wanted)
        return values

    def _combined(self, combination: Combination, total: Any) -> Any:
        """The combined value over as many reduction axes at a time as memory allows."""
        looped = 0
        while looped < len(self.reductions) and prod(self.shape) * self._extent(looped) > CHUNK:
            looped += 1
        axes = tuple(range(self.rank, self.rank + len(self.reductions) - looped))
        full = (*self.shape, *(self.sizes[d] for d in self.reductions[looped:]))
        for point in product(*(range(self.sizes[d]) for d in self.reductions[:looped])):
            value = self._body(point, (), [combination.value], combination.op)[0]
            if axes and 0 not in full:
                value = np.broadcast_to(value, full)
                # A sum starts from what changes none; NumPy's own start is +0.0.
                start: dict[str, Any] = {"initial": -0.0} if combination.op.name == "arith.addf" else {}
                value = combination.ufunc.reduce(value, axis=axes, dtype=value.dtype, **start)
            total = combination.ufunc(total, value) if 0 not in full else total
        return total

    def _extent(self, looped: int) -> int:
        return prod(self.sizes[d] for d in self.reductions[looped:])

    def _factors(self, combination: Combination) -> tuple[int, int] | None:
        """The two inputs whose product a body of floats sums up, if it does just that."""
        multiply = combination.value.owner
        if (
            combination.op.name != "arith.addf"
            or not isinstance(multiply, Op)
            or multiply.name != "arith.mulf"
        ):
            return None
        factors = [self._input_behind(v) for v in multiply.operands]
        if None in factors or len(self.sizes) > 26:
            return None
        return factors[0], factors[1]  # type: ignore[return-value]

    def _input_behind(self, value: Value) -> int | None:
        """Number of the array input that `value` is, widened or not."""
        while isinstance(value.owner, Op) and value.owner.name == "arith.extf":
            value = value.owner.operands[0]
        if (
            not isinstance(value, BlockArgument)
            or value.block is not self.op.body
            or value.index >= self.split
        ):
            return None
        return value.index if isinstance(self.operands[value.index], np.ndarray) else None

    def _contraction(self, left: int, right: int) -> np.ndarray:
        arguments: list[Any] = []
        present: set[int] = set()
        for array in (self.inputs[left], self.inputs[right]):
            axes = [a for a, size in enumerate(array.shape) if size != 1]
            arguments += [array.squeeze(), axes]
            present.update(axes)
        kept = [a for a in range(self.rank) if a in present]
        large = prod(self.sizes) > 1 << 14  # small sums are quicker without looking for a path to BLAS
        total = np.einsum(*arguments, kept, optimize=large)
        missing = [
            d for a, d in enumerate([*self.parallel, *self.reductions]) if a >= self.rank and a not in present
        ]
        total = total * float(prod(self.sizes[d] for d in missing))
        return total.reshape([self.shape[a] if a in present else 1 for a in range(self.rank)])


def _at(array: np.ndarray, rank: int, point: Sequence[int]) -> np.ndarray:
    """`array` at `point` of the axes from `rank` on, which may be of extent 1."""
    return array[
        (*[slice(None)] * rank, *(p if array.shape[rank + i] > 1 else 0 for i, p in enumerate(point)))
    ]


# Data tiling ----------------------------------------------------------------------------------------------


@semantics("linalg.pack")
def pack(op: Pack, source: np.ndarray, dest: np.ndarray, *rest: Any) -> np.ndarray | None:
    return _store(op, dest, packed(op, source, *rest))


def packed(op: Pack, source: np.ndarray, padding: Any = 0) -> np.ndarray:
    """`source` in the layout that `op` brings it into, perhaps a view; what blocks lack is `padding`."""
    tiles = op.tiles
    extra = [(0, -size % tiles.get(d, 1)) for d, size in enumerate(source.shape)]
    padded = np.pad(source, extra, constant_values=padding) if any(high for _, high in extra) else source
    return _split(op, padded).transpose(_packed_axes(op, source.ndim))


@semantics("linalg.unpack")
def unpack(op: Unpack, source: np.ndarray, dest: np.ndarray, *_: Any) -> np.ndarray | None:
    plain = source.transpose(np.argsort(_packed_axes(op, dest.ndim)))
    tiles = op.tiles
    padded = plain.reshape(
        [-(-size // tiles.get(d, 1)) * tiles.get(d, 1) for d, size in enumerate(dest.shape)]
    )
    return _store(op, dest, padded[tuple(slice(size) for size in dest.shape)])


def _split(op: Pack, plain: np.ndarray) -> np.ndarray:
    """Each tiled dimension as two: the tile's number, the place in the tile."""
    tiles = op.tiles
    parts = [[size // tiles[d], tiles[d]] if d in tiles else [size] for d, size in enumerate(plain.shape)]
    return plain.reshape([n for part in parts for n in part])


def _packed_axes(op: Pack | Unpack, rank: int) -> list[int]:
    """The axes of the split array in the packed order: outer dimensions, then tiles."""
    outer: list[int] = []
    inner: dict[int, int] = {}
    axis = 0
    for d in range(rank):
        outer.append(axis)
        if d in op.tiles:
            axis += 1
            inner[d] = axis
        axis += 1
    order = op.layout.order or range(rank)
    return [*(outer[d] for d in order), *(inner[d] for d in op.tiles)]


def _store(op: Op, dest: np.ndarray, new: np.ndarray) -> np.ndarray | None:
    """A tensor destination gives way to the new tensor, a memref is written."""
    if op.results:
        return np.ascontiguousarray(new)
    writable(op, dest)[...] = new
    return None
