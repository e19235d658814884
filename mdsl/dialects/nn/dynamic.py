"""nn, dynamic shapes: a tensor's sizes as numbers, and ops that take a shape or positions as operands.

Models whose inputs have `?` dimensions compute shapes from their inputs' shapes. Pass `bind` knows these once
it knows the inputs' sizes; it evaluates the arithmetic and puts the static op in a dynamic one's place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.dialects.nn.base import INDEX_TENSOR, NUMBERS, NnOp, require_number, require_rank, require_vector
from mdsl.ir.attributes import Attribute, DenseAttr
from mdsl.ir.core import Value
from mdsl.ir.declare import FLOAT, INTS, TENSOR, Constraint, attr, operand, result
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i64

SCALAR_TENSOR = Constraint(
    "a tensor of one number, without dimensions",
    lambda t: isinstance(t, TensorType) and t.rank == 0 and t.element in NUMBERS,
)


class Shape(NnOp):
    """The sizes of x's dimensions, as i64."""

    name = "nn.shape"
    x = operand(TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        return [TensorType((tensor_of(self.operands[0]).rank,), i64)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        x, type = tensor_of(self.operands[0]), tensor_of(self.result)
        return [DenseAttr(np.array(x.shape, np.int64), type)] if x.is_static else None


class Dynamic(NnOp):
    """Base of the ops whose result's shape depends on operands' values: the result type is written, with `?`
    for what is not known before pass `bind`."""

    def infer(self) -> Sequence[Type]:
        assert self.results, f"{self.name} needs its result type"
        source, target = tensor_of(self.operands[0]), tensor_of(self.result)
        if source.element != target.element:
            raise self.error(f"cannot change the element type: {source} to {target}")
        self.check_rank(source, target)
        return [target]

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        """Raises VerifyError for a result whose rank the operands rule out: unless told otherwise, that of x."""
        if source.rank != target.rank:
            raise self.error(f"the result of {source} must have {source.rank} dimensions, got {target}")


class Range(Dynamic):
    """start, start + delta, ..., up to but without limit."""

    name = "nn.range"
    start = operand(SCALAR_TENSOR)
    limit = operand(SCALAR_TENSOR)
    delta = operand(SCALAR_TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        if len({v.type for v in self.operands}) > 1:
            raise self.error(
                f"operands must have one type, got {', '.join(str(v.type) for v in self.operands)}"
            )
        return super().infer()

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        if target.rank != 1:
            raise self.error(f"the result must have 1 dimension, got {target}")


class DynamicReshape(Dynamic):
    """The same elements in row-major order, in the shape that `shape` holds: -1, which may stand once, is what
    remains, 0 is x's size at the same place."""

    name = "nn.dynamic_reshape"
    x = operand(TENSOR)
    shape = operand(INDEX_TENSOR)
    y = result(TENSOR)

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        require_vector(self, "shape", self.operands[1], target.rank)


class DynamicBroadcast(Dynamic):
    """x stretched with NumPy's rules to the shape that `shape` holds; where `shape` says 1, x keeps its size."""

    name = "nn.dynamic_broadcast"
    x = operand(TENSOR)
    shape = operand(INDEX_TENSOR)
    y = result(TENSOR)

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        (count,) = require_rank(self, "shape", self.operands[1], 1)
        if count != DYNAMIC and target.rank != max(source.rank, count):
            raise self.error(f"the result must have {max(source.rank, count)} dimensions, got {target}")


class DynamicSlice(Dynamic):
    """x[start:end:step] in each of `axes` (by default the first ones), as nn.slice."""

    name = "nn.dynamic_slice"
    x = operand(TENSOR)
    starts = operand(INDEX_TENSOR)
    ends = operand(INDEX_TENSOR)
    axes = attr(INTS, optional=True)
    steps = attr(INTS, optional=True)
    y = result(TENSOR)

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        super().check_rank(source, target)
        counts = [len(self.attr(name)) for name in ("axes", "steps") if self.attr(name) is not None]
        counts += [require_rank(self, "a position", v, 1)[0] for v in self.operands[1:]]
        if len({c for c in counts if c != DYNAMIC}) > 1:
            raise self.error("starts, ends, axes and steps must have equal lengths")


class DynamicPad(Dynamic):
    """A border of the constant `value`; `pads` holds the low of each dimension, then the high of each, as
    nn.pad's."""

    name = "nn.dynamic_pad"
    x = operand(TENSOR)
    pads = operand(INDEX_TENSOR)
    value = attr(FLOAT, default=0.0)
    y = result(TENSOR)

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        super().check_rank(source, target)
        require_number(self, "value", self.attr("value"), source.element)
        require_vector(self, "pads", self.operands[1], 2 * source.rank)


class DynamicTile(Dynamic):
    """x repeated in each dimension as often as `repeats` says."""

    name = "nn.dynamic_tile"
    x = operand(TENSOR)
    repeats = operand(INDEX_TENSOR)
    y = result(TENSOR)

    def check_rank(self, source: TensorType, target: TensorType) -> None:
        super().check_rank(source, target)
        require_vector(self, "repeats", self.operands[1], source.rank)
