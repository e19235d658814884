"""Meaning of nn's layers: convolution, matrix products, normalisation, pooling, softmax."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import Windowed
from mdsl.ir.core import Op
from mdsl.reference.extrema import maximum
from mdsl.reference.nn.numbers import mean, narrow, wide
from mdsl.reference.registry import semantics

Array = np.ndarray


# Windows --------------------------------------------------------------------------------------------------


def _channels_first(op: Windowed, x: Array) -> Array:
    return np.moveaxis(x, 3, 1) if op.channels_last else x


def _in_layout(op: Windowed, y: Array) -> Array:
    return np.moveaxis(y, 1, 3) if op.channels_last else y


def _windows(op: Windowed, x: Array, kernel: tuple[int, int], fill: float, ceil: bool = False) -> Array:
    """(N, C, OH, OW, KH, KW): the windows of the (N, C, H, W) image `x` with a border of `fill`."""
    (sh, sw), (dh, dw) = op.attr("strides"), op.attr("dilations")
    top, left, bottom, right = op.attr("pads")
    oh, ow = op.slide(x.shape[2:], kernel, ceil)
    window = ((kernel[0] - 1) * dh + 1, (kernel[1] - 1) * dw + 1)
    # With `ceil` the last window may reach past the padding.
    below = max(bottom, (oh - 1) * sh + window[0] - x.shape[2] - top)
    beside = max(right, (ow - 1) * sw + window[1] - x.shape[3] - left)
    padded = np.pad(x, ((0, 0), (0, 0), (top, below), (left, beside)), constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(2, 3))  # type: ignore[call-overload]
    return view[:, :, ::sh, ::sw, ::dh, ::dw][:, :, :oh, :ow]


@semantics("nn.conv2d")
def conv2d(op: nn.Conv2d, x: Array, weight: Array, bias: Array | None = None) -> Array:
    groups = op.attr("groups")
    windows = _windows(op, _channels_first(op, wide(x)), weight.shape[2:], 0)
    n, c, *rest = windows.shape
    grouped = windows.reshape(n, groups, c // groups, *rest)
    kernels = wide(weight).reshape(groups, len(weight) // groups, *weight.shape[1:])
    y = np.einsum("ngchwij,gocij->ngohw", grouped, kernels, optimize=True)
    y = y.reshape(n, len(weight), *y.shape[3:])
    if bias is not None:
        y = y + wide(bias)[:, None, None]
    return narrow(op, _in_layout(op, y))


@semantics("nn.max_pool2d")
def max_pool2d(op: nn.MaxPool2d, x: Array) -> Array:
    image, kernel = _channels_first(op, wide(x)), tuple(op.attr("kernel"))
    windows = _windows(op, image, kernel, maximum.neutral(image.dtype), op.attr("ceil_mode"))
    return narrow(op, _in_layout(op, maximum.reduce(windows, axis=(4, 5))))


@semantics("nn.argmax_pool2d")
def argmax_pool2d(op: nn.ArgMaxPool2d, x: Array) -> Array:
    image, kernel = _channels_first(op, wide(x)), tuple(op.attr("kernel"))
    windows = _windows(op, image, kernel, maximum.neutral(image.dtype), op.attr("ceil_mode"))
    return narrow(op, _in_layout(op, windows.reshape(*windows.shape[:4], -1).argmax(axis=4)))


@semantics("nn.max_pool2d_grad")
def max_pool2d_grad(op: nn.MaxPool2dGrad, places: Array, grad: Array) -> Array:
    places, grad = _channels_first(op, places), _channels_first(op, wide(grad))
    n, c, *size = op.image()
    (sh, sw), (dh, dw), (kh, kw) = op.attr("strides"), op.attr("dilations"), op.attr("kernel")
    top, left, *_ = op.attr("pads")
    oh, ow = grad.shape[2:]
    reach = (
        max(top + size[0], (oh - 1) * sh + (kh - 1) * dh + 1),
        max(left + size[1], (ow - 1) * sw + (kw - 1) * dw + 1),
    )
    image = np.zeros((n, c, *reach))
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
            image[:, :, rows, columns] += np.where(places == i * kw + j, grad, 0)
    return narrow(op, _in_layout(op, image[:, :, top : top + size[0], left : left + size[1]]))


@semantics("nn.avg_pool2d")
def avg_pool2d(op: nn.AvgPool2d, x: Array) -> Array:
    image, kernel, ceil = _channels_first(op, wide(x)), tuple(op.attr("kernel")), op.attr("ceil_mode")
    sums = _windows(op, image, kernel, 0, ceil).sum(axis=(4, 5))
    return narrow(op, _in_layout(op, sums / op.window_counts()))


@semantics("nn.global_avg_pool")
def global_avg_pool(op: nn.GlobalAvgPool, x: Array) -> Array:
    return narrow(op, mean(wide(x), tuple(op.spatial_axes), keepdims=True))


# Matrix products ------------------------------------------------------------------------------------------


@semantics("nn.matmul")
def matmul(op: Op, a: Array, b: Array) -> Array:
    return narrow(op, np.matmul(wide(a), wide(b)))


@semantics("nn.linear")
def linear(op: Op, x: Array, weight: Array, bias: Array | None = None) -> Array:
    y = np.matmul(wide(x), wide(weight).T)
    return narrow(op, y if bias is None else y + wide(bias))


# Normalisation --------------------------------------------------------------------------------------------


@semantics("nn.batch_norm")
def batch_norm(op: nn.BatchNorm, x: Array, *parameters: Array) -> Array:
    shape = [1] * x.ndim
    shape[op.channel_axis] = -1
    scale, shift, mean, variance = (wide(p).reshape(shape) for p in parameters)
    return narrow(op, (wide(x) - mean) / np.sqrt(variance + op.attr("epsilon")) * scale + shift)


@semantics("nn.layer_norm")
def layer_norm(op: nn.LayerNorm, x: Array, scale: Array, shift: Array | None = None) -> Array:
    axes = tuple(range(op.attr("axis") % x.ndim, x.ndim))
    centred = wide(x) - wide(x).mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    y = centred / np.sqrt(variance + op.attr("epsilon")) * wide(scale)
    return narrow(op, y if shift is None else y + wide(shift))


@semantics("nn.softmax")
def softmax(op: Op, x: Array) -> Array:
    axis = op.attr("axis")
    exponentials = np.exp(wide(x) - wide(x).max(axis=axis, keepdims=True))
    return narrow(op, exponentials / exponentials.sum(axis=axis, keepdims=True))


@semantics("nn.log_softmax")
def log_softmax(op: Op, x: Array) -> Array:
    axis = op.attr("axis")
    centred = wide(x) - wide(x).max(axis=axis, keepdims=True)
    return narrow(op, centred - np.log(np.exp(centred).sum(axis=axis, keepdims=True)))
