"""autodiff: what rules build with, and where they are registered.

The rule of an op gives its vector-Jacobian product: from the gradient of its result those of its operands, as nn ops.

    @vjp("nn.mul")
    def mul(a: Adjoint, op: Binary, grad: Value) -> Partials:
        return a.mul(grad, op.b), a.mul(grad, op.a)

A partial may have any shape that broadcasts to the operand's, or that the operand's broadcasts to: it is stretched or
summed up (`fitted`). None stands for a gradient that is zero, or that there is not, as of an operand of integers. What
nobody reads of it is dropped, so that a rule does not ask which operands are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.func import GRADIENT
from mdsl.dialects.nn.base import broadcast_shapes
from mdsl.ir.attributes import Attribute, DenseAttr, DenseResourceAttr, is_splat, tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, dtype_of, i64
from mdsl.rewriting.constants import fresh_resource

Partials = Sequence[Value | None]
"""The gradients of an op's operands, in order."""

Rule = Callable[["Adjoint", Any, Value], Partials]
RuleT = TypeVar("RuleT", bound=Rule)

VJPS: dict[str, Rule] = {}
"""The rule of each op, by name."""


def vjp(*names: str) -> Callable[[RuleT], RuleT]:
    """Registers `f(adjoint, op, grad)` as the vector-Jacobian product of the ops `names`."""

    def register(rule: RuleT) -> RuleT:
        VJPS.update(dict.fromkeys(names, rule))
        return rule

    return register


Whole = Callable[["Adjoint", Mapping[str, Value], Value], Mapping[str, Value]]

WHOLES: dict[str, Whole] = {}
"""The rule of each composite op whose gradient is simpler than that of its formula: from the values that the formula keeps and the
gradient of the one called `result`, those of some of them."""


def whole(name: str) -> Callable[[Whole], Whole]:
    """Registers `f(adjoint, kept, grad)` as the rule of the composite op `name`."""

    def register(rule: Whole) -> Whole:
        WHOLES[name] = rule
        return rule

    return register


Constants = dict[tuple[Type, Attribute], Value]
"""The constants that the adjoint program has so far."""


def _holds(attr: Attribute, array: np.ndarray) -> bool:
    if isinstance(attr, DenseResourceAttr):
        return attr.data is not None and np.array_equal(attr.array, array)
    return isinstance(attr, DenseAttr) and np.array_equal(attr.array, array)


