"""tune: the tile sizes of each contraction, chosen by timing candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsl.analysis.regions import captured
from mdsl.analysis.rows import find_rows
from mdsl.analysis.tile_sizes import TILE, contraction_tiles
from mdsl.dialects import func, linalg, tensor, ukernel
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseArrayAttr, DenseResourceAttr, Resource
from mdsl.ir.core import Builder, Op, Region, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, dtype_of, i64
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.target.target import Target, TargetError


@dataclass(frozen=True)
class Tune(Pass):
    """Measure the tilings that the cost model finds best for each contraction, and note down the fastest.

    Before:

        %c = ukernel.region -> tensor<1x64x56x56x16xf32> {
          ...
        }

    After (a tile of 2 blocks of channels, one row, 14 pixels):

        %c = ukernel.region -> tensor<1x64x56x56x16xf32> attributes {mdsl.tile = array<i64: 1, 2, 1, 14, 16>} {
          ...
        }

    `tile` takes the noted sizes instead of its own choice. Every candidate is compiled as a program of its
    own, on random numbers, and the candidates are timed in turn; for that the machine that it compiles for must be
    able to run here. The model's own choice stays unless another is faster by more than measuring differs. What was
    found is kept in the cache, by the region's text, the machine and the compiler, so that a second compilation measures
    nothing. It takes a second for each new shape, 18 s for ResNet-50 on a Zen 5; nothing else should run meanwhile.
    """

    name: ClassVar[str] = "tune"
    level: ClassVar[str | None] = "linalg"
    subject = "contraction with tiles to choose from"

    candidates: int = option(5, "tilings to measure, in the cost model's order", least=1)
    rounds: int = option(4, "how often each candidate is timed", least=1)

    def run(self, module: ModuleOp, context: Context) -> None:
        found = tunable(module)
        for number, (op, main) in enumerate(found, 1):
            context.progress(f"tuning region {number} of {len(found)}: {op.results[0].name or main.name}")
            op.attributes[TILE] = DenseArrayAttr(i64, tuple(self._choose(op, main, context)))

    def _choose(self, op: Op, main: linalg.LinalgOp, context: Context) -> list[int]:
        """The fastest tile of `op`, known or measured; the model's, if it is not clearly slower."""
        tiles = tiles_of(op, main, context.target, self.candidates)
        if len(tiles) == 1:
            return tiles[0]
        seconds = measured(op, tiles, context, self.rounds)
        best = min(seconds)
        return tiles[0] if seconds[0] * _WORTH <= best else tiles[seconds.index(best)]


_WORTH = 0.93
"""The part of the time of the model's choice that another must not exceed: less is what measuring differs by."""


def tunable(module: ModuleOp) -> list[tuple[Op, linalg.LinalgOp]]:
    """The regions, and ops outside of regions, whose tile can be chosen, with the contraction that decides."""
    regions = [(op, _contraction(op)) for function in functions(module) for op in function.body.ops]
    return [(op, main) for op, main in regions if main is not None]


def tiles_of(op: Op, main: linalg.LinalgOp, target: Target, most: int) -> list[list[int]]:
    """Up to `most` tiles of the result of `op`, in the cost model's order."""
    rows = find_rows(_structured(op))
    if rows is None:
        return [[*shaped_of(op.results[0]).shape]]  # stays one kernel
    return [rows.of_result(c.what, main) for c in contraction_tiles(main, target).candidates[:most]]


def measured(op: Op, tiles: Sequence[Sequence[int]], context: Context, rounds: int) -> list[float]:
    """Seconds of a call of `op` alone, on random numbers, cut into each of the tiles. Raises MdslError where the
    target's code cannot run."""
    pipelines = [f"tile{{sizes=[{','.join(map(str, tile))}]}}" for tile in tiles]
    try:
        return context.measure(alone(op), pipelines, rounds)
    except TargetError as error:
        raise MdslError(f"error: tune: {error}") from None


def _contraction(op: Op) -> linalg.LinalgOp | None:
    """The contraction that `op` is or groups with its epilogue, if `tile` can choose how to cut it."""
    if isinstance(op, linalg.LinalgOp):
        return op if op.is_contraction and op.results else None
    if not isinstance(op, ukernel.RegionOp):
        return None
    found = [o for o in _structured(op) if o.reduction_dims]
    return found[0] if len(found) == 1 and found[0].is_contraction else None


def _structured(op: Op) -> list[linalg.LinalgOp]:
    """The structured ops of a region, or `op` alone."""
    ops = op.body.ops if isinstance(op, ukernel.RegionOp) else [op]
    return [o for o in ops if isinstance(o, linalg.LinalgOp)]


def alone(op: Op) -> ModuleOp:
    """A program of `op` only. Constants stay constants, for `prepack` lays them out by the tile."""
    values = list(dict.fromkeys([*op.operands, *captured(op)]))
    copied = [v for v in values if isinstance(v.owner, Constant | tensor.Empty) and not v.owner.operands]
    fills = [v for v in values if isinstance(v.owner, linalg.Fill)]
    arguments = [v for v in values if v not in copied and v not in fills]
    results = [r.type for r in op.results]
    main = func.FuncOp.make("main", [v.type for v in arguments], results, [v.name for v in arguments])
    mapping: dict[Value, Value] = dict(zip(arguments, main.args, strict=True))
    builder = Builder(main.body)
    for value in copied:
        mapping[value] = builder.value(_of_random(value), value.name)
    for value in fills:
        mapping[value] = _fill(value, builder, mapping)
    copy = builder.add(op.clone(mapping), *[r.name for r in op.results])
    copy.attributes.pop(TILE, None)
    main.body.append(func.Return(copy.results, results=[]))
    module = ModuleOp(results=[], regions=[Region()])
    module.body.append(main)
    for number, value in enumerate(_values(module)):
        value.name = f"v{number}"
    return module


def _values(module: ModuleOp) -> list[Value]:
    """All values of a program, in its order."""
    blocks = [region.block for op in module.walk() for region in op.regions]
    return list(
        dict.fromkeys([a for b in blocks for a in b.args] + [r for op in module.walk() for r in op.results])
    )


def _of_random(value: Value) -> Op:
    """A copy of a constant or an empty tensor. Data do not matter for the time; the text of the program, which the
    cache knows it by, is then the same for every layer of one shape."""
    assert isinstance(value.owner, Op)
    owner = value.owner
    type = value.type
    if not isinstance(owner, Constant) or not isinstance(type, TensorType) or type.size <= 1:
        return owner.clone()
    numbers = np.random.default_rng(0).standard_normal(type.shape).astype(dtype_of(type.element))
    return Constant(value=DenseResourceAttr("weights", type, Resource(numbers)), results=[type])


def _fill(value: Value, builder: Builder, mapping: dict[Value, Value]) -> Value:
    fill = value.owner
    assert isinstance(fill, linalg.Fill)
    for operand in fill.operands:
        if operand not in mapping and isinstance(operand.owner, Op):
            mapping[operand] = builder.value(operand.owner.clone(), operand.name)
    return builder.value(fill.clone(mapping), value.name)
