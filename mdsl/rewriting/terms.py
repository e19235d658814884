"""Formulas of nn ops, written as such: `(x - mean) / (variance + 1e-5).of(nn.Sqrt)` builds the ops.

A number becomes a constant of the other side's element type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.ir.attributes import DenseAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, dtype_of

Operand: TypeAlias = "Term | Value | float"


class Terms:
    """Makes terms at one place of a program; what has no name of its own is called after `name`. `kept` are values of a formula by what
    they are in it, which its gradient can be made of."""

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder, self.name = builder, name
        self.kept: dict[str, Value] = {}

    def __call__(self, value: Value) -> Term:
        return Term(self, value)

    def build(self, op: Op, suffix: str | None = None) -> Term:
        return Term(self, self.builder.value(op, f"{self.name}_{suffix}" if suffix else None))

    def keep(self, **terms: Term) -> None:
        self.kept |= {name: term.value for name, term in terms.items()}

    def constant(self, array: np.ndarray | float, element: Type, name: str) -> Term:
        """A constant tensor of these numbers."""
        data = np.asarray(array, dtype_of(element))
        attr = DenseAttr(data, TensorType(data.shape, element))
        return Term(self, self.builder.value(Constant(value=attr, results=[attr.type]), name))


class Term:
    """A value that is computed with."""

    def __init__(self, terms: Terms, value: Value) -> None:
        self.terms, self.value = terms, value

    @property
    def type(self) -> TensorType:
        return tensor_of(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    def like(self, x: Operand) -> Value:
        """`x`, a number as a constant of this term's element type."""
        if isinstance(x, Term):
            return x.value
        return x if isinstance(x, Value) else self.terms.constant(x, self.type.element, "number").value

    def of(
        self, op: Callable[..., Op], *others: Operand, suffix: str | None = None, **attributes: Any
    ) -> Term:
        """The op of this term and others."""
        return self.terms.build(op(self.value, *map(self.like, others), **attributes), suffix or op_word(op))

    def cast(self, element: Type) -> Term:
        if self.type.element == element:
            return self
        type = self.type.with_element(element)
        return self.terms.build(nn.Cast(self.value, results=[type]), str(element))

    def reshape(self, shape: Sequence[int]) -> Term:
        if self.shape == tuple(shape):
            return self
        type = TensorType(tuple(shape), self.type.element)
        return self.terms.build(nn.Reshape(self.value, results=[type]), "column")

    def reduce(self, kind: str, axes: Sequence[int], keepdims: bool = True) -> Term:
        return self.of(nn.Reduce, kind=kind, axes=list(axes), keepdims=keepdims, suffix=kind)

    def is_(self, kind: str, other: Operand) -> Term:
        return self.of(nn.Compare, other, kind=kind, suffix=kind)

    def where(self, cond: Term, other: Operand) -> Term:
        """This where `cond` holds, else `other`."""
        return self.terms.build(nn.Select(cond.value, self.value, self.like(other)), "chosen")

    def __add__(self, other: Operand) -> Term:
        return self.of(nn.Add, other)

    def __sub__(self, other: Operand) -> Term:
        return self.of(nn.Sub, other)

    def __rsub__(self, other: float) -> Term:
        return Term(self.terms, self.like(other)) - self

    def __mul__(self, other: Operand) -> Term:
        return self.of(nn.Mul, other)

    def __truediv__(self, other: Operand) -> Term:
        return self.of(nn.Div, other)

    def __neg__(self) -> Term:
        return self.of(nn.Neg)


def op_word(op: Callable[..., Op]) -> str:
    """`mul` of nn.mul: what a value that it makes is called."""
    return str(getattr(op, "name", "value")).rpartition(".")[2]