class Adjoint:
    """Builds the vector-Jacobian product of `op`; what it makes bears the location of `op`."""

    def __init__(self, builder: Builder, op: Op, constants: Constants) -> None:
        self.builder = Builder(builder.block, builder.point, op.location or builder.location)
        self.op = op
        self.stem = f"{GRADIENT}{name_wished(op.results[0])}" if op.results else "grad"
        self.constants = constants

    def __call__(self, op: Op, suffix: str | None = None) -> Value:
        """Inserts `op`, whose result is called after the one that is differentiated."""
        return self.builder.value(op, f"{self.stem}_{suffix or op.name.split('.')[-1]}")

    # Constants ----------------------------------------------------------------------------------------

    def constant(self, data: np.ndarray, element: Type, name: str) -> Value:
        """A tensor of `data`, once for all that read the same."""
        type = TensorType(data.shape, element)
        array = np.ascontiguousarray(data, dtype_of(element)).reshape(data.shape)
        if is_splat(array):
            return self.splat(array.flat[0], type, name)
        found = next((v for (t, a), v in self.constants.items() if t == type and _holds(a, array)), None)
        if found is None:
            function = self.builder.block.parent_op
            assert function is not None
            attr = tensor_attribute(array, type, fresh_resource(function, f"{self.stem}_{name}"))
            found = self.builder.value(Constant(value=attr, results=[type]), name)
            self.constants[type, attr] = found
        return found

    def number(self, value: float, like: Value) -> Value:
        """A tensor of one number, without dimensions, with the element type of `like`."""
        element = tensor_of(like).element
        spelt = f"{abs(value):g}".replace("-", "m").replace(".", "_").replace("+", "")
        return self.splat(value, TensorType((), element), f"{'minus_' if value < 0 else 'c'}{spelt}")

    def counter(self, size: int, axis: int = 0, rank: int = 1) -> Value:
        """0, 1, ..., size - 1 as i64 along `axis` of `rank` dimensions; the others are 1."""
        numbers = np.arange(size).reshape([-1 if d == axis else 1 for d in range(rank)])
        return self.constant(numbers, i64, "places")

    def splat(self, value: float, type: TensorType, name: str) -> Value:
        """A tensor of equal numbers."""
        attr = DenseAttr.splat(value, type)
        if (type, attr) not in self.constants:
            self.constants[type, attr] = self.builder.value(Constant(value=attr, results=[type]), name)
        return self.constants[type, attr]

    def zeros(self, type: TensorType) -> Value:
        return self.splat(0, type, "zeros")

    # Arithmetic; a number stands for a tensor without dimensions --------------------------------------

    def add(self, x: Value, y: Value | float, suffix: str | None = None) -> Value:
        return self(nn.Add(x, self._operand(y, x)), suffix)

    def sub(self, x: Value, y: Value, suffix: str | None = None) -> Value:
        return self(nn.Sub(x, y), suffix)

    def mul(self, x: Value, y: Value | float, suffix: str | None = None) -> Value:
        return self(nn.Mul(x, self._operand(y, x)), suffix)

    def div(self, x: Value, y: Value | float, suffix: str | None = None) -> Value:
        return self(nn.Div(x, self._operand(y, x)), suffix)

    def neg(self, x: Value, suffix: str | None = None) -> Value:
        return self(nn.Neg(x), suffix)

    def one_minus(self, x: Value, suffix: str | None = None) -> Value:
        return self(nn.Sub(self.number(1, x), x), suffix)

    def compare(self, x: Value, kind: str, y: Value | float, suffix: str | None = None) -> Value:
        return self(nn.Compare(x, self._operand(y, x), kind=kind), suffix or kind)

    def where(self, cond: Value, x: Value | float, y: Value | float, suffix: str | None = None) -> Value:
        """x where `cond` holds, else y; one of the two at least is a tensor."""
        like = x if isinstance(x, Value) else y
        assert isinstance(like, Value)
        return self(nn.Select(cond, self._operand(x, like), self._operand(y, like)), suffix)

    def _operand(self, x: Value | float, like: Value) -> Value:
        return x if isinstance(x, Value) else self.number(x, like)

    # Shapes -------------------------------------------------------------------------------------------

    def sum(self, x: Value, axes: Sequence[int], keepdims: bool = True, suffix: str | None = None) -> Value:
        return self.reduce(x, "sum", axes, keepdims, suffix or "sum")

    def mean(self, x: Value, axes: Sequence[int], suffix: str | None = None) -> Value:
        return self.reduce(x, "mean", axes, True, suffix or "mean")

    def reduce(self, x: Value, kind: str, axes: Sequence[int], keepdims: bool, suffix: str) -> Value:
        return self(nn.Reduce(x, kind=kind, axes=list(axes), keepdims=keepdims), suffix) if axes else x

    def reshape(self, x: Value, shape: Sequence[int], suffix: str | None = None) -> Value:
        type = TensorType(tuple(shape), tensor_of(x).element)
        return x if x.type == type else self(nn.Reshape(x, results=[type]), suffix)

    def transpose(self, x: Value, perm: Sequence[int], suffix: str | None = None) -> Value:
        return x if list(perm) == sorted(perm) else self(nn.Transpose(x, perm=list(perm)), suffix)

    def swap(self, x: Value, suffix: str | None = None) -> Value:
        """The last two dimensions exchanged: a matrix transposed, for each of a batch."""
        rank = tensor_of(x).rank
        return self.transpose(x, [*range(rank - 2), rank - 1, rank - 2], suffix)

    def broadcast(self, x: Value, shape: Sequence[int], suffix: str | None = None) -> Value:
        type = TensorType(tuple(shape), tensor_of(x).element)
        return x if x.type == type else self(nn.Broadcast(x, results=[type]), suffix)

    def slice(
        self, x: Value, starts: Sequence[int], sizes: Sequence[int], suffix: str | None = None
    ) -> Value:
        """`sizes` elements of each dimension from `starts` on."""
        shape = tensor_of(x).shape
        cut = [d for d, (size, old) in enumerate(zip(sizes, shape, strict=True)) if size != old]
        if not cut:
            return x
        first = [starts[d] for d in cut]
        return self(nn.Slice(x, starts=first, ends=[starts[d] + sizes[d] for d in cut], axes=cut), suffix)

    def pad(
        self, x: Value, low: Sequence[int], high: Sequence[int], suffix: str | None = None, value: float = 0.0
    ) -> Value:
        """A border of `value`; negative sizes cut off instead, of the border on the other side too where they reach it."""
        shape = tensor_of(x).shape
        wanted = [s + before + behind for s, before, behind in zip(shape, low, high, strict=True)]
        starts = [min(s, max(0, -n)) for s, n in zip(shape, low, strict=True)]
        kept = [max(0, min(s, s + n) - b) for s, n, b in zip(shape, high, starts, strict=True)]
        inner = self.slice(x, starts, kept, f"{suffix or 'pad'}_cut")
        before = [min(w, max(0, n)) for w, n in zip(wanted, low, strict=True)]
        pads = [*before, *(w - k - b for w, k, b in zip(wanted, kept, before, strict=True))]
        return self(nn.Pad(inner, pads=pads, value=value), suffix) if any(pads) else inner

    def strided(self, x: Value, taken: Sequence[range], suffix: str | None = None) -> Value:
        """The elements at the positions `taken` of each dimension."""
        shape = tensor_of(x).shape
        cut = [d for d, size in enumerate(shape) if taken[d] != range(size)]
        if not cut:
            return x
        ends = [taken[d].stop if taken[d].stop >= 0 else -shape[d] - 1 for d in cut]
        starts, steps = [taken[d].start for d in cut], [taken[d].step for d in cut]
        return self(nn.Slice(x, starts=starts, ends=ends, axes=cut, steps=steps), suffix)

    def reverse(self, x: Value, axes: Sequence[int], suffix: str | None = None) -> Value:
        """The elements along `axes` in opposite order."""
        taken = [range(size) for size in tensor_of(x).shape]
        return self.strided(x, [r[::-1] if d in axes else r for d, r in enumerate(taken)], suffix)

    def spread(self, x: Value, steps: Sequence[int], suffix: str | None = None, value: float = 0.0) -> Value:
        """x[i, ..] at [i * steps[0], ..], and `value` between: a size n becomes (n - 1) * step + 1.

        Each dimension gets one of 1 behind it that is padded to the step's size, and both become one.
        """
        shape = tensor_of(x).shape
        axes = [d for d, (size, step) in enumerate(zip(shape, steps, strict=True)) if size > 1 and step > 1]
        if not axes:
            return x
        split = [s for d, size in enumerate(shape) for s in ((size, 1) if d in axes else (size,))]
        pads = [s for d in range(len(shape)) for s in ((0, steps[d] - 1) if d in axes else (0,))]
        merged = [size * steps[d] if d in axes else size for d, size in enumerate(shape)]
        kept = [(size - 1) * steps[d] + 1 if d in axes else size for d, size in enumerate(shape)]
        apart = self.reshape(x, split, f"{suffix or 'spread'}_apart")
        padded = self.pad(apart, [0] * len(split), pads, f"{suffix or 'spread'}_zeros", value)
        whole = self.reshape(padded, merged, f"{suffix or 'spread'}_whole")
        return self.slice(whole, [0] * len(shape), kept, suffix or "spread")

    def interleave(self, parts: Sequence[Value | None], axis: int, size: int) -> Value | None:
        """The first `size` elements along `axis` of where x[.., i, ..] stands at i * n + k, x the k-th of `n` parts; zeros where there
        is no part, None if there is none at all.

        Each part gets a dimension of 1 behind the axis, along which they are joined; then both become one.
        """
        shape = next((tensor_of(x).shape for x in parts if x is not None), None)
        if shape is None:
            return None
        whole = parts[0]
        if len(parts) > 1:
            one = (*shape[: axis + 1], 1, *shape[axis + 1 :])
            apart = [None if x is None else self.reshape(x, one, "apart") for x in parts]
            merged = (*shape[:axis], shape[axis] * len(parts), *shape[axis + 1 :])
            whole = self.reshape(self._joined(apart, axis + 1), merged, "interleaved")
        assert whole is not None
        return self.slice(whole, [0] * len(shape), [*shape[:axis], size, *shape[axis + 1 :]], "whole")

    def _joined(self, parts: Sequence[Value | None], axis: int) -> Value:
        """The parts along `axis`, where each has one element; zeros where there is none."""
        (first, like), *others = [(k, x) for k, x in enumerate(parts) if x is not None]
        if not others:
            low = [first if d == axis else 0 for d in range(tensor_of(like).rank)]
            high = [len(parts) - 1 - first if d == axis else 0 for d in range(tensor_of(like).rank)]
            return self.pad(like, low, high, "joined")
        filled = [self.zeros(tensor_of(like)) if x is None else x for x in parts]
        return self(nn.Concat(filled, axis=axis), "joined")

    def fitted(self, x: Value, type: TensorType) -> Value:
        """`x` in the shape of `type`: stretched where it is 1 and `type` is not, summed up where `type` is 1 and it is not."""
        shape, wanted = tensor_of(x).shape, type.shape
        if shape == wanted:
            return x
        if [s for s in shape if s != 1] == [s for s in wanted if s != 1]:
            return self.reshape(x, wanted)
        if broadcast_shapes(self.op, shape, wanted) == wanted:
            return self.broadcast(x, wanted)
        added = len(shape) - len(wanted)
        summed = [d for d, s in enumerate(shape) if s != 1 and (d < added or wanted[d - added] == 1)]
        return self.reshape(self.sum(x, summed), wanted)
