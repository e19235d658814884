"""nn, layers: convolution, matrix products, normalisation, pooling, softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.dialects.nn.base import (
    LAYOUT,
    NUMBER_TENSOR,
    NnOp,
    PerChannel,
    Windowed,
    axis_in,
    broadcast_shapes,
    dims,
    numbers,
    require_rank,
    require_vector,
    same_element,
)
from mdsl.ir.declare import BOOLEAN, FLOAT, FLOAT_TENSOR, INT, INT_TENSOR, INTS, TENSOR, attr, operand, result
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i32, shapes_agree, sizes_agree


class Conv2d(Windowed):
    """2-D convolution (cross-correlation, as networks have it), zero padding, optional bias.

    x: (N, C, H, W), or (N, H, W, C) with layout = "nhwc"; weight: (O, C/groups, KH, KW) in either layout;
    bias: (O). y: (N, O, OH, OW) or (N, OH, OW, O) with
    OH = (H + top + bottom - (KH - 1) * dilation - 1) / stride + 1, rounded down.
    Group g of the O outputs reads group g of the C inputs.
    """

    name = "nn.conv2d"
    x = operand(NUMBER_TENSOR)
    weight = operand(NUMBER_TENSOR)
    bias = operand(NUMBER_TENSOR, optional=True)
    groups = attr(INT, default=1)
    y = result(NUMBER_TENSOR)

    def infer(self) -> Sequence[Type]:
        n, c, h, w = self.image()
        out, per_group, kh, kw = require_rank(self, "weight", self.weight, 4)
        groups = self.attr("groups")
        if groups < 1 or (c != DYNAMIC and c % groups) or (out != DYNAMIC and out % groups):
            raise self.error(f"groups = {groups} does not divide {c} input and {out} output channels")
        if not sizes_agree(c, DYNAMIC if per_group == DYNAMIC else per_group * groups):
            wanted = f"weight {tensor_of(self.weight)} with groups = {groups} wants {per_group * groups}"
            raise self.error(f"x has {c} channels, {wanted}")
        if self.bias is not None:
            require_vector(self, "bias", self.bias, out)
        oh, ow = self.slide((h, w), (kh, kw))
        return [TensorType(self.arrange(n, out, oh, ow), same_element(self, *self.operands))]


class Matmul(NnOp):
    """Matrix product, with NumPy's `matmul` rules.

    a: (..., M, K), b: (..., K, N), y: (..., M, N); the leading dimensions broadcast. A one-dimensional a is
    a row, a one-dimensional b a column, and the result lacks that dimension.
    """

    name = "nn.matmul"
    a = operand(NUMBER_TENSOR)
    b = operand(NUMBER_TENSOR)
    y = result(NUMBER_TENSOR)

    def infer(self) -> Sequence[Type]:
        a, b = tensor_of(self.operands[0]), tensor_of(self.operands[1])
        if not a.rank or not b.rank:
            raise self.error(f"operands must have at least 1 dimension, got {a} and {b}")
        inner = b.shape[-2] if b.rank > 1 else b.shape[0]
        if not sizes_agree(a.shape[-1], inner):
            raise self.error(f"inner dimensions differ: {dims(a.shape)} times {dims(b.shape)}")
        batch = broadcast_shapes(self, a.shape[:-2], b.shape[:-2])
        rows = a.shape[-2:-1]
        columns = b.shape[-1:] if b.rank > 1 else ()
        return [TensorType((*batch, *rows, *columns), same_element(self, *self.operands))]


class Linear(NnOp):
    """Fully connected layer, y = x W^T + bias. x: (..., in); weight: (out, in); bias: (out); y: (..., out)."""

    name = "nn.linear"
    x = operand(NUMBER_TENSOR)
    weight = operand(NUMBER_TENSOR)
    bias = operand(NUMBER_TENSOR, optional=True)
    y = result(NUMBER_TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        out, features = require_rank(self, "weight", self.weight, 2)
        if not x.rank or not sizes_agree(x.shape[-1], features):
            raise self.error(
                f"weight {tensor_of(self.weight)} wants {features} features in x's last dimension, got {x}"
            )
        if self.bias is not None:
            require_vector(self, "bias", self.bias, out)
        return [TensorType((*x.shape[:-1], out), same_element(self, *self.operands))]


class BatchNorm(PerChannel):
    """Batch normalisation with fixed statistics, (x - mean) / sqrt(variance + epsilon) * scale + shift.

    x: (N, C, ...), or (N, ..., C) with layout = "nhwc"; the other four: (C).
    """

    name = "nn.batch_norm"
    x = operand(FLOAT_TENSOR)
    scale = operand(FLOAT_TENSOR)
    shift = operand(FLOAT_TENSOR)
    mean = operand(FLOAT_TENSOR)
    variance = operand(FLOAT_TENSOR)
    epsilon = attr(FLOAT, default=1e-5)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        x = self.with_channels()
        for name in ("scale", "shift", "mean", "variance"):
            require_vector(self, name, getattr(self, name), x.shape[self.channel_axis])
        same_element(self, *self.operands)
        return [x]


class LayerNorm(NnOp):
    """Layer normalisation over the dimensions `axis` and all behind it.

    (x - mean) / sqrt(variance + epsilon) * scale + shift, mean and (biased) variance over those dimensions;
    scale and shift have the shape of those dimensions. Ba, Kiros, Hinton: Layer Normalization (2016).
    """

    name = "nn.layer_norm"
    x = operand(FLOAT_TENSOR)
    scale = operand(FLOAT_TENSOR)
    shift = operand(FLOAT_TENSOR, optional=True)
    axis = attr(INT, default=-1)
    epsilon = attr(FLOAT, default=1e-5)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        wanted = x.shape[axis_in(self, self.attr("axis"), x.rank) :]
        for name in ("scale", "shift"):
            value = getattr(self, name)
            if value is not None and not shapes_agree(tensor_of(value).shape, wanted):
                raise self.error(f"{name} must have the shape {dims(wanted)}, got {tensor_of(value)}")
        same_element(self, *self.operands)
        return [x]


class Softmax(NnOp):
    """exp(x) / sum(exp(x)) along `axis`; computed from x - max(x), so that nothing overflows."""

    name = "nn.softmax"
    x = operand(FLOAT_TENSOR)
    axis = attr(INT, default=-1)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        axis_in(self, self.attr("axis"), tensor_of(self.operands[0]).rank)
        return [self.operands[0].type]


class LogSoftmax(Softmax):
    """log(softmax(x)) along `axis`."""

    name = "nn.log_softmax"


class Pool(Windowed):
    """Base of poolings: a window of `kernel` slides over height and width."""

    x = operand(NUMBER_TENSOR)
    kernel = attr(INTS, doc="[height, width]")
    ceil_mode = attr(BOOLEAN, default=False, doc="count a last window that overlaps the end")
    y = result(NUMBER_TENSOR)

    def infer(self) -> Sequence[Type]:
        n, c, h, w = self.image()
        kernel, dilations = numbers(self, "kernel", 2, 1), numbers(self, "dilations", 2, 1)
        pads = numbers(self, "pads", 4, 0)
        for d in range(4):
            window = (kernel[d % 2] - 1) * dilations[d % 2] + 1
            if pads[d] >= window:  # such a window could see nothing but padding
                raise self.error(f"pads must be smaller than the window, got {pads[d]} for {window}")
        if 0 in (h, w):
            raise self.error(f"there is nothing in a window on {tensor_of(self.x)}")
        oh, ow = self.slide((h, w), kernel, self.attr("ceil_mode"))
        return [TensorType(self.arrange(n, c, oh, ow), tensor_of(self.x).element)]


class MaxPool2d(Pool):
    """The largest element of each window; padding never wins.

    x: (N, C, H, W), or (N, H, W, C) with layout = "nhwc". As in ONNX, strides are 1 where they are not given.
    """

    name = "nn.max_pool2d"


class ArgMaxPool2d(Pool):
    """Where in its window the largest element stands that `nn.max_pool2d` finds: its number in row-major order, as i32.

    Of equal elements it is the first, and a NaN counts as the largest; padding is as small as a number can be.
    """

    name = "nn.argmax_pool2d"
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        (type,) = super().infer()
        assert isinstance(type, TensorType)
        return [type.with_element(i32)]


class MaxPool2dGrad(Windowed):
    """The gradient of `nn.max_pool2d` for its image: each window's `grad` is added where its largest element stands.

    `places` (`nn.argmax_pool2d`) and `grad` have the shape of the pooled image; the result type is the image's. What
    would go to padding is dropped, and what has a number that no element of the window has.
    """

    name = "nn.max_pool2d_grad"
    places = operand(INT_TENSOR)
    grad = operand(FLOAT_TENSOR)
    kernel = attr(INTS, doc="[height, width]")
    ceil_mode = attr(BOOLEAN, default=False, doc="count a last window that overlaps the end")
    y = result(FLOAT_TENSOR)

    def image(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width) of the image, which is the result."""
        n, a, b, c = require_rank(self, "the result", self.result, 4)
        return (n, c, a, b) if self.channels_last else (n, a, b, c)

    def infer(self) -> Sequence[Type]:
        assert self.results, "nn.max_pool2d_grad needs its result type"
        n, c, h, w = self.image()
        windows = self.slide((h, w), numbers(self, "kernel", 2, 1), self.attr("ceil_mode"))
        wanted = self.arrange(n, c, *windows)
        for name in ("places", "grad"):
            type = tensor_of(getattr(self, name))
            if not shapes_agree(type.shape, wanted):
                raise self.error(f"{name} must have the shape {dims(wanted)}, got {type}")
        return [tensor_of(self.result).with_element(tensor_of(self.grad).element)]


