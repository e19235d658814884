"""Rules for convolution and pooling, of one to three spatial dimensions."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.rules.norm import p_norm
from mdsl.frontends.onnx.windows import (
    Windows,
    avg_pool,
    convolve,
    max_pool,
    places,
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
