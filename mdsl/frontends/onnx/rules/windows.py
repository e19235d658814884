"""Rules for convolution and pooling, of one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import reversed_along, times, trimmed
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.rules.norm import p_norm
from mdsl.frontends.onnx.windows import (
    Windows,
    avg_pool,
    convolve,
    max_pool,
    pad_axis,
    places,
    strided,
    windows_of,
)
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, dtype_of, is_float


def image_sizes(node: Node, which: int = 0) -> tuple[int, ...]:
    """The spatial sizes of an operand (N, C, sizes..)."""
    shape = node.type(which).shape
    if not 3 <= len(shape) <= 5:
        raise node.unsupported(f"1 to 3 spatial dimensions are supported, got {node.type(which)}")
    return shape[2:]


# Convolution ----------------------------------------------------------------------------------------------


@converts("Conv")
def conv(node: Node) -> Value:
    sizes, weight = image_sizes(node), node.operand(1)
    shape = tensor_of(weight).shape
    if len(shape) != 2 + len(sizes) or DYNAMIC in shape:
        raise node.unsupported(
            f"its weights must be {2 + len(sizes)} known dimensions, got {tensor_of(weight)}"
        )
    if list(node.attr("kernel_shape", shape[2:])) != list(shape[2:]):
        raise node.malformed(f"kernel_shape = {node.attr('kernel_shape')} is not that of {tensor_of(weight)}")
    windows = windows_of(node, shape[2:], sizes)
    return convolve(node, node.operand(0), weight, node.input(2), windows, node.attr("group", 1), None)


@converts("ConvTranspose")
def conv_transpose(node: Node) -> Value:
    """Each phase of the result, its positions modulo the stride, is a convolution with every stride-th element
    of the mirrored kernel: one convolution makes them all as channels, which are then interleaved (Shi et al.,
    "Is the deconvolution layer the same as a convolutional layer?", 2016).

    With k = phase + stride * m: y[stride * q + phase - low] = sum over m of x[q - m] w[phase + stride * m].
    """
    x, sizes, groups = node.operand(0), image_sizes(node), node.attr("group", 1)
    weight = node.operand(1)
    c, per_group, *kernel = tensor_of(weight).shape
    if len(kernel) != len(sizes) or node.type().shape[1] not in (c, DYNAMIC) or groups < 1 or c % groups:
        raise node.malformed(f"weights {tensor_of(weight)} and group = {groups} do not fit {node.type()}")
    windows = windows_of(node, node.attr("kernel_shape", kernel), sizes)
    node.static(weight)
    low, high = _cut(node, windows, sizes)
    reach = [e - h for e, h in zip(windows.extents, high, strict=True)]
    weight, kernel = _spread_kernel(node, weight, windows)
    strides = windows.strides
    taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
    filters = _phases(node, weight, groups, taps, strides)
    # Which q are needed: those of the result's first and last element. The last element is reach - 1 behind the
    # place that x's last one starts at.
    before = [t - 1 - p // s for t, p, s in zip(taps, low, strides, strict=True)]
    behind = [(r - 1) // s for r, s in zip(reach, strides, strict=True)]
    for d in range(len(sizes)):  # negative: elements that contribute to nothing
        if before[d] < 0 or behind[d] < 0:
            x = trimmed(node, x, [2 + d], [max(0, -before[d])], [max(0, -behind[d])], f"part{d}")
    ones = [1] * len(sizes)
    slide = Windows(taps, ones, ones, [max(0, b) for b in before], [max(0, b) for b in behind])
    bias = node.input(2)
    phases = prod(strides)
    if bias is not None and phases > 1:
        column = node.reshape(bias, (groups * per_group, 1), "bias_column")
        repeated = node.broadcast(column, (groups * per_group, phases), "bias_phases")
        bias = node.reshape(repeated, (groups * per_group * phases,), "bias")
    if phases == 1:
        return convolve(node, x, filters, bias, slide, groups, None)
    y = convolve(node, x, filters, bias, slide, groups, "phases")
    first = [p % s for p, s in zip(low, strides, strict=True)]
    rest = [-r % s for r, s in zip(reach, strides, strict=True)]
    return _interleave(node, y, groups * per_group, strides, first, rest)


def _cut(node: Node, windows: Windows, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """What is cut off at the start and at the end of the full result; negative at the end: what is added."""
    extra = list(node.attr("output_padding", [0] * len(sizes)))
    mode, wanted = node.attr("auto_pad", "NOTSET"), node.attr("output_shape")
    full = [(n - 1) * s + e for n, s, e in zip(sizes, windows.strides, windows.extents, strict=True)]
    if wanted is not None:
        if DYNAMIC in sizes:
            raise node.unsupported(f"output_shape needs known sizes, got {node.type()}")
        more = [f - o for f, o in zip(full, list(wanted)[-len(sizes) :], strict=True)]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):  # the result is stride times as large as x
        more = [e - s for e, s in zip(windows.extents, windows.strides, strict=True)]
    else:
        more = []
    low, high = windows.low, [h - e for h, e in zip(windows.high, extra, strict=True)]
    if more:
        total = [max(0, m + e) for m, e in zip(more, extra, strict=True)]
        low = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        high = [m - p for m, p in zip(more, low, strict=True)]
    out = [f - p - h for n, f, p, h in zip(sizes, full, low, high, strict=True) if n != DYNAMIC]
    if min(out, default=1) < 1 or min(low) < 0:
        raise node.unsupported(f"its result would have the sizes {out}")
    return low, high


def _spread_kernel(node: Node, weight: Value, windows: Windows) -> tuple[Value, list[int]]:
    """The kernel with zeros between its elements, so that its dilation is 1; and its sizes."""
    for d, dilation in enumerate(windows.dilations):
        shape = list(tensor_of(weight).shape)
        axis, k = 2 + d, shape[2 + d]
        if dilation == 1 or k == 1:
            continue
        split = node.reshape(weight, (*shape[: axis + 1], 1, *shape[axis + 1 :]), f"split{d}")
        padded = pad_axis(node, split, axis + 1, 0, dilation - 1, f"spread{d}")
        merged = node.reshape(padded, (*shape[:axis], k * dilation, *shape[axis + 1 :]), f"merged{d}")
        weight = strided(node, merged, axis, 0, (k - 1) * dilation + 1, 1, f"dilated{d}")
    return weight, list(tensor_of(weight).shape[2:])


def _phases(node: Node, weight: Value, groups: int, taps: Sequence[int], strides: Sequence[int]) -> Value:
    """(C, O / groups, kernel..) as (O * phases, C / groups, taps..), mirrored: a convolution's weights."""
    c, per_group, *kernel = tensor_of(weight).shape
    rank = len(kernel)
    for d, (k, t, s) in enumerate(zip(kernel, taps, strides, strict=True)):
        weight = pad_axis(node, weight, 2 + d, 0, t * s - k, f"whole{d}")
    split = [n for pair in zip(taps, strides, strict=True) for n in pair]
    weight = node.reshape(weight, (groups, c // groups, per_group, *split), "taps")
    order = [0, 2, *range(4, 4 + 2 * rank, 2), 1, *range(3, 3 + 2 * rank, 2)]
    weight = node.build(nn.Transpose(weight, perm=order), "turned")
    weight = node.reshape(weight, (groups * per_group * prod(strides), c // groups, *taps), "filters")
    mirrored = [2 + d for d, t in enumerate(taps) if t > 1]
    return reversed_along(node, weight, mirrored, "mirrored") if mirrored else weight


def _interleave(
    node: Node, y: Value, channels: int, strides: Sequence[int], low: Sequence[int], high: Sequence[int]
) -> Value:
    """(N, channels * phases, sizes..) as (N, channels, sizes * strides..), without the first `low` and the last
    `high` elements."""
    n, _, *sizes = node.sizes(y)
    rank = len(sizes)
    split = node.reshape(y, (n, channels, *strides, *sizes), "phase_images")
    order = [0, 1, *(d for i in range(rank) for d in (2 + rank + i, 2 + i))]
    turned = node.build(nn.Transpose(split, perm=order), "interleaved")
    full = [times(node, [size, s]) for size, s in zip(sizes, strides, strict=True)]
    if not any(low) and not any(high):
        return node.reshape(turned, (n, channels, *full))
    whole = node.reshape(turned, (n, channels, *full), "full")
    return trimmed(node, whole, range(2, 2 + rank), low, high, None)


# Pooling --------------------------------------------------------------------------------------------------


@converts("AveragePool")
def average_pool(node: Node) -> Value:
    windows = windows_of(node, node.attr("kernel_shape"), image_sizes(node))
    return avg_pool(node, node.operand(0), windows, bool(node.attr("count_include_pad", 0)), None)


@converts("MaxPool")
def max_pooling(node: Node) -> list[Value | None]:
    windows = windows_of(node, node.attr("kernel_shape"), image_sizes(node))
    y = max_pool(node, node.operand(0), windows, None)
    return [y, _positions(node, windows)] if node.wanted(1) else [y]


def _positions(node: Node, windows: Windows) -> Value:
    """Where each window's largest element stands in the whole input: the first of those that its elements,
    gathered into a row, have. With storage_order = 1 columns count before rows."""
    x, (n, c, *sizes) = node.operand(0), node.type().shape
    node.static(x)
    position, inside = places(windows, sizes)
    count, elements = position.shape
    rows = node.expr(x).reshape((n * c, prod(sizes)))
    seen = rows.of(nn.Gather, node.const(position.ravel(), "places"), axis=1)
    seen = seen.reshape((n * c, count, elements))
    if not inside.all():
        lowest = -np.inf if is_float(node.type()) else np.iinfo(dtype_of(node.type().element)).min
        seen = seen.where(node.expr(node.const(inside, "inside")), lowest)
    at = seen.of(nn.ArgMax, axis=2, keepdims=False) + np.arange(count) * elements
    if node.attr("storage_order", 0):
        place = np.unravel_index(position, sizes)
        position = np.ravel_multi_index(place, tuple(sizes), order="F")
    table = node.expr(node.const(position.ravel().astype(np.int64), "table"))
    indices = table.of(nn.Gather, at, axis=0) + np.arange(n * c)[:, None] * prod(sizes)
    shape = (n, c, *windows.slide(sizes))
    return node.build(nn.Reshape(indices.value, results=[indices.type.with_shape(shape)]))


@converts("LpPool")
def lp_pool(node: Node) -> Value:
    """The p-norm of each window: p-th root of the sum of |x|^p, which is the mean over windows that padding
    fills up, times their size."""
    sizes = image_sizes(node)
    windows = windows_of(node, node.attr("kernel_shape"), sizes)
    if windows.ceil:
        if DYNAMIC in sizes:
            raise node.unsupported(f"ceil_mode needs known sizes, got {node.type()}")
        reach = zip(windows.slide(sizes), windows.strides, windows.extents, sizes, windows.low, strict=True)
        high = [max(0, (o - 1) * s + e - n - low) for o, s, e, n, low in reach]
        windows = replace(windows, high=high, ceil=False)

    def total(powers: Expr) -> Expr:
        mean = node.expr(avg_pool(node, powers.value, windows, True, "mean"))
        return mean * prod(windows.kernel)

    return p_norm(node.expr(0), node.attr("p", 2), total).value


@converts("GlobalAveragePool")
def global_average_pool(node: Node) -> Value:
    return node.build(nn.GlobalAvgPool(node.operand(0)))


@converts("GlobalMaxPool")
def global_max_pool(node: Node) -> Value:
    return node.build(nn.Reduce(node.operand(0), kind="max", axes=list(range(2, node.type().rank))))


@converts("GlobalLpPool")
def global_lp_pool(node: Node) -> Value:
    axes = range(2, node.type().rank)
    return p_norm(node.expr(0), node.attr("p", 2), lambda powers: powers.reduce("sum", axes)).value


@converts("MaxUnpool")
def max_unpool(node: Node) -> Value:
    """Zeros, and x where the indices of a MaxPool say that it stood."""
    x, indices = node.operand(0), node.operand(1)
    n, c, *sizes = node.type().shape
    node.static(x)
    kernel, rank = node.attr("kernel_shape"), len(sizes)
    strides, pads = node.attr("strides", [1] * rank), node.attr("pads", [0] * 2 * rank)
    natural = [
        (size - 1) * s + k - low - high
        for size, s, k, low, high in zip(sizes, strides, kernel, pads[:rank], pads[rank:], strict=True)
    ]
    shape = (n, c, *natural)
    if node.input(2) is not None:
        shape = tuple(node.ints(2, "output_shape"))
        if len(shape) != rank + 2:
            raise node.malformed(f"output_shape must hold {rank + 2} integers, got {list(shape)}")
    zeros = node.broadcast(node.const(0, "zero", x.type), (prod((n, c, *natural)),), "zeros")
    flat = [node.reshape(v, (tensor_of(v).size,), s) for v, s in ((x, "values"), (indices, "places"))]
    filled = node.build(nn.Scatter(zeros, flat[1], flat[0], axis=0), "filled")
    if shape == (n, c, *natural):
        return node.reshape(filled, shape)
    small = node.reshape(filled, (n, c, *natural), "small")
    more = [max(0, a - b) for a, b in zip(shape, (n, c, *natural), strict=True)]
    return node.build(nn.Pad(small, pads=[*[0] * len(shape), *more]))
