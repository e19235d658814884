"""What regions and structured ops read and keep: captured values, accumulators, pairs of loops, sequences of blocks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import count

from mdsl.dialects import linalg, scf, tensor, ukernel
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Block, Op, Value


def writes_old_content(op: linalg.LinalgOp) -> bool:
    """True if the op's body reads an output's old element (an accumulator)."""
    outs = op.body.args[len(op.inputs) :]
    return any(a.users for a in outs)


def captured(root: Op) -> list[Value]:
    """Values used under `root` but defined outside it, in order of first use."""
    inside: set[Value] = set()
    found: dict[Value, None] = {}
    for op in root.walk():
        if op is not root:
            for value in op.operands:
                if value not in inside:
                    found[value] = None
        inside.update(op.results)
        for region in op.regions:
            inside.update(region.block.args)
    return list(found)


def structure(block: Block, given: Sequence[Value]) -> Hashable:
    """What a block computes of the values `given`, all that it reads from outside: equal for blocks that read the same but
    for the names of values and places in the source."""
    numbers = {value: number for number, value in enumerate(given)}
    return tuple(v.type for v in given), _structure(block, numbers, count(len(given)))


def _structure(block: Block, numbers: dict[Value, int], counter: Iterator[int]) -> Hashable:
    numbers.update(zip(block.args, counter, strict=False))
    rows: list[Hashable] = [tuple(arg.type for arg in block.args)]
    for op in block.ops:
        operands = tuple(numbers[v] for v in op.operands)
        inner = tuple(_structure(region.block, numbers, counter) for region in op.regions)
        numbers.update(zip(op.results, counter, strict=False))
        types = tuple(r.type for r in op.results)
        rows.append((op.name, operands, tuple(op.attributes.items()), types, inner))
    return tuple(rows)


RESHAPES = (tensor.CollapseShape, tensor.ExpandShape)

LAYOUTS = (*RESHAPES, linalg.Pack, linalg.Unpack)
"""Ops that give a tensor's elements another shape or order."""


def place_of_pair(map: AffineMap, first: int, second: int) -> int | None:
    """Where in the map's results loop `first` is followed by `second`; None if either occurs elsewhere too, or not
    as itself."""
    plain = [e.position if isinstance(e, Dim) else None for e in map.results]
    used = [d for e in map.results for d in e.dims()]
    if used.count(first) != 1 or used.count(second) != 1 or first not in plain:
        return None
    at = plain.index(first)
    return at if plain[at + 1 : at + 2] == [second] else None


def sequences(func: Op) -> list[Block]:
    """The body of a function and those of the loops in it that run in order: what a pass works on."""
    bodies = [op.body for op in func.walk() if isinstance(op, scf.For)]
    return [func.regions[0].block, *(b for b in bodies if not _in_kernel(b))]


def _in_kernel(block: Block) -> bool:
    op = block.parent_op
    return op is not None and any(isinstance(a, ukernel.RegionOp | scf.Forall) for a in op.ancestors())
