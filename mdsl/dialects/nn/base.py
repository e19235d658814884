"""What the ops of nn share: the check of the written result, broadcasting, axes, windows, layouts.

A `?` dimension (`DYNAMIC`) stands for a size that is bound later; inference lets it pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from mdsl.ir.core import Op, Value
from mdsl.ir.declare import INTS, PURE, Constraint, attr, one_of
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import (
    DYNAMIC,
    FLOATS,
    INTEGERS,
    TensorType,
    Type,
    dtype_of,
    i1,
    i32,
    i64,
    index,
    is_float,
    shapes_agree,
    sizes_agree,
)

NUMBERS = (*FLOATS, *(t for t in INTEGERS if t != i1))

NUMBER_TENSOR = Constraint(
    "a tensor of floats or integers (not i1)", lambda t: isinstance(t, TensorType) and t.element in NUMBERS
)
INDEX_TENSOR = Constraint(
    "a tensor of i32, i64 or index", lambda t: isinstance(t, TensorType) and t.element in (i32, i64, index)
)
LAYOUT = one_of("nchw", "nhwc")


class NnOp(Op):
    """Base of nn ops: `infer` gives the results' types and raises VerifyError for operands that do not fit."""

    traits = PURE

    def verify_op(self) -> None:
        for result, inferred in zip(self.results, self.infer(), strict=True):
            written = tensor_of(result)
            assert isinstance(inferred, TensorType)
            if inferred.element != written.element or not shapes_agree(inferred.shape, written.shape):
                what = "the result" if len(self.results) == 1 else f"%{result.name}"
                raise self.error(f"{what} is a {inferred}, not a {written}")


def dims(shape: Sequence[int]) -> str:
    """A shape for a message: `2x?x3`, `scalar` for rank 0."""
    return "x".join("?" if d == DYNAMIC else str(d) for d in shape) or "scalar"


def product(sizes: Iterable[int]) -> int:
    """The product of sizes, `DYNAMIC` if one of them is."""
    found = list(sizes)
    return DYNAMIC if DYNAMIC in found else prod(found)


# Checks ---------------------------------------------------------------------------------------------------


def same_element(op: Op, *values: Value) -> Type:
    """The element type that all values share."""
    elements = [tensor_of(v).element for v in values]
    if len(set(elements)) > 1:
        raise op.error(f"operands must have one element type, got {', '.join(map(str, elements))}")
    return elements[0]


def require_rank(op: Op, what: str, value: Value, rank: int) -> tuple[int, ...]:
    """The value's shape, which must have `rank` dimensions."""
    type = tensor_of(value)
    if type.rank != rank:
        raise op.error(f"{what} must have {rank} dimensions, got {type}")
    return type.shape


def require_vector(op: Op, what: str, value: Value, size: int) -> None:
    """Checks that `value` has one dimension of `size`."""
    (found,) = require_rank(op, what, value, 1)
    if not sizes_agree(found, size):
        raise op.error(f"{what} must have {size} elements, got {tensor_of(value)}")


def require_number(op: Op, name: str, value: float, element: Type) -> None:
    """Checks that the attribute `name`, of value `value`, is a number that `element` holds."""
    if is_float(element):
        return
    dtype = dtype_of(element)
    low, high = (0, 1) if element == i1 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not low <= value <= high or value != round(value):
        raise op.error(f"{name} must be a number that {element} holds, got {value}")


def numbers(op: Op, name: str, count: int, minimum: int) -> list[int]:
    """The list attribute `name`, which must hold `count` integers of at least `minimum`."""
    found = op.attr(name)
    if len(found) != count:
        raise op.error(f"{name} must hold {count} integers, got {len(found)}")
    if any(n < minimum for n in found):
        raise op.error(f"{name} must be at least {minimum}, got {found}")
    return found


def axis_in(op: Op, axis: int, rank: int, what: str = "axis") -> int:
    """`axis` counted from the front."""
    if not -rank <= axis < rank:
        raise op.error(f"{what} {axis} is out of range for {rank} dimensions")
    return axis % rank


def axes_in(op: Op, axes: Sequence[int], rank: int) -> list[int]:
    """`axes` counted from the front, each of which may stand there once."""
    found = [axis_in(op, a, rank) for a in axes]
    if len(set(found)) != len(found):
        raise op.error(f"axes {list(axes)} name a dimension twice")
    return found


def broadcast_shapes(op: Op, *shapes: Sequence[int]) -> tuple[int, ...]:
    """NumPy's broadcasting: shapes are aligned at their last dimension, a 1 stretches."""
    rank = max(map(len, shapes))
    result: list[int] = []
    for sizes in zip(*([1] * (rank - len(s)) + list(s) for s in shapes), strict=True):
        stretched = {s for s in sizes if s != 1}
        known = stretched - {DYNAMIC}
        if len(known) > 1:
            raise op.error(f"shapes {' and '.join(map(dims, shapes))} do not broadcast together")
        result.append(known.pop() if known else DYNAMIC if stretched else 1)
    return tuple(result)


class PerChannel(NnOp):
    """Base of ops with a number for each channel of `x`: (N, C, ...), or (N, ..., C) with layout "nhwc"."""

    layout = attr(LAYOUT, default="nchw")

    @property
    def channel_axis(self) -> int:
        return tensor_of(self.operands[0]).rank - 1 if self.attr("layout") == "nhwc" else 1

    def with_channels(self) -> TensorType:
        """The type of `x`. Raises VerifyError if it has no channels."""
        x = tensor_of(self.operands[0])
        if x.rank < 2:
            raise self.error(f"x must have at least 2 dimensions, got {x}")
        return x


# Windows --------------------------------------------------------------------------------------------------


class Windowed(NnOp):
    """Base of ops that slide a window over height and width of an image."""

    strides = attr(INTS, default=[1, 1], doc="[vertical, horizontal]")
    pads = attr(INTS, default=[0, 0, 0, 0], doc="[top, left, bottom, right]")
    dilations = attr(INTS, default=[1, 1], doc="distance between the window's rows and columns")
    layout = attr(LAYOUT, default="nchw")

    @property
    def channels_last(self) -> bool:
        return self.attr("layout") == "nhwc"

    def image(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width) of the image `x`."""
        n, a, b, c = require_rank(self, "x", self.operands[0], 4)
        return (n, c, a, b) if self.channels_last else (n, a, b, c)

    def arrange(self, n: int, c: int, h: int, w: int) -> tuple[int, ...]:
        """A shape in the op's layout."""
        return (n, h, w, c) if self.channels_last else (n, c, h, w)

    def slide(self, size: Sequence[int], kernel: Sequence[int], ceil: bool = False) -> tuple[int, int]:
        """How many windows fit vertically and horizontally.

        `ceil` counts a last window that overlaps the end, unless it would start in the padding after it.
        """
        strides, dilations = numbers(self, "strides", 2, 1), numbers(self, "dilations", 2, 1)
        pads = numbers(self, "pads", 4, 0)
        extents: list[int] = []
        for d, name in enumerate(("height", "width")):
            if size[d] == DYNAMIC:
                extents.append(DYNAMIC)
                continue
            window = (kernel[d] - 1) * dilations[d] + 1
            room = size[d] + pads[d] + pads[d + 2] - window
            if room < 0:
                raise self.error(
                    f"a window of {name} {window} does not fit into {size[d] + pads[d] + pads[d + 2]}"
                )
            extent = (-(-room // strides[d]) if ceil else room // strides[d]) + 1
            if ceil and (extent - 1) * strides[d] >= size[d] + pads[d]:
                extent -= 1
            extents.append(extent)
        return extents[0], extents[1]
