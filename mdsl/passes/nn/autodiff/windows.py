"""autodiff: convolutions and poolings.

An image's gradient is computed window by window as well: with the result's gradient spread out by the stride, and a border
of zeros as wide as the window, each place of the image sees in one window all the results that it is part of, in
opposite order (Dumoulin, Visin: A guide to convolution arithmetic for deep learning, 2016). Of a convolution with strides, places that are
a stride apart see the gradient itself through the same elements of the filters, and the others only zeros: so each phase of places is
a smaller convolution, and their results are interleaved (Shi et al.: Is the deconvolution layer the same as a convolutional
layer?, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import Windowed
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64
from mdsl.passes.nn.autodiff.build import Adjoint, Partials, vjp

# Convolution ----------------------------------------------------------------------------------------------


@vjp("nn.conv2d")
def conv2d(a: Adjoint, op: nn.Conv2d, g: Value) -> Partials:
    partials: list[Value | None] = [_image_gradient(a, op, g), _weight_gradient(a, op, g)]
    if op.bias is not None:
        channel = 3 if op.channels_last else 1
        partials.append(a.sum(g, [d for d in range(4) if d != channel], keepdims=False))
    return partials


def _image_gradient(a: Adjoint, op: nn.Conv2d, g: Value) -> Value:
    """For each phase of places a convolution of the gradient with what it sees of the filters, flipped, inputs and outputs exchanged
    in each group."""
    groups = op.attr("groups")
    out, per_group, *kernel = tensor_of(op.weight).shape
    filters = a.reshape(op.weight, (groups, out // groups, per_group, *kernel), "groups")
    filters = a.transpose(filters, [0, 2, 1, 3, 4], "exchanged")
    filters = a.reshape(filters, (groups * per_group, out // groups, *kernel), "filters")
    size = op.image()[2:]
    rows, columns = (_phases(op, d) for d in range(2))
    first = 1 if op.channels_last else 2
    lines = [
        a.interleave([_seen(a, op, g, filters, (row, column)) for column in columns], first + 1, size[1])
        if row.taps
        else None
        for row in rows
    ]
    found = a.interleave(lines, first, size[0])
    return a.zeros(tensor_of(op.x)) if found is None else found


@dataclass(frozen=True)
class _Phase:
    """The places of an image, a stride apart, that see elements `taps` of the filters' rows or columns: in the order of the results that
    they are part of, which are `dilation` apart, the first place from result number `start` on; `count` places."""

    taps: range
    dilation: int
    start: int
    count: int


def _phases(op: nn.Conv2d, d: int) -> list[_Phase]:
    """The phases of dimension `d`: of the first places, as many as the stride. Place i is part of result o with element k of the filters
    if i + pad = o * stride + k * dilation."""
    size, kernel = op.image()[2 + d], tensor_of(op.weight).shape[2 + d]
    stride, dilation, pad = op.attr("strides")[d], op.attr("dilations")[d], op.attr("pads")[d]
    common = gcd(stride, dilation)
    phases: list[_Phase] = []
    for place in range(min(stride, size)):
        seen = [k for k in range(kernel) if (place + pad - k * dilation) % stride == 0]
        last = seen[-1] if seen else -1
        start = (place + pad - last * dilation) // stride
        phases.append(
            _Phase(range(last, -1, -stride // common), dilation // common, start, -(-size // stride))
        )
    return phases


def _seen(a: Adjoint, op: nn.Conv2d, g: Value, filters: Value, phases: tuple[_Phase, _Phase]) -> Value | None:
    """The gradient at the places of one phase, None where it is zero."""
    if not all(phase.taps for phase in phases):
        return None
    found = tensor_of(g).shape[1:3] if op.channels_last else tensor_of(g).shape[2:]
    seen = [p.count + (len(p.taps) - 1) * p.dilation for p in phases]
    low = [-p.start for p in phases]
    high = [p.start + s - f for p, s, f in zip(phases, seen, found, strict=True)]
    around = a.pad(g, op.arrange(0, 0, *low), op.arrange(0, 0, *high), "around")
    filters = a.strided(
        filters, [range(s) for s in tensor_of(filters).shape[:2]] + [p.taps for p in phases], "flipped"
    )
    dilations = [p.dilation if len(p.taps) > 1 else 1 for p in phases]
    product = nn.Conv2d(
        around, filters, None, groups=op.attr("groups"), dilations=dilations, layout=op.attr("layout")
    )
    return a(product)


def _seen_around(a: Adjoint, op: Windowed, g: Value, kernel: Sequence[int], value: float = 0.0) -> Value:
    """The gradient spread out by the strides, with a border of `value` (which also lies between): windows of `kernel`, moved by
    1, fit into it once for each place of the image, and cover the results that the place is part of."""
    size = op.image()[2:]
    pads, dilations, strides = op.attr("pads"), op.attr("dilations"), op.attr("strides")
    apart = a.spread(g, op.arrange(1, 1, *strides), "spread", value)
    found = tensor_of(apart).shape[1:3] if op.channels_last else tensor_of(apart).shape[2:]
    low = [(kernel[d] - 1) * dilations[d] - pads[d] for d in range(2)]
    high = [size[d] + pads[d] - found[d] for d in range(2)]
    return a.pad(apart, op.arrange(0, 0, *low), op.arrange(0, 0, *high), "around", value)


def _weight_gradient(a: Adjoint, op: nn.Conv2d, g: Value) -> Value:
    """A convolution of the image with the gradient as filters: what was the batch is summed up, strides become dilations
    and dilations strides. The image is padded, or cut off, to what the windows saw of it."""
    groups, (n, _, *size) = op.attr("groups"), op.image()
    _, per_group, *kernel = tensor_of(op.weight).shape
    strides, dilations, pads = op.attr("strides"), op.attr("dilations"), op.attr("pads")
    to_front = [3, 0, 1, 2] if op.channels_last else [1, 0, 2, 3]
    filters = a.transpose(g, to_front, "filters")
    windows = tensor_of(filters).shape[2:]
    seen = [(windows[d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    high = [seen[d] - size[d] - pads[d] for d in range(2)]
    image = a.pad(op.x, op.arrange(0, 0, *pads[:2]), op.arrange(0, 0, *high), "seen")
    image = a.transpose(image, to_front, "exchanged")
    if groups > 1:  # (groups, in, n) as (in, groups, n): channel i of each group is the image number i
        image = a.reshape(image, (groups, per_group, n, *seen), "groups")
        image = a.transpose(image, [1, 0, 2, 3, 4], "grouped")
        image = a.reshape(image, (per_group, groups * n, *seen), "channels")
    product = nn.Conv2d(image, filters, None, groups=groups, strides=list(dilations), dilations=list(strides))
    return a.transpose(a(product, "products"), [1, 0, 2, 3])


# Pooling --------------------------------------------------------------------------------------------------


@vjp("nn.avg_pool2d")
def avg_pool2d(a: Adjoint, op: nn.AvgPool2d, g: Value) -> Partials:
    """The sum of the shares that a place gets, which is an average of them times the size of the window. Of windows that lie side by side
    each place gets one share."""
    kernel, dilations = list(op.attr("kernel")), op.attr("dilations")
    counts = op.window_counts()
    shape = (*counts.shape, 1) if op.channels_last else counts.shape
    side_by_side = kernel == list(op.attr("strides")) and list(dilations) == [1, 1]
    whole = 1 if side_by_side else prod(kernel)
    factors = (whole / np.maximum(counts, 1)).reshape(shape)  # a window may see nothing but padding
    shares = a.mul(g, a.constant(factors, tensor_of(g).element, "shares"))
    if side_by_side:
        return [_repeated(a, op, shares, kernel)]
    around = _seen_around(a, op, shares, kernel)
    return [a(nn.AvgPool2d(around, kernel=list(kernel), dilations=list(dilations), layout=op.attr("layout")))]


def _repeated(a: Adjoint, op: nn.AvgPool2d, shares: Value, kernel: Sequence[int]) -> Value:
    """Each share at all places of its window, cut off to the image."""
    first, shape = 1 if op.channels_last else 2, tensor_of(shares).shape
    rows, columns = shape[first : first + 2]
    apart = (*shape[:first], rows, 1, columns, 1, *shape[first + 2 :])
    spread = (*shape[:first], rows, kernel[0], columns, kernel[1], *shape[first + 2 :])
    joined = (*shape[:first], rows * kernel[0], columns * kernel[1], *shape[first + 2 :])
    windows = a.reshape(a.broadcast(a.reshape(shares, apart, "apart"), spread), joined, "windows")
    size, pads = op.image()[2:], op.attr("pads")
    high = [size[d] + pads[d] - joined[first + d] for d in range(2)]
    return a.pad(windows, op.arrange(0, 0, *(-p for p in pads[:2])), op.arrange(0, 0, *high), "around")


@vjp("nn.max_pool2d")
def max_pool2d(a: Adjoint, op: nn.MaxPool2d, g: Value) -> Partials:
    places = a(nn.ArgMaxPool2d(op.x, attributes=op.attributes), "places")
    return [a(nn.MaxPool2dGrad(places, g, results=[op.x.type], attributes=op.attributes))]


@vjp("nn.max_pool2d_grad")
def max_pool2d_grad(a: Adjoint, op: nn.MaxPool2dGrad, g: Value) -> Partials:
    """What stands at the places, as max_pool2d itself reads it; nothing in the padding."""
    n, c, *size = op.image()
    first = 1 if op.channels_last else 2
    shape, width = tensor_of(op.places).shape, op.attr("kernel")[1]
    number = a(nn.Cast(op.places, results=[tensor_of(op.places).with_element(i64)]), "number")
    row = a.div(number, width, "row")
    inside = _within(a, number, prod(op.attr("kernel")))
    places: list[Value] = []
    for d, at in enumerate((row, a.sub(number, a.mul(row, width), "column"))):
        starts = np.arange(shape[first + d]) * op.attr("strides")[d] - op.attr("pads")[d]
        starts = starts.reshape([-1 if axis == first + d else 1 for axis in range(4)])
        place = a.add(a.mul(at, op.attr("dilations")[d]), a.constant(starts, i64, "starts"), "place")
        inside = a(nn.And(inside, _within(a, place, size[d])), "inside")
        places.append(a(nn.Clip(place, min=0.0, max=float(size[d] - 1)), "bounded"))
    flat = a.add(a.mul(places[0], size[1]), places[1])
    whole = size[0] * size[1]
    channel = a.counter(c, 3 if op.channels_last else 1, 4)
    if op.channels_last:
        flat = a.add(a.mul(flat, c), channel)
    else:
        flat = a.add(flat, a.mul(channel, whole))
    flat = a.add(flat, a.mul(a.counter(n, 0, 4), whole * c))
    found = a(nn.Gather(a.reshape(g, (n * c * whole,), "flat"), flat, axis=0), "found")
    return None, a.where(inside, found, 0.0)


def _within(a: Adjoint, place: Value, size: int) -> Value:
    return a(nn.And(a.compare(place, "ge", 0), a.compare(place, "lt", size)))


@vjp("nn.global_avg_pool")
def global_avg_pool(a: Adjoint, op: nn.GlobalAvgPool, g: Value) -> Partials:
    shape = tensor_of(op.x).shape
    share = a.mul(g, 1 / max(1, prod(shape[d] for d in op.spatial_axes)))
    return [a.broadcast(share, shape)]
