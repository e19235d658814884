"""Arithmetic element by element, written as such: `x * (x + 3).clip(0, 6) / 6` builds the ops on tensors.

A number becomes a constant of the other side's element type. What changes no element builds nothing: a product with
1, a power of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mdsl.dialects import nn
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type

if TYPE_CHECKING:
    import numpy as np

    from mdsl.frontends.onnx.registry import Node, Size

Operand: TypeAlias = "Expr | Value | float | np.ndarray | np.generic"


class Expr:
    """A value of the program that a node is computed with. Raises as `Node.build` does."""

    def __init__(self, node: Node, value: Value) -> None:
        self.node = node
        self.value = value

    @property
    def type(self) -> TensorType:
        return tensor_of(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def of(self, op: Callable[..., Op], *others: Operand, **attributes: Any) -> Expr:
        """The op of this value and others."""
        return Expr(self.node, self.node.build(op(self.value, *map(self._value, others), **attributes)))

    def like(self, x: Operand) -> Expr:
        """`x`, a number as a constant of this value's element type."""
        return Expr(self.node, self._value(x))

    def _value(self, x: Operand) -> Value:
        if isinstance(x, Expr):
            return x.value
        return x if isinstance(x, Value) else self.node.const(x, "number", self.type)

    def named(self, name: str) -> Expr:
        """The same value, called after the node's output and `name`."""
        self.value.name = self.node.name_of(name)
        return self

    # Arithmetic -----------------------------------------------------------------------------------------------

    def __add__(self, other: Operand) -> Expr:
        return self.of(nn.Add, other)

    def __radd__(self, other: float) -> Expr:
        return self.of(nn.Add, other)

    def __sub__(self, other: Operand) -> Expr:
        return self.of(nn.Sub, other)

    def __rsub__(self, other: float) -> Expr:
        return self.like(other) - self

    def __mul__(self, other: Operand) -> Expr:
        return self if _is_one(other) else self.of(nn.Mul, other)

    def __rmul__(self, other: float) -> Expr:
        return self * other

    def __truediv__(self, other: Operand) -> Expr:
        return self if _is_one(other) else self.of(nn.Div, other)

    def __rtruediv__(self, other: float) -> Expr:
        return self.like(other) / self

    def __neg__(self) -> Expr:
        return self.of(nn.Neg)

    def __abs__(self) -> Expr:
        return self.of(nn.Abs)

    def __pow__(self, exponent: float) -> Expr:
        """By products and square roots where that is possible: they are exact and fast."""
        if exponent in (1, 2, 3):
            return self if exponent == 1 else self ** (exponent - 1) * self
        if exponent in (0.5, 0.75):
            root = self.of(nn.Sqrt)
            return root if exponent == 0.5 else root * root.of(nn.Sqrt)
        return self.of(nn.Pow, exponent)

    def clip(self, low: float | None, high: float | None) -> Expr:
        """At least `low` and at most `high`."""
        return self.of(nn.Clip, min=low, max=high)

    # Choices --------------------------------------------------------------------------------------------------

    def is_(self, kind: str, other: Operand) -> Expr:
        """Where this is "eq", "ne", "lt", "le", "gt" or "ge" the other."""
        return self.of(nn.Compare, other, kind=kind)

    def __gt__(self, other: Operand) -> Expr:
        return self.is_("gt", other)

    def __ge__(self, other: Operand) -> Expr:
        return self.is_("ge", other)

    def __lt__(self, other: Operand) -> Expr:
        return self.is_("lt", other)

    def __le__(self, other: Operand) -> Expr:
        return self.is_("le", other)

    def __and__(self, other: Expr) -> Expr:
        return self.of(nn.And, other)

    def where(self, flags: Expr, otherwise: Operand) -> Expr:
        """This where the flags are set, elsewhere the other."""
        return flags.of(nn.Select, self, self.like(otherwise))

    # Shapes and types -----------------------------------------------------------------------------------------

    def cast(self, element: Type) -> Expr:
        return Expr(self.node, self.node.cast(self.value, element))

    def reshape(self, sizes: Sequence[Size]) -> Expr:
        return Expr(self.node, self.node.reshape(self.value, sizes))

    def broadcast(self, sizes: Sequence[Size]) -> Expr:
        return Expr(self.node, self.node.broadcast(self.value, sizes))

    def slice(self, axis: int, start: int, end: int, step: int = 1) -> Expr:
        """Every `step`-th element from `start` to before `end` along an axis."""
        steps = None if step == 1 else [step]
        return self.of(nn.Slice, starts=[start], ends=[end], axes=[axis], steps=steps)

    def reduce(self, kind: str, axes: Sequence[int], *, keepdims: bool = True) -> Expr:
        """The "sum", "mean", "prod", "max" or "min" along `axes`."""
        return self.of(nn.Reduce, kind=kind, axes=list(axes), keepdims=keepdims)


def _is_one(x: Operand) -> bool:
    return isinstance(x, int | float) and x == 1
