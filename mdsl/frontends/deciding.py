"""Dependence of shapes on arguments: which arguments' sizes, or whose elements, decide the shapes in a function."""

from __future__ import annotations

from collections.abc import Iterable

from mdsl.dialects.func import FunctionLike
from mdsl.dialects.nn import Range, Shape
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.tensor import DimOp
from mdsl.ir.core import BlockArgument, Op, OpResult, Value
from mdsl.ir.types import ShapedType

LARGEST = 1024
"""Elements of an argument whose numbers a program may be compiled for: shapes, axes and counts are smaller."""


def deciding(shapes: Iterable[Value], numbers: Iterable[Value] = ()) -> tuple[set[Value], set[Value]]:
    """The arguments on whose sizes, and those on whose numbers, the shapes of `shapes` and the numbers in `numbers` depend."""
    work = [*((v, False) for v in shapes), *((v, True) for v in numbers)]
    seen: set[tuple[Value, bool]] = set()
    while work:
        value, is_number = work.pop()
        item = value, is_number or not isinstance(value.type, ShapedType)
        if item not in seen and (item[1] or not _is_known(value)):
            seen.add(item)
            work += _behind(*item)
    arguments: set[tuple[Value, bool]] = {
        (v, n) for v, n in seen if isinstance(v, BlockArgument) and _around(v) is None
    }
    sizes = {v for v, _ in arguments if not _is_known(v)}
    return sizes, {v for v, is_number in arguments if is_number}


def undecided(ops: Iterable[Op]) -> tuple[set[Value], set[Value]]:
    """The same for all shapes that the results of `ops` have and that are yet to be computed."""
    open_ops = (op for op in ops if isinstance(op, Dynamic) or not all(map(_is_known, op.results)))
    return deciding(r for op in open_ops for r in op.results)


def is_small(argument: Value) -> bool:
    """True for an argument whose numbers a program may be compiled for."""
    return isinstance(argument.type, ShapedType) and argument.type.is_static and argument.type.size <= LARGEST


def _behind(value: Value, is_number: bool) -> Iterable[tuple[Value, bool]]:
    """What decides the numbers of a value, or else its shape, one step back."""
    op = value.op if isinstance(value, OpResult) else _around(value)
    if op is None:
        return
    if isinstance(op, Shape | DimOp):
        yield op.operands[0], False
        return
    ends = [region.block.last for region in op.regions]
    yields = [v for end in ends if end is not None for v in end.operands]
    decides = 0 if isinstance(op, Range) else 1 if isinstance(op, Dynamic) else len(op.operands)
    yield from ((v, is_number) for v in (*op.operands[:decides], *yields))
    yield from ((v, True) for v in op.operands[decides:])
    if is_number:
        yield from ((v, False) for v in op.operands)


def _around(argument: Value) -> Op | None:
    """The loop whose body an argument belongs to, None for an argument of a function."""
    op = argument.block.parent_op if isinstance(argument, BlockArgument) else None
    return None if isinstance(op, FunctionLike) else op


def _is_known(value: Value) -> bool:
    return not isinstance(value.type, ShapedType) or value.type.is_static
