"""lower-nn: ops on tensors without elements, those with a dimension of 0."""

from __future__ import annotations

from mdsl.dialects import nn, tensor
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import wide
from mdsl.passes.nn.lower_nn.build import Emitter, highest, lowest
from mdsl.passes.nn.lower_nn.layers import finish


def has_no_elements(op: NnOp) -> bool:
    """True if an operand or the result has a dimension of 0."""
    return any(0 in tensor_of(v).shape for v in (*op.operands, op.result))


def lower_empty(e: Emitter, op: NnOp) -> Value | None:
    """The result's value; None if the op's own rule does what is left to do."""
    result = tensor_of(op.result)
    if 0 in result.shape:
        return e.value(tensor.Empty([], results=[result]), None)
    if isinstance(op, nn.Concat):
        op.operands = [v for v in op.operands if 0 not in tensor_of(v).shape]
        return None
    if isinstance(op, nn.Scatter):
        return op.operands[0]
    if isinstance(op, nn.Pad):
        return e.fill(op.attr("value"), result.shape, result.element, None)
    if isinstance(op, nn.Reduce):
        return e.fill(_neutral(op), result.shape, result.element, None)
    if isinstance(op, nn.GlobalAvgPool):
        return e.fill(float("nan"), result.shape, result.element, None)
    assert isinstance(op, nn.Matmul | nn.Linear | nn.Conv2d), op.name
    bias = None if isinstance(op, nn.Matmul) else op.bias
    along = 1 if isinstance(op, nn.Conv2d) and not op.channels_last else result.rank - 1
    zero = e.fill(0, result.shape, wide(result.element))
    return finish(e, zero, result.element, bias, along)


def _neutral(op: nn.Reduce) -> float:
    """The sum, mean, .. of nothing."""
    element = tensor_of(op.x).element
    known = {"sum": 0, "mean": float("nan"), "prod": 1, "max": lowest(element), "min": highest(element)}
    return known[op.attr("kind")]
