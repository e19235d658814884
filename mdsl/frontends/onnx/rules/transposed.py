"""The rule for transposed convolution, of one to three spatial dimensions.

Each phase of the result, its positions modulo the stride, is a convolution with every stride-th element of the mirrored kernel (Shi et
al., "Is the deconvolution layer the same as a convolutional layer?", 2016). One convolution can make all phases as channels; its window
is then the largest that a phase has, and slides over every place that one of them needs. Where that multiplies many zeros, as on small
images and with a kernel that the stride does not divide, each phase is a convolution of its own. An image of one pixel has no
neighbours: its result is a product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import reversed_along, times, trimmed
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.rules.windows import image_sizes
from mdsl.frontends.onnx.windows import Windows, convolve, pad_axis, strided, windows_of
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, f32, f64

_NOTICEABLE = 1.1
"""How many times the multiplications of all phases one convolution for them may have: below, it gains more by being one."""


@converts("ConvTranspose")
def conv_transpose(node: Node) -> Value:
    """With k = phase + stride * m: y[stride * q + phase - low] = sum over m of x[q - m] w[phase + stride * m]."""
    x, sizes, groups = node.operand(0), image_sizes(node), node.attr("group", 1)
    weight = node.operand(1)
    c, _, *kernel = tensor_of(weight).shape
    if len(kernel) != len(sizes) or node.type().shape[1] not in (c, DYNAMIC) or groups < 1 or c % groups:
        raise node.malformed(f"weights {tensor_of(weight)} and group = {groups} do not fit {node.type()}")
    windows = windows_of(node, node.attr("kernel_shape", kernel), sizes)
    node.static(weight)
    low, high = _cut(node, windows, sizes)
    reach = [e - h for e, h in zip(windows.extents, high, strict=True)]
    weight, kernel = _spread_kernel(node, weight, windows)
    # A convolution adds its bias before it rounds to 16 bits.
    rounds_once = node.input(2) is None or tensor_of(x).element in (f32, f64)
    if groups == 1 and all(n == 1 for n in sizes) and rounds_once:
        return _of_one_pixel(node, x, weight, low, high)
    if DYNAMIC not in sizes and all(k >= s for k, s in zip(kernel, windows.strides, strict=True)):
        found = _Apart(node, x, weight, groups, windows.strides, low, reach)
        if found.pays():
            return found.interleaved(())
    return _together(node, x, weight, groups, windows.strides, low, reach)


def _together(
    node: Node,
    x: Value,
    weight: Value,
    groups: int,
    strides: Sequence[int],
    low: Sequence[int],
    reach: Sequence[int],
) -> Value:
    """All phases as channels of one convolution, which are then interleaved."""
    _, per_group, *kernel = tensor_of(weight).shape
    taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
    filters = _phases(node, weight, groups, taps, strides)
    # Which q are needed: those of the result's first and last element. The last element is reach - 1 behind the
    # place that x's last one starts at.
    before = [t - 1 - p // s for t, p, s in zip(taps, low, strides, strict=True)]
    behind = [(r - 1) // s for r, s in zip(reach, strides, strict=True)]
    x, slide = _around(node, x, taps, before, behind)
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


def _around(
    node: Node, x: Value, taps: Sequence[int], before: Sequence[int], behind: Sequence[int]
) -> tuple[Value, Windows]:
    """Windows of `taps` elements over x with so many zeros around it; where they are negative, x without elements that contribute to nothing."""
    for d, (low, high) in enumerate(zip(before, behind, strict=True)):
        if low < 0 or high < 0:
            x = trimmed(node, x, [2 + d], [max(0, -low)], [max(0, -high)], f"part{d}")
    ones = [1] * len(taps)
    return x, Windows(list(taps), ones, ones, [max(0, b) for b in before], [max(0, b) for b in behind])


@dataclass(frozen=True)
class _Apart:
    """Each phase as a convolution of its own: result r, and every stride-th one from there on."""

    node: Node
    x: Value
    weight: Value
    groups: int
    strides: Sequence[int]
    low: Sequence[int]
    reach: Sequence[int]

    @property
    def sizes(self) -> Sequence[int]:
        """Of x."""
        return tensor_of(self.x).shape[2:]

    @property
    def kernel(self) -> Sequence[int]:
        """Its sizes."""
        return tensor_of(self.weight).shape[2:]

    @property
    def out(self) -> list[int]:
        """The result's sizes."""
        each = zip(self.sizes, self.strides, self.reach, self.low, strict=True)
        return [(n - 1) * s + r - cut for n, s, r, cut in each]

    @property
    def counts(self) -> list[int]:
        """The sizes of a phase, or one more than that."""
        return [-(-o // s) for o, s in zip(self.out, self.strides, strict=True)]

    def pays(self) -> bool:
        """True if one convolution would multiply noticeably more zeros."""
        shared = [
            s * -(-k // s) * ((cut + o - 1) // s - cut // s + 1)
            for s, k, cut, o in zip(self.strides, self.kernel, self.low, self.out, strict=True)
        ]
        own = [n * k for n, k in zip(self.counts, self.kernel, strict=True)]
        return prod(self.strides) > 1 and prod(shared) > _NOTICEABLE * prod(own)

    def interleaved(self, phase: tuple[int, ...]) -> Value:
        """The results whose first positions have the phases `phase`, all positions of the other dimensions."""
        node, d = self.node, len(phase)
        if d == len(self.strides):
            return self._one(phase)
        parts = [self.interleaved((*phase, r)) for r in range(self.strides[d])]
        name = "_".join(["whole", *map(str, phase)]) if phase else None
        n, o, *sizes = node.sizes(parts[0])
        axis = 2 + d
        if len(parts) > 1:
            one = (n, o, *sizes[: d + 1], 1, *sizes[d + 1 :])
            apart = [node.reshape(part, one, "apart") for part in parts]
            joined = node.build(nn.Concat(*apart, axis=axis + 1), "joined")
            sizes[d] = full = self.counts[d] * len(parts)
            trim = full > self.out[d]
            whole = node.reshape(joined, (n, o, *sizes), "interleaved" if trim else name)
            return strided(node, whole, axis, 0, self.out[d], 1, name) if trim else whole
        return parts[0]

    def _one(self, phase: Sequence[int]) -> Value:
        node, groups, rank = self.node, self.groups, len(phase)
        start = [(r + cut) % s for r, cut, s in zip(phase, self.low, self.strides, strict=True)]
        offset = [(r + cut) // s for r, cut, s in zip(phase, self.low, self.strides, strict=True)]
        taps = [len(range(p, k, s)) for p, k, s in zip(start, self.kernel, self.strides, strict=True)]
        before = [t - 1 - o for t, o in zip(taps, offset, strict=True)]
        behind = [n + o - size for n, o, size in zip(self.counts, offset, self.sizes, strict=True)]
        weight = self.weight
        for d, (p, t, s) in enumerate(zip(start, taps, self.strides, strict=True)):
            weight = strided(node, weight, 2 + d, p, t, s, "seen")
        c, per_group = tensor_of(weight).shape[:2]
        weight = node.reshape(weight, (groups, c // groups, per_group, *taps), "taps")
        weight = node.build(nn.Transpose(weight, perm=[0, 2, 1, *range(3, 3 + rank)]), "transposed")
        weight = node.reshape(weight, (groups * per_group, c // groups, *taps), "filters")
        mirrored = [2 + d for d, t in enumerate(taps) if t > 1]
        if mirrored:
            weight = reversed_along(node, weight, mirrored, "mirrored")
        x, slide = _around(node, self.x, taps, before, behind)
        name = "_".join(["phase", *map(str, phase)])
        return convolve(node, x, weight, node.input(2), slide, groups, name)


def _of_one_pixel(node: Node, x: Value, weight: Value, low: Sequence[int], high: Sequence[int]) -> Value:
    """Each element of the kernel, times the pixel's channels: a product of matrices."""
    n = node.sizes(x)[0]
    c, o, *kernel = tensor_of(weight).shape
    pixels = node.reshape(x, (n, c), "pixels")
    product = node.build(
        nn.Matmul(pixels, node.reshape(weight, (c, o * prod(kernel)), "columns")), "products"
    )
    y = node.reshape(product, (n, o, *kernel), "full")
    for d, h in enumerate(high):
        y = pad_axis(node, y, 2 + d, 0, max(0, -h), f"longer{d}")
    bias = node.input(2)
    cut = [(p, max(0, h)) for p, h in zip(low, high, strict=True)]
    if any(map(any, cut)):
        axes = range(2, 2 + len(kernel))
        y = trimmed(node, y, axes, [p for p, _ in cut], [h for _, h in cut], None if bias is None else "cut")
    if bias is None:
        return y
    return node.build(nn.Add(y, node.reshape(bias, (o, *[1] * len(kernel)), "bias")))


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
    weight = node.build(nn.Transpose(weight, perm=order), "transposed")
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
    transposed = node.build(nn.Transpose(split, perm=order), "interleaved")
    full = [times(node, [size, s]) for size, s in zip(sizes, strides, strict=True)]
    if not any(low) and not any(high):
        return node.reshape(transposed, (n, channels, *full))
    whole = node.reshape(transposed, (n, channels, *full), "full")
    return trimmed(node, whole, range(2, 2 + rank), low, high, None)
