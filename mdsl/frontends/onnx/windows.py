"""Convolution and pooling over one or three dimensions, made of 2-D ones.

One dimension is two of which the first is 1. Of three, a pooling treats the last two first and then the first,
since the largest element and the sum of a box are those of its rows'; a convolution takes what its window sees
along the depth as further channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product as points
from typing import Any

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import product
from mdsl.frontends.onnx.building import times
from mdsl.frontends.onnx.registry import Node
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC

_LARGEST = 2**31 - 1
"""Of the numbers that describe a window: products of some of them are 64-bit offsets."""


@dataclass(frozen=True)
class Windows:
    """How a window slides; one entry a spatial dimension."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    low: list[int]
    high: list[int]
    ceil: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def extents(self) -> list[int]:
        """From a window's first element to its last."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def slide(self, sizes: Sequence[int]) -> list[int]:
        """How many windows fit into each size."""
        found: list[int] = []
        for size, extent, stride, low, high in zip(
            sizes, self.extents, self.strides, self.low, self.high, strict=True
        ):
            room = size + low + high - extent
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            found.append(count - 1 if self.ceil and (count - 1) * stride >= size + low else count)
        return found

    def part(self, dims: Sequence[int]) -> Windows:
        """The same in some of the dimensions."""
        return self._each(lambda values, _: [values[d] for d in dims])

    def with_ones(self, before: int, behind: int) -> Windows:
        """The same with further dimensions of 1 before and behind, in which nothing slides."""
        return self._each(lambda values, still: [*[still] * before, *values, *[still] * behind])

    def _each(self, change: Callable[[list[int], int], list[int]]) -> Windows:
        """All lists changed, each by itself and the value that it has where nothing slides."""
        kernel, strides, dilations = (change(v, 1) for v in (self.kernel, self.strides, self.dilations))
        return Windows(kernel, strides, dilations, change(self.low, 0), change(self.high, 0), self.ceil)

    @property
    def pads(self) -> list[int]:
        return [*self.low, *self.high]


def windows_of(node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Windows:
    """The windows that the node's attributes describe, over an image of `sizes`."""
    rank = len(sizes)

    def numbers(name: str, default: int, count: int = rank) -> list[int]:
        found = list(node.attr(name, [default] * count))
        if len(found) != count:
            raise node.malformed(f"{name} must hold {count} integers, got {found}")
        return found

    if len(kernel) != rank:
        raise node.malformed(f"kernel_shape must hold {rank} integers, got {list(kernel)}")
    strides, dilations, pads = numbers("strides", 1), numbers("dilations", 1), numbers("pads", 0, 2 * rank)
    if min([*kernel, *strides, *dilations], default=1) < 1:
        raise node.malformed("kernel_shape, strides and dilations must be at least 1")
    if max([*kernel, *strides, *dilations], default=1) > _LARGEST:
        raise node.unsupported(f"kernel_shape, strides and dilations beyond {_LARGEST}")
    mode = node.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = [0] * 2 * rank
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same(node, mode, kernel, strides, dilations, sizes)
    elif mode != "NOTSET":
        raise node.malformed(f"auto_pad = {mode} is unknown")
    padded = [
        size if size == DYNAMIC else max(size + low + high, 0)
        for size, low, high in zip(sizes, pads[:rank], pads[rank:], strict=True)
    ]
    node.check_size([*node.type().shape[:-rank], *padded], node.type().element)
    ceil = bool(node.attr("ceil_mode", 0))
    return Windows(list(kernel), strides, dilations, pads[:rank], pads[rank:], ceil)


