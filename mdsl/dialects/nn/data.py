"""nn, shapes and data movement: reductions, reshaping, slicing, joining, gathering."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects.nn.base import (
    INDEX_TENSOR,
    NUMBER_TENSOR,
    NnOp,
    axes_in,
    axis_in,
    broadcast_shapes,
    dims,
    numbers,
    product,
    require_number,
    same_element,
)
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Value
from mdsl.ir.declare import BOOLEAN, FLOAT, INT, INTS, TENSOR, attr, one_of, operand, result
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i64, is_float, shapes_agree, sizes_agree


def reduced_shape(shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    """`shape` with `axes` made 1, or dropped."""
    return tuple(1 if d in axes else s for d, s in enumerate(shape) if keepdims or d not in axes)


class Reduce(NnOp):
    """The sum, mean, product, largest or smallest element along `axes` (all, if absent); they stay as 1 with
    keepdims.

    Integer sums and products wrap; a mean wants floats; max and min give NaN where there is one.
    """

    name = "nn.reduce"
    x = operand(NUMBER_TENSOR)
    kind = attr(one_of("sum", "mean", "prod", "max", "min"))
    axes = attr(INTS, optional=True)
    keepdims = attr(BOOLEAN, default=True)
    y = result(NUMBER_TENSOR)

    @property
    def dimensions(self) -> list[int]:
        """The reduced dimensions, counted from the front, ascending."""
        rank = tensor_of(self.x).rank
        axes = self.attr("axes")
        return list(range(rank)) if axes is None else sorted(axes_in(self, axes, rank))

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        if self.attr("kind") == "mean" and not is_float(x):
            raise self.error(f"a mean wants floats, got {x}")
        return [TensorType(reduced_shape(x.shape, self.dimensions, self.attr("keepdims")), x.element)]


class ArgMax(NnOp):
    """Position of the first largest element along `axis`, as i64; a NaN counts as the largest."""

    name = "nn.argmax"
    x = operand(NUMBER_TENSOR)
    axis = attr(INT, default=-1)
    keepdims = attr(BOOLEAN, default=True)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.x)
        axis = axis_in(self, self.attr("axis"), x.rank)
        shape = reduced_shape(x.shape, [axis], self.attr("keepdims"))
        if x.shape[axis] == 0 and 0 not in shape:
            raise self.error(f"there is no largest of 0 elements: axis {axis} of {x}")
        return [TensorType(shape, i64)]


class Reshape(NnOp):
    """The same elements in row-major order, in the shape of the result type."""

    name = "nn.reshape"
    x = operand(TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        assert self.results, "nn.reshape needs its result type"
        source, target = tensor_of(self.operands[0]), tensor_of(self.result)
        if source.element != target.element:
            raise self.error(f"cannot change the element type: {source} to {target}")
        if not source.is_static or target.shape.count(DYNAMIC) > 1:
            return [target]
        if target.is_static:
            if source.size != target.size:
                raise self.error(f"{source} has {source.size} elements, {target} has {target.size}")
            return [target]
        rest = product(s for s in target.shape if s != DYNAMIC)
        if rest == 0 or source.size % rest:
            raise self.error(f"the {source.size} elements of {source} do not fill {target}")
        return [
            TensorType(
                tuple(source.size // rest if s == DYNAMIC else s for s in target.shape), source.element
            )
        ]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.operands[0]] if self.operands[0].type == self.result.type else None


class Flatten(NnOp):
    """A matrix: the dimensions before `axis` make the rows, the others the columns."""

    name = "nn.flatten"
    x = operand(TENSOR)
    axis = attr(INT, default=1)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.operands[0])
        axis = self.attr("axis")
        if not -x.rank <= axis <= x.rank:
            raise self.error(f"axis {axis} is out of range for {x.rank} dimensions")
        axis = axis + x.rank if axis < 0 else axis
        return [TensorType((product(x.shape[:axis]), product(x.shape[axis:])), x.element)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.operands[0]] if self.operands[0].type == self.result.type else None


class Transpose(NnOp):
    """Dimension i of the result is dimension `perm[i]` of x; without `perm` the order is reversed."""

    name = "nn.transpose"
    x = operand(TENSOR)
    perm = attr(INTS, optional=True)
    y = result(TENSOR)

    @property
    def permutation(self) -> list[int]:
        rank = tensor_of(self.operands[0]).rank
        perm = self.attr("perm")
        if perm is None:
            return list(reversed(range(rank)))
        if len(perm) != rank:
            raise self.error(f"perm must hold {rank} integers, got {len(perm)}")
        return axes_in(self, perm, rank)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.operands[0])
        return [TensorType(tuple(x.shape[p] for p in self.permutation), x.element)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.operands[0]] if self.permutation == list(range(len(self.permutation))) else None


class Concat(NnOp):
    """The operands joined along `axis`; their other dimensions are equal."""

    name = "nn.concat"
    inputs = operand(TENSOR, variadic=True)
    axis = attr(INT)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        if not self.operands:
            raise self.error("takes at least 1 operand")
        element = same_element(self, *self.operands)
        shapes = [tensor_of(v).shape for v in self.operands]
        rank = len(shapes[0])
        axis = axis_in(self, self.attr("axis"), rank)
        for shape in shapes:
            rest = [s for d, s in enumerate(shape) if d != axis]
            if len(shape) != rank or not shapes_agree(
                rest, [s for d, s in enumerate(shapes[0]) if d != axis]
            ):
                raise self.error(
                    f"shapes {dims(shapes[0])} and {dims(shape)} differ outside dimension {axis}"
                )
        total = DYNAMIC if any(s[axis] == DYNAMIC for s in shapes) else sum(s[axis] for s in shapes)
        return [TensorType((*shapes[0][:axis], total, *shapes[0][axis + 1 :]), element)]


class Slice(NnOp):
    """x[start:end:step] in each of `axes` (by default the first ones), with Python's rules: negative positions
    count from the end, positions outside are clamped; a negative step runs backwards, down to element 0 for
    an end below -size."""

    name = "nn.slice"
    x = operand(TENSOR)
    starts = attr(INTS)
    ends = attr(INTS)
    axes = attr(INTS, optional=True)
    steps = attr(INTS, optional=True)
    y = result(TENSOR)

    def ranges(self, shape: Sequence[int]) -> list[range | None]:
        """The positions taken in each dimension of `shape`; None where all are, and in a `?` dimension."""
        starts, ends = self.attr("starts"), self.attr("ends")
        axes, steps = self.attr("axes"), self.attr("steps")
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise self.error("starts, ends, axes and steps must have equal lengths")
        if 0 in steps:
            raise self.error("a step must not be 0")
        taken: list[range | None] = [None] * len(shape)
        for axis, start, end, step in zip(axes_in(self, axes, len(shape)), starts, ends, steps, strict=True):
            if shape[axis] != DYNAMIC:
                taken[axis] = range(*slice(start, end, step).indices(shape[axis]))
        return taken

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.operands[0])
        shape = tuple(s if r is None else len(r) for s, r in zip(x.shape, self.ranges(x.shape), strict=True))
        return [TensorType(shape, x.element)]


class Pad(NnOp):
    """A border of the constant `value`; pads = [low of each dimension ..., high of each dimension ...]."""

    name = "nn.pad"
    x = operand(TENSOR)
    pads = attr(INTS)
    value = attr(FLOAT, default=0.0)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x = tensor_of(self.operands[0])
        pads = numbers(self, "pads", 2 * x.rank, 0)
        require_number(self, "value", self.attr("value"), x.element)
        sides = zip(pads[: x.rank], x.shape, pads[x.rank :], strict=True)
        shape = [DYNAMIC if size == DYNAMIC else low + size + high for low, size, high in sides]
        return [TensorType(tuple(shape), x.element)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return None if any(self.attr("pads")) else [self.operands[0]]


class Gather(NnOp):
    """Slices of x along `axis`, one for each index: y[.., i.., ..] = x[.., indices[i..], ..].

    y has x's shape with dimension `axis` replaced by the shape of `indices`. Negative indices count from
    the end; indices that are still outside are clamped to the first or last slice.
    """

    name = "nn.gather"
    x = operand(TENSOR)
    indices = operand(INDEX_TENSOR)
    axis = attr(INT, default=0)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        x, indices = tensor_of(self.operands[0]), tensor_of(self.operands[1])
        axis = axis_in(self, self.attr("axis"), x.rank)
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        if x.shape[axis] == 0 and 0 not in shape:
            raise self.error(f"there is nothing to take along axis {axis} of {x}")
        return [TensorType(shape, x.element)]


class Broadcast(NnOp):
    """x stretched to the shape of the result type, with NumPy's rules; where that has `?`, x keeps its size."""

    name = "nn.broadcast"
    x = operand(TENSOR)
    y = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        assert self.results, "nn.broadcast needs its result type"
        source, target = tensor_of(self.operands[0]), tensor_of(self.result)
        added = target.rank - source.rank
        kept = [1 if s == DYNAMIC and d >= added else s for d, s in enumerate(target.shape)]
        shape = broadcast_shapes(self, source.shape, kept)
        if len(shape) != target.rank or not all(map(sizes_agree, shape, target.shape)):
            raise self.error(f"{source} does not broadcast to {target}")
        return [TensorType(shape, source.element)]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.operands[0]] if self.operands[0].type == self.result.type else None
