"""nn, sorting and scattering: sort, top-k, and writes to positions given by index tensors."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects.nn.base import (
    INDEX_TENSOR,
    NUMBER_TENSOR,
    NnOp,
    axis_in,
    broadcast_shapes,
    dims,
    same_element,
)
from mdsl.ir.core import Value
from mdsl.ir.declare import BOOLEAN, INT, TENSOR, attr, one_of, operand, result
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i1, i64, shapes_agree


class ArgSort(NnOp):
    """Positions along `axis` of the elements in ascending (or `descending`) order, the first `count` of them.

    Equal elements keep their order; NaN counts as the largest. Each element is compared with every other:
    the time grows with the square of the axis's size; where only a few of many are wanted, with their product.
    """

    name = "nn.argsort"
    x = operand(NUMBER_TENSOR)
    axis = attr(INT, default=-1)
    descending = attr(BOOLEAN, default=False)
    count = attr(INT, optional=True, doc="absent: all")
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        axis = axis_in(self, self.attr("axis"), x.rank)
        size, count = x.shape[axis], self.attr("count")
        if count is not None and (count < 0 or (size != DYNAMIC and count > size)):
            raise self.error(f"count must be 0 to {size}, got {count}")
        found = size if count is None else count
        return [TensorType((*x.shape[:axis], found, *x.shape[axis + 1 :]), i64)]


class Scatter(NnOp):
    """x with elements replaced by, or combined with, those of `updates`.

    For each element of updates, at (i, j, k) with j along `axis`: y[i, indices[i, j, k], k] = updates[i, j, k],
    one after another, or with `kind` their sum with what stands there, their product, the larger, the
    smaller. `indices` broadcast to the shape of updates, which is x's but for `axis`. Negative indices count
    from the end; indices that are still outside are ignored.
    """

    name = "nn.scatter"
    x = operand(TENSOR)
    indices = operand(INDEX_TENSOR)
    updates = operand(TENSOR)
    axis = attr(INT, default=0)
    kind = attr(one_of("set", "add", "mul", "max", "min"), default="set")
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x, updates = tensor_of(self.operands[0]), tensor_of(self.operands[2])
        axis = axis_in(self, self.attr("axis"), x.rank)
        if same_element(self, self.operands[0], self.operands[2]) == i1 and self.attr("kind") != "set":
            raise self.error(f'kind "{self.attr("kind")}" has no meaning for i1')
        if updates.rank != x.rank or not shapes_agree(_without(x, axis), _without(updates, axis)):
            raise self.error(
                f"updates must have the shape {dims(x.shape)} but for axis {axis}, got {updates}"
            )
        self._check_indices(self.operands[1], updates)
        return [x]

    def _check_indices(self, indices: Value, updates: TensorType) -> None:
        shape = broadcast_shapes(self, tensor_of(indices).shape, updates.shape)
        if not shapes_agree(shape, updates.shape):
            raise self.error(
                f"{tensor_of(indices)} does not broadcast to updates' shape {dims(updates.shape)}"
            )


def _without(type: TensorType, axis: int) -> tuple[int, ...]:
    return type.shape[:axis] + type.shape[axis + 1 :]