class AvgPool2d(Pool):
    """The mean of each window, over the elements inside the image, or with `count_include_pad` over the
    zeros of the padding too (but never over what only `ceil_mode` adds).

    x: (N, C, H, W), or (N, H, W, C) with layout = "nhwc". As in ONNX, strides are 1 where they are not given.
    """

    name = "nn.avg_pool2d"
    x = operand(FLOAT_TENSOR)
    count_include_pad = attr(BOOLEAN, default=False)
    y = result(FLOAT_TENSOR)

    def window_counts(self) -> np.ndarray:
        """(OH, OW): how many elements each window counts."""
        _, _, *size = self.image()
        pads, extents = self.attr("pads"), self.slide(size, self.attr("kernel"), self.attr("ceil_mode"))
        counts: list[np.ndarray] = []
        for d in range(2):
            first = np.arange(extents[d]) * self.attr("strides")[d]
            rows = first[:, None] + np.arange(self.attr("kernel")[d]) * self.attr("dilations")[d]
            inside = (pads[d], pads[d] + size[d])
            start, end = (0, inside[1] + pads[d + 2]) if self.attr("count_include_pad") else inside
            counts.append(((rows >= start) & (rows < end)).sum(axis=1))
        return np.outer(*counts)


class GlobalAvgPool(NnOp):
    """The mean over all spatial dimensions. x: (N, C, ...) -> (N, C, 1, ...), or with layout = "nhwc"
    (N, ..., C) -> (N, 1, ..., C)."""

    name = "nn.global_avg_pool"
    x = operand(FLOAT_TENSOR)
    layout = attr(LAYOUT, default="nchw")
    y = result(FLOAT_TENSOR)

    @property
    def spatial_axes(self) -> list[int]:
        rank = tensor_of(self.x).rank
        return list(range(1, rank - 1) if self.attr("layout") == "nhwc" else range(2, rank))

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        if x.rank < 3:
            raise self.error(f"x must have at least 3 dimensions, got {x}")
        return [
            TensorType(tuple(1 if d in self.spatial_axes else s for d, s in enumerate(x.shape)), x.element)
        ]
