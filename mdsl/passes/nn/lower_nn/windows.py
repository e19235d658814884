"""lower-nn: convolutions and poolings, loop nests whose image is read through `stride * i + dilation * k`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.dialects import arith, linalg, nn
from mdsl.dialects.nn.base import Windowed
from mdsl.dialects.nn.layers import Pool
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import Attribute, DenseAttr, tensor_attribute
from mdsl.ir.core import Block, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, dtype_of, i32, i64, wide
from mdsl.passes.nn.lower_nn.build import Emitter, Read, Scalars, lowers, lowest
from mdsl.passes.nn.lower_nn.layers import beats, finish, multiply_add, scaled
from mdsl.rewriting.constants import fresh_resource


def _nest(op: Windowed, loops: str, *operands: str) -> tuple[list[AffineMap], list[str]]:
    """Maps and iterators of a nest, from a letter for each loop and each operand's dimension.

    h and w run over the result's rows and columns, i and j over the window's; the image, all operands before the window,
    is read at row h * stride + i * dilation, and so for w and j. Loops that the last operand, the result,
    lacks are reductions.
    """
    strides, dilations = op.attr("strides"), op.attr("dilations")

    def place(letter: str, in_image: bool) -> AffineExpr:
        axis = "hw".find(letter)
        if not in_image or axis < 0:
            return Dim(loops.index(letter))
        return Dim(loops.index(letter)) * strides[axis] + Dim(loops.index("ij"[axis])) * dilations[axis]

    maps = [
        AffineMap(len(loops), 0, tuple(place(c, n < len(operands) - 2) for c in dims))
        for n, dims in enumerate(operands)
    ]
    return maps, [linalg.PARALLEL if c in operands[-1] else linalg.REDUCTION for c in loops]


def _pair(numbers: Sequence[int]) -> DenseAttr:
    return DenseAttr(np.array(numbers, np.int64), TensorType((2,), i64))


def _bordered(e: Emitter, op: Windowed, kernel: Sequence[int], extents: Sequence[int], fill: float) -> Value:
    """The image with its padding, as far as the windows reach (rounding up may make them reach further)."""
    _, _, *size = op.image()
    low, high = op.attr("pads")[:2], list(op.attr("pads")[2:])
    for d in range(2):
        reach = (extents[d] - 1) * op.attr("strides")[d] + (kernel[d] - 1) * op.attr("dilations")[d] + 1
        high[d] = max(0, reach - size[d] - low[d])
    return e.pad(op.operands[0], op.arrange(0, 0, *low), op.arrange(0, 0, *high), fill)


def _extents(op: Windowed) -> tuple[int, int]:
    """Rows and columns of the result."""
    shape = tensor_of(op.result).shape
    return (shape[1], shape[2]) if op.channels_last else (shape[2], shape[3])


# Convolution ----------------------------------------------------------------------------------------------


@lowers("nn.conv2d")
def conv2d(e: Emitter, op: nn.Conv2d) -> Value:
    result, groups = tensor_of(op.result), op.attr("groups")
    channels = op.image()[1]
    image = _bordered(e, op, tensor_of(op.weight).shape[2:], _extents(op), 0)
    exact = wide(result.element) == result.element
    suffix = None if exact and op.bias is None else "conv"
    if groups == 1:
        total = _dense(e, op, image, suffix)
    elif groups == channels == tensor_of(op.weight).shape[0]:
        total = _depthwise(e, op, image, suffix)
    else:
        return _grouped(e, op, image)
    return finish(e, total, result.element, op.bias, 3 if op.channels_last else 1)


def _contract(
    e: Emitter,
    op: nn.Conv2d,
    letters: Sequence[str],
    image: Value,
    weight: Value,
    shape: Sequence[int],
    suffix: str | None,
) -> Value:
    """A nest that `letters` describe (see `_nest`), summed up in a zero accumulator of `shape`."""
    zero = e.fill(0, shape, wide(tensor_of(op.result).element))
    maps, iterators = _nest(op, *letters)
    return e.value(e.nest([image, weight], [zero], maps, iterators, multiply_add), suffix)


def _dense(e: Emitter, op: nn.Conv2d, image: Value, suffix: str | None) -> Value:
    result = tensor_of(op.result)
    if op.channels_last:
        return _contract(e, op, ("nhwfcij", "nhwc", "fcij", "nhwf"), image, op.weight, result.shape, suffix)
    if wide(result.element) != result.element:
        return _contract(e, op, ("nfhwcij", "nchw", "fcij", "nfhw"), image, op.weight, result.shape, suffix)
    zero = e.fill(0, result.shape, result.element)
    strides, dilations = _pair(op.attr("strides")), _pair(op.attr("dilations"))
    return e.value(
        linalg.ConvNchwFchw.make([image, op.weight], [zero], strides=strides, dilations=dilations), suffix
    )


def _depthwise(e: Emitter, op: nn.Conv2d, image: Value, suffix: str | None) -> Value:
    """One filter a channel: no loop over channels is left."""
    shape = tensor_of(op.weight).shape
    weight = e.reshape(op.weight, (shape[0], *shape[2:]), "filters")
    letters = ("nhwcij", "nhwc", "cij", "nhwc") if op.channels_last else ("nchwij", "nchw", "cij", "nchw")
    return _contract(e, op, letters, image, weight, tensor_of(op.result).shape, suffix)


def _grouped(e: Emitter, op: nn.Conv2d, image: Value) -> Value:
    """The channels of image, weight, bias and result split into (group, channel in the group)."""
    groups, result = op.attr("groups"), tensor_of(op.result)
    axis = 3 if op.channels_last else 1

    def split(shape: Sequence[int], axis: int) -> tuple[int, ...]:
        return (*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])

    image = e.reshape(image, split(tensor_of(image).shape, axis), "grouped")
    weight = e.reshape(op.weight, split(tensor_of(op.weight).shape, 0), "filters")
    letters = (
        ("nhwgfcij", "nhwgc", "gfcij", "nhwgf")
        if op.channels_last
        else ("ngfhwcij", "ngchw", "gfcij", "ngfhw")
    )
    shape = split(result.shape, axis)
    total = _contract(e, op, letters, image, weight, shape, "groups")
    if op.bias is None and tensor_of(total).element == result.element:
        return e.reshape(total, result.shape)

    def body(s: Scalars, x: Value, *bias: Value) -> Value:
        return s.narrow(s.add(x, s.widen(bias[0]), "biased") if bias else x, result.element)

    reads: list[Read] = [(total, range(5))]
    if op.bias is not None:
        bias = e.reshape(op.bias, (groups, shape[axis + 1]), "biases")
        reads.append((bias, [axis, axis + 1]))
    return e.reshape(e.map(reads, shape, result.element, body, "biased"), result.shape)


# Pooling --------------------------------------------------------------------------------------------------


@lowers("nn.max_pool2d")
def max_pool2d(e: Emitter, op: nn.MaxPool2d) -> Value:
    if _key(e, op) in e.shared.largest or _is_wanted_both_ways(op):
        return _largest(e, op)[0]
    result = tensor_of(op.result)
    start = lowest(result.element)
    image = _bordered(e, op, op.attr("kernel"), _extents(op), start)
    init = e.fill(start, result.shape, result.element, "lowest")
    return _pool(e, op, image, init, linalg.PoolingMax, None)


@lowers("nn.argmax_pool2d")
def argmax_pool2d(e: Emitter, op: nn.ArgMaxPool2d) -> Value:
    return _largest(e, op)[1]


def _is_wanted_both_ways(op: Pool) -> bool:
    """Whether both the largest elements of the windows and their places are wanted, as by a network and its gradient."""
    alike = (
        user
        for user in op.x.users
        if isinstance(user, nn.MaxPool2d | nn.ArgMaxPool2d) and user.block is op.block
    )
    return len({user.name for user in alike if user.attributes == op.attributes}) > 1


def _key(e: Emitter, op: Pool) -> tuple[Value, Block, frozenset[tuple[str, Attribute]]]:
    """What poolings have in common that look at the same windows."""
    return op.x, e.block, frozenset(op.attributes.items())


def _largest(e: Emitter, op: Pool) -> tuple[Value, Value]:
    """One nest with two results, the largest element so far and its number in the window; of windows that are wanted both ways
    there is one."""
    key = _key(e, op)
    if key in e.shared.largest:
        return e.shared.largest[key]
    result, element = tensor_of(op.result), tensor_of(op.x).element
    kernel = op.attr("kernel")
    image = _bordered(e, op, kernel, _extents(op), lowest(element))
    best = e.fill(lowest(element), result.shape, element, "lowest")
    first = e.fill(0, result.shape, i32, "first")
    maps, iterators = _nest(op, *_pooling_letters(op))

    def body(s: Scalars, value: Value, _: Value, best: Value, place: Value) -> list[Value]:
        better = beats(s, value, best)
        return [
            s(arith.Select(better, value, best), "new_best"),
            s(arith.Select(better, _number_in_window(s, kernel), place), "new_place"),
        ]

    window = e.empty(kernel, element, "window")
    nest = e.nest([image, window], [best, first], [*maps, maps[-1]], iterators, body)
    best, place = e.builder.add(nest, f"{e.name}_best", f"{e.name}_place").results
    e.shared.largest[key] = best, place
    return best, place


def _pooling_letters(op: Windowed) -> tuple[str, str, str, str]:
    """The loops of a pooling, and the dimensions of image, window and result."""
    return ("nhwcij", "nhwc", "ij", "nhwc") if op.channels_last else ("nchwij", "nchw", "ij", "nchw")


def _number_in_window(s: Scalars, kernel: Sequence[int]) -> Value:
    """The number of the element that the loops over a window, the fifth and the sixth, are at, row-major."""
    i, j = (
        s(arith.IndexCast(s(linalg.IndexOp(dim=d), name), results=[i32]), name)
        for d, name in ((4, "i"), (5, "j"))
    )
    row = s.multiply(i, s.constant(kernel[1], i32, "width"), "row")
    return s.add(row, j, "number")


@lowers("nn.avg_pool2d")
def avg_pool2d(e: Emitter, op: nn.AvgPool2d) -> Value:
    """The sum of each window times the reciprocal of what it counts, which is known now."""
    result = tensor_of(op.result)
    kind = wide(result.element)
    image = _bordered(e, op, op.attr("kernel"), _extents(op), 0)
    total = _pool(e, op, image, e.fill(0, result.shape, kind), linalg.PoolingSum, "sum")
    counts = op.window_counts()
    if (counts == counts[0, 0]).all():
        return scaled(e, total, 1 / counts[0, 0], None, result.element)
    shares = (1 / counts).astype(dtype_of(kind))
    attr = tensor_attribute(shares, TensorType(shares.shape, kind), fresh_resource(op, f"{e.name}_shares"))
    factor = e.value(arith.Constant(value=attr), "shares")

    def body(s: Scalars, value: Value, share: Value) -> Value:
        return s.narrow(s.multiply(value, share, "mean"), result.element)

    reads: list[Read] = [(total, range(4)), (factor, [1, 2] if op.channels_last else [2, 3])]
    return e.map(reads, result.shape, result.element, body)


def _pool(
    e: Emitter,
    op: Pool,
    image: Value,
    init: Value,
    kind: type[linalg.PoolingMax | linalg.PoolingSum],
    suffix: str | None,
) -> Value:
    """A nest over the windows; a second operand without content gives the window's shape."""
    window = e.empty(op.attr("kernel"), tensor_of(image).element, "window")
    if not op.channels_last and tensor_of(image).element == tensor_of(init).element:
        strides, dilations = _pair(op.attr("strides")), _pair(op.attr("dilations"))
        return e.value(kind.make([image, window], [init], strides=strides, dilations=dilations), suffix)
    maps, iterators = _nest(op, *_pooling_letters(op))

    def body(s: Scalars, value: Value, _: Value, found: Value) -> Value:
        return s.maximum(found, value) if kind is linalg.PoolingMax else s.add(found, s.widen(value))

    return e.value(e.nest([image, window], [init], maps, iterators, body), suffix)
