"""trim-filters: convolutions leave out the rows and columns of their filters that lie on nothing but padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import attribute, tensor_attribute
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType
from mdsl.passes.base import Context, Pass
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name


@dataclass(frozen=True)
class TrimFilters(Pass):
    """Leave out what a filter multiplies by padding alone: rows and columns at its edges that no output finds in the image.

    Before:

        %y = nn.conv2d %x, %w {pads = [1, 1, 1, 1]} : (tensor<2x8x1x4xf32>, tensor<8x8x3x3xf32>) -> tensor<2x8x1x4xf32>

    After:

        %w_trimmed = nn.slice %w {starts = [1], ends = [2], axes = [2]} : (tensor<8x8x3x3xf32>) -> tensor<8x8x1x3xf32>
        %y = nn.conv2d %x, %w_trimmed {pads = [0, 1, 0, 1]} : (tensor<2x8x1x4xf32>, tensor<8x8x1x3xf32>) -> tensor<2x8x1x4xf32>

    Images become so small towards the end of a network that is given small ones, and filters reach so far where they are dilated. A
    constant weight is cut now. Before `autodiff`, the gradient has zeros where the weight does nothing. A weight that is infinite
    there makes no NaN any more.
    """

    name: ClassVar[str] = "trim-filters"
    level: ClassVar[str | None] = "nn"
    subject = "nn.conv2d"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in list(module.walk()):
            if isinstance(op, nn.Conv2d):
                _visit(op)


def _visit(op: nn.Conv2d) -> None:
    weight, pads = tensor_of(op.weight), list(op.attr("pads"))
    size, made, kernel = _extents(op, op.x), _extents(op, op.y), weight.shape[2:]
    if DYNAMIC in (*size, *made, *kernel) or 0 in (*size, *made):
        remarks.missed(op, "is of a size that is not known, or of 0")
        return
    taken: list[range] = []
    for d in range(2):
        stride, dilation = op.attr("strides")[d], op.attr("dilations")[d]
        taps = _taps(kernel[d], size[d], made[d], stride, dilation, pads[d], pads[d + 2])
        taken.append(taps)
        if len(taps) < kernel[d]:
            pads[d] -= taps.start * dilation
            reach = (made[d] - 1) * stride + (len(taps) - 1) * dilation + 1
            pads[d + 2] = max(0, reach - size[d] - pads[d])
    if all(len(taps) == extent for taps, extent in zip(taken, kernel, strict=True)):
        remarks.missed(op, "has no filter whose edges lie on nothing but padding")
        return
    builder = Builder.before(op)
    operands = [op.x, _trimmed(op, taken, builder), *op.operands[2:]]
    attributes = {**op.attributes, "pads": attribute(pads)}
    found = nn.Conv2d.from_parts(operands, [op.y.type], attributes, location=op.location)
    sizes = ["x".join(map(str, extents)) for extents in (map(len, taken), kernel)]
    remarks.applied(op, f"takes {sizes[0]} of {sizes[1]} taps: the others lie on nothing but padding")
    op.replace_by(builder.value(found), rename=True)


def _extents(op: nn.Conv2d, image: Value) -> tuple[int, int]:
    shape = tensor_of(image).shape
    return (shape[1], shape[2]) if op.channels_last else (shape[2], shape[3])


def _taps(kernel: int, size: int, made: int, stride: int, dilation: int, low: int, high: int) -> range:
    """Along one dimension, the taps from the first that lies on the image for some output to the last; no border may become negative,
    and all are taken if there are none."""
    seen = [k for k in range(kernel) if any(0 <= o * stride + k * dilation - low < size for o in range(made))]
    if not seen:
        return range(kernel)
    return range(min(seen[0], low // dilation), max(seen[-1] + 1, kernel - high // dilation))


def _trimmed(op: nn.Conv2d, taken: list[range], builder: Builder) -> Value:
    """The weight's rows and columns `taken`."""
    weight, data = op.weight, constant_data(op.weight)
    name = f"{weight.name}_trimmed" if weight.name else None
    if data is None:
        parts = [(d, taps) for d, taps in enumerate(taken, 2) if len(taps) < tensor_of(weight).shape[d]]
        axes, starts, ends = zip(*((d, taps.start, taps.stop) for d, taps in parts), strict=True)
        return builder.value(nn.Slice(weight, starts=starts, ends=ends, axes=axes), name)
    rows, columns = (slice(taps.start, taps.stop) for taps in taken)
    kept = np.ascontiguousarray(data[:, :, rows, columns])
    type = TensorType(kept.shape, tensor_of(weight).element)
    attr = tensor_attribute(kept, type, fresh_resource(op, f"{resource_name(weight)}_trimmed"))
    return builder.value(Constant(value=attr, results=[type]), name)
