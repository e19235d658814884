"""fold-batchnorm: a batch normalisation with constant statistics becomes part of the weights of the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, bf16, dtype_of, f16
from mdsl.passes.base import Context, Pass
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Fold batch normalisation into the weights and the bias of the convolution or matrix product before it.

    Before:

        %c = nn.conv2d %x, %w : (tensor<1x3x8x8xf32>, tensor<4x3x1x1xf32>) -> tensor<1x4x8x8xf32>
        %y = nn.batch_norm %c, %scale, %shift, %mean, %variance : (...) -> tensor<1x4x8x8xf32>

    After:

        %w_folded = arith.constant dense_resource<w_folded> : tensor<4x3x1x1xf32>
        %y_bias = arith.constant dense<[...]> : tensor<4xf32>
        %y = nn.conv2d %x, %w_folded, %y_bias : (...) -> tensor<1x4x8x8xf32>

    With factor = scale / sqrt(variance + epsilon), the weights of each output channel are multiplied by its
    factor, and the bias becomes bias * factor + shift - mean * factor; in float64, rounded once. It takes
    constant weights and parameters, and a layer whose result nothing else reads. Any other normalisation
    with constant parameters becomes `x * factor + offset`, unless its elements have 16 bits, where rounding
    twice would show. Ioffe, Szegedy: Batch Normalization (2015).
    """

    name: ClassVar[str] = "fold-batchnorm"
    level: ClassVar[str | None] = "nn"
    subject = "nn.batch_norm"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in list(module.walk()):
            if isinstance(op, nn.BatchNorm):
                _visit(op)


def _visit(op: nn.BatchNorm) -> None:
    parameters = [constant_data(v) for v in op.operands[1:]]
    if any(p is None for p in parameters):
        remarks.missed(op, "its parameters are not constant")
        return
    scale, shift, mean, variance = (np.asarray(p, np.float64) for p in parameters)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + op.attr("epsilon"))
        offset = shift - mean * factor
    layer = op.x.owner
    operands = [*op.operands]
    obstacle = _obstacle(layer, op)
    if isinstance(layer, nn.Conv2d | nn.Linear | nn.Matmul) and obstacle is None:
        remarks.fused(op, f"is folded into the weights of {remarks.name_of(layer)}", layer)
        operands += layer.operands
        _fold(layer, op, factor, offset)
    elif tensor_of(op.x).element not in (f16, bf16):
        remarks.missed(op, f"becomes a multiplication and an addition: {obstacle}")
        _scale_and_add(op, factor, offset)
    else:
        remarks.missed(op, f"stays: {obstacle}, and 16-bit elements would be rounded twice")
    for value in dict.fromkeys(operands):
        if isinstance(value.owner, Constant) and not value.users:
            value.owner.erase()


def _obstacle(layer: Op | object, op: nn.BatchNorm) -> str | None:
    """What keeps `op` from being folded into the layer before it; None if the layer's weights (and bias) are constant, and
    only `op` reads its result, along its output channels."""
    if not isinstance(layer, nn.Conv2d | nn.Linear | nn.Matmul):
        return "no convolution or linear layer comes before it"
    name = remarks.name_of(layer)
    if list(layer.result.users) != [op] or layer.block is not op.block:
        return f"{name} is also read elsewhere"
    if any(constant_data(v) is None for v in layer.operands[1:]):
        return f"the weights of {name} are not constant"
    if isinstance(layer, nn.Matmul) and tensor_of(layer.b).rank != 2:
        return f"{name} is a batch of products"
    channels = (3 if layer.channels_last else 1) if isinstance(layer, nn.Conv2d) else tensor_of(op.x).rank - 1
    return None if op.channel_axis == channels else f"it works along another axis than the channels of {name}"


def _fold(
    layer: nn.Conv2d | nn.Linear | nn.Matmul, op: nn.BatchNorm, factor: np.ndarray, offset: np.ndarray
) -> None:
    builder, exact = Builder.before(op), factor
    # The factors are rounded once more, the weights stay as wide as they are: a network has many of them.
    weight = np.asarray(constant_data(layer.operands[1]))
    if weight.dtype != np.float32:
        weight = weight.astype(np.float64)
    factor = factor.astype(weight.dtype)
    # Output channels come first in a weight, but are the columns of a matrix product.
    along = factor if isinstance(layer, nn.Matmul) else factor.reshape(-1, *[1] * (weight.ndim - 1))
    folded = _constant(
        builder, op, weight * along, layer.operands[1], f"{resource_name(layer.operands[1])}_folded"
    )
    bias = layer.operands[2] if len(layer.operands) > 2 else None
    if bias is None:
        new_bias = _constant(builder, op, offset, layer.operands[1], f"{op.result.name or 'norm'}_bias")
    else:
        old = np.asarray(constant_data(bias), np.float64)
        new_bias = _constant(builder, op, old * exact + offset, bias, f"{resource_name(bias)}_folded")
    result = [op.result.type]
    if isinstance(layer, nn.Matmul):
        product = builder.value(nn.Matmul(layer.a, folded, results=result), layer.result.name)
        new: NnOp = nn.Add(product, new_bias)
    else:
        operands = [layer.x, folded, new_bias]
        new = type(layer).from_parts(operands, result, layer.attributes, location=layer.location)
    op.replace_by(builder.value(new))
    layer.erase()


def _scale_and_add(op: nn.BatchNorm, factor: np.ndarray, offset: np.ndarray) -> None:
    """x * factor + offset, with constants that broadcast along the other dimensions."""
    builder = Builder.before(op)
    name = op.result.name or "norm"
    behind = [1] * (tensor_of(op.x).rank - 1 - op.channel_axis)
    factor_value = _constant(builder, op, factor.reshape(-1, *behind), op.scale, f"{name}_factor")
    offset_value = _constant(builder, op, offset.reshape(-1, *behind), op.shift, f"{name}_offset")
    scaled = builder.value(nn.Mul(op.x, factor_value), f"{name}_scaled")
    op.replace_by(builder.value(nn.Add(scaled, offset_value)))


def _constant(builder: Builder, near: Op, array: np.ndarray, like: Value, name: str) -> Value:
    """A constant called `name` with the element type of `like`."""
    element = tensor_of(like).element
    type = TensorType(array.shape, element)
    with np.errstate(all="ignore"):
        data = np.ascontiguousarray(array, dtype_of(element))
    attr = tensor_attribute(data, type, fresh_resource(near, name))
    return builder.value(Constant(value=attr, results=[type]), name)