def _same(
    node: Node,
    mode: str,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    sizes: Sequence[int],
) -> list[int]:
    """Pads with which there are size / stride windows, rounded up; an odd one at the end, or the start."""
    totals: list[int] = []
    for k, stride, dilation, size in zip(kernel, strides, dilations, sizes, strict=True):
        extent = (k - 1) * dilation + 1
        if size == DYNAMIC and stride > 1:
            raise node.unsupported(f"auto_pad = {mode} needs known sizes, got {node.type()}")
        totals.append(max(0, (-(-size // stride) - 1) * stride + extent - size) if stride > 1 else extent - 1)
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]


# Convolution ----------------------------------------------------------------------------------------------


def convolve(
    node: Node, x: Value, weight: Value, bias: Value | None, windows: Windows, groups: int, suffix: str | None
) -> Value:
    """The convolution of x (N, C, sizes..) with weight (O, C / groups, kernel..), of 1 to 3 spatial dimensions."""
    if windows.rank == 1:
        n, c, length = node.sizes(x)
        image = node.reshape(x, (n, c, 1, length), "image")
        o, per_group, k = tensor_of(weight).shape
        filters = node.reshape(weight, (o, per_group, 1, k), "filters")
        y = convolve(node, image, filters, bias, windows.with_ones(1, 0), groups, "features")
        return node.reshape(y, (n, o, node.sizes(y)[3]), suffix)
    if windows.rank == 3:
        return _convolve_volume(node, x, weight, bias, windows, groups, suffix)
    op = nn.Conv2d(
        x,
        weight,
        bias,
        groups=groups,
        strides=windows.strides,
        pads=windows.pads,
        dilations=windows.dilations,
    )
    return node.build(op, suffix)


def _convolve_volume(
    node: Node, x: Value, weight: Value, bias: Value | None, windows: Windows, groups: int, suffix: str | None
) -> Value:
    """(N, C, D, H, W) as N * OD images, whose channels are (C, KD): what the window sees along the depth."""
    n, _, _, h, w = node.sizes(x)
    _, c, depth, _, _ = tensor_of(x).shape
    o, per_group, kd, kh, kw = tensor_of(weight).shape
    if DYNAMIC in (c, depth):
        raise node.unsupported(f"a convolution of volumes needs a known depth, got {node.type()}")
    (od,) = windows.part([0]).slide([depth])
    padded = pad_axis(node, x, 2, windows.low[0], windows.high[0], "deeper")
    layers = [
        node.reshape(strided(node, padded, 2, k * windows.dilations[0], od, windows.strides[0], f"layer{k}"),
                     (n, c, 1, od, h, w), f"layer{k}_row")
        for k in range(kd)
    ]  # fmt: skip
    stacked = layers[0] if kd == 1 else node.build(nn.Concat(*layers, axis=2), "layers")
    transposed = node.build(nn.Transpose(stacked, perm=[0, 3, 1, 2, 4, 5]), "slices")
    images = node.reshape(transposed, (times(node, [n, od]), c * kd, h, w), "images")
    filters = node.reshape(weight, (o, per_group * kd, kh, kw), "filters")
    y = convolve(node, images, filters, bias, windows.part([1, 2]), groups, "features")
    oh, ow = node.sizes(y)[2:]
    return node.build(
        nn.Transpose(node.reshape(y, (n, od, o, oh, ow), "slabs"), perm=[0, 2, 1, 3, 4]), suffix
    )


def pad_axis(node: Node, x: Value, axis: int, low: int, high: int, suffix: str) -> Value:
    """`x` with zeros before and behind it along one axis."""
    if not low and not high:
        return x
    rank = tensor_of(x).rank
    pads = [0] * 2 * rank
    pads[axis], pads[rank + axis] = low, high
    return node.build(nn.Pad(x, pads=pads), suffix)


def strided(node: Node, x: Value, axis: int, start: int, count: int, step: int, suffix: str | None) -> Value:
    """`count` slices of `x` along one axis, from `start` on."""
    if (start, step) == (0, 1) and tensor_of(x).shape[axis] == count:
        return x
    end = start + (count - 1) * step + 1
    return node.build(nn.Slice(x, starts=[start], ends=[end], axes=[axis], steps=[step]), suffix)


# Pooling --------------------------------------------------------------------------------------------------


def max_pool(node: Node, x: Value, windows: Windows, suffix: str | None) -> Value:
    """The largest element of each window of x (N, C, sizes..), of 1 to 3 spatial dimensions."""
    return _pool(node, x, windows, suffix, nn.MaxPool2d, {})


def avg_pool(node: Node, x: Value, windows: Windows, count_include_pad: bool, suffix: str | None) -> Value:
    """The mean of each window of x (N, C, sizes..), of 1 to 3 spatial dimensions."""
    return _pool(node, x, windows, suffix, nn.AvgPool2d, {"count_include_pad": count_include_pad})


def _pool(
    node: Node,
    x: Value,
    windows: Windows,
    suffix: str | None,
    kind: type[nn.MaxPool2d | nn.AvgPool2d],
    extra: dict[str, Any],
) -> Value:
    if windows.rank == 2:
        extra = {**extra, "strides": windows.strides, "pads": windows.pads, "dilations": windows.dilations}
        return node.build(kind(x, kernel=windows.kernel, ceil_mode=windows.ceil, **extra), suffix)
    if windows.rank == 1:
        n, c, length = node.sizes(x)
        image = node.reshape(x, (n, c, 1, length), "image")
        y = _pool(node, image, windows.with_ones(1, 0), "pooled", kind, extra)
        return node.reshape(y, (n, c, node.sizes(y)[3]), suffix)
    n, c, *sizes = tensor_of(x).shape
    if DYNAMIC in (c, *sizes):
        raise node.unsupported(f"a pooling of volumes needs known sizes, got {node.type()}")
    images = node.reshape(x, (n, c * sizes[0], *sizes[1:]), "images")
    flat = _pool(node, images, windows.part([1, 2]), "rows", kind, extra)
    oh, ow = tensor_of(flat).shape[2:]
    columns = node.reshape(flat, (n, c, sizes[0], oh * ow), "columns")
    y = _pool(node, columns, windows.part([0]).with_ones(0, 1), "pooled", kind, extra)
    return node.reshape(y, (n, c, tensor_of(y).shape[2], oh, ow), suffix)


# Places ---------------------------------------------------------------------------------------------------


def places(windows: Windows, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """What each window sees, (windows, elements of a window): row-major positions in an image of `sizes`, and
    whether they lie in it (where not, the position is 0)."""
    counts = windows.slide(sizes)
    slides = zip(counts, windows.kernel, windows.strides, windows.dilations, windows.low, strict=True)
    where = [
        np.arange(count)[:, None] * stride + np.arange(k) * dilation - low
        for count, k, stride, dilation, low in slides
    ]
    inside = [(w >= 0) & (w < size) for w, size in zip(where, sizes, strict=True)]
    position = np.zeros((product(counts), product(windows.kernel)), np.int64)
    valid = np.ones_like(position, bool)
    for row, at in enumerate(points(*map(range, counts))):
        grids = np.meshgrid(*(w[i] for w, i in zip(where, at, strict=True)), indexing="ij")
        flags = np.meshgrid(*(f[i] for f, i in zip(inside, at, strict=True)), indexing="ij")
        valid[row] = np.logical_and.reduce([f.ravel() for f in flags])
        flat = np.ravel_multi_index([g.ravel() for g in grids], tuple(sizes), mode="clip")
        position[row] = np.where(valid[row], flat, 0)
    return position, valid
