"""Affine expressions and maps over dimensions, `affine_map<(d0, d1) -> (d0 * 2 + d1)>`.

A sum of a thousand terms is a tree a thousand deep: whatever walks an expression goes by `parts`, without recursion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mdsl.ir.operations import OPERATIONS, Bounds, interval_of, remainders

T = TypeVar("T")
Linear = tuple[dict[int, int], int]
"""The factor of each dimension, and the constant."""


class AffineExpr:
    """Base. Build expressions from `Dim`, `Sym` and `Const` with Python's `+ - * // %`, or `binary`."""

    def __add__(self, other: AffineExpr | int) -> AffineExpr:
        return binary("+", self, lift(other))

    def __sub__(self, other: AffineExpr | int) -> AffineExpr:
        return binary("+", self, lift(other) * -1)

    def __mul__(self, other: AffineExpr | int) -> AffineExpr:
        return binary("*", self, lift(other))

    def __floordiv__(self, other: AffineExpr | int) -> AffineExpr:
        return binary("floordiv", self, lift(other))

    def __mod__(self, other: AffineExpr | int) -> AffineExpr:
        return binary("mod", self, lift(other))

    def __radd__(self, other: int) -> AffineExpr:
        return lift(other) + self

    def __rsub__(self, other: int) -> AffineExpr:
        return lift(other) - self

    def __rmul__(self, other: int) -> AffineExpr:
        return lift(other) * self

    def __rfloordiv__(self, other: int) -> AffineExpr:
        return lift(other) // self

    def __rmod__(self, other: int) -> AffineExpr:
        return lift(other) % self

    def __neg__(self) -> AffineExpr:
        return self * -1

    def parts(self) -> Iterator[AffineExpr]:
        """All subexpressions and the expression itself, operands before what they are operands of."""
        return iter((self,))

    def reduce(self, leaf: Callable[[AffineExpr], T], join: Callable[[Binary, T, T], T]) -> T:
        """What `join` makes of all operations, innermost first, and `leaf` of dimensions, symbols and constants."""
        return leaf(self)

    def dims(self) -> set[int]:
        """Positions of the dimensions that the expression reads."""
        return {part.position for part in self.parts() if isinstance(part, Dim)}

    def evaluate(
        self, dims: Sequence[Any], symbols: Sequence[Any] = (), arithmetic: Arithmetic | None = None
    ) -> Any:
        """The value for `dims` and `symbols`, in the `arithmetic` that these are numbers of; ints or NumPy arrays
        without."""
        constant, apply = arithmetic or NUMBERS

        def leaf(part: AffineExpr) -> Any:
            if isinstance(part, Const):
                return constant(part.value)
            assert isinstance(part, Dim | Sym)
            return (dims if isinstance(part, Dim) else symbols)[part.position]

        return self.reduce(leaf, apply)

    def coefficients(self) -> Linear | None:
        """`({dim: factor}, constant)` of a linear expression; None for any other."""
        return _linear_leaf(self)

    def interval(self, sizes: Sequence[int]) -> Bounds:
        """Numbers between which the expression lies where dimension d runs from 0 to `sizes[d] - 1`, by what is known
        of each operation alone."""
        return self.evaluate([(0, size - 1) for size in sizes], (), INTERVALS)

    def bounds(self, sizes: Sequence[int]) -> Bounds:
        """The least and the greatest value there; those of `interval` where there are too many to try."""
        linear = self.coefficients()
        if linear is not None:
            ends = [sorted((0, f * (sizes[d] - 1))) for d, f in linear[0].items()]
            return linear[1] + sum(low for low, _ in ends), linear[1] + sum(high for _, high in ends)
        dims = sorted(self.dims())
        if not 0 < prod(sizes[d] for d in dims) <= _MAX_TRIED:
            return self.interval(sizes)
        return _extremes(self, tuple((d, sizes[d]) for d in dims))


_MAX_TRIED = 1 << 22


@lru_cache(maxsize=4096)
def _extremes(expr: AffineExpr, sizes: tuple[tuple[int, int], ...]) -> Bounds:
    """The least and the greatest value, found by trying all."""
    counters = np.indices([size for _, size in sizes], np.int64, sparse=True)
    dims = dict(zip((d for d, _ in sizes), counters, strict=True))
    values = expr.evaluate([dims.get(d) for d in range(max(dims) + 1)])
    return int(values.min()), int(values.max())


@dataclass(frozen=True)
class Dim(AffineExpr):
    """The dimension `d<position>`."""

    position: int

    def __str__(self) -> str:
        return f"d{self.position}"


@dataclass(frozen=True)
class Sym(AffineExpr):
    """The symbol `s<position>`."""

    position: int

    def __str__(self) -> str:
        return f"s{self.position}"


@dataclass(frozen=True)
class Const(AffineExpr):
    """An integer."""

    value: int

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, eq=False, repr=False)
class Binary(AffineExpr):
    """`lhs kind rhs` with kind one of `+ * floordiv ceildiv mod`; made by `binary`."""

    kind: str
    lhs: AffineExpr
    rhs: AffineExpr
    hashed: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hashed", hash((self.kind, self.lhs, self.rhs)))

    def __hash__(self) -> int:
        return self.hashed

    def __repr__(self) -> str:
        return f"Binary({self})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Binary) and hash(self) == hash(other) and self._shape() == other._shape()

    def _shape(self) -> list[object]:
        return [part.kind if isinstance(part, Binary) else part for part in self.parts()]

    def parts(self) -> Iterator[AffineExpr]:
        found: list[AffineExpr] = []
        pending: list[AffineExpr] = [self]
        while pending:
            part = pending.pop()
            found.append(part)
            if isinstance(part, Binary):
                pending += (part.lhs, part.rhs)
        return reversed(found)

    def coefficients(self) -> Linear | None:
        return self._coefficients

    @cached_property
    def _coefficients(self) -> Linear | None:
        return self.reduce(_linear_leaf, _linear)

    def reduce(self, leaf: Callable[[AffineExpr], T], join: Callable[[Binary, T, T], T]) -> T:
        pending: list[T] = []
        for part in self.parts():
            if isinstance(part, Binary):
                right, left = pending.pop(), pending.pop()
                pending.append(join(part, left, right))
            else:
                pending.append(leaf(part))
        return pending[0]

    def __str__(self) -> str:
        text: list[str] = []
        pending: list[AffineExpr | str] = [self]
        while pending:
            part = pending.pop()
            if isinstance(part, Binary):
                pending += reversed(part._pieces())
            else:
                text.append(str(part))
        return "".join(text)

    def _pieces(self) -> list[AffineExpr | str]:
        if self.kind == "+" and isinstance(self.rhs, Const) and self.rhs.value < 0:
            return [self.lhs, f" - {-self.rhs.value}"]
        return [*self._side(self.lhs), f" {self.kind} ", *self._side(self.rhs, right=True)]

    def _side(self, side: AffineExpr, right: bool = False) -> list[AffineExpr | str]:
        tight = not isinstance(side, Binary) or (self.kind == "+" and (side.kind != "+" or not right))
        return [side] if tight else ["(", side, ")"]


# Arithmetics --------------------------------------------------------------------------------------------------


class Arithmetic(NamedTuple):
    """What expressions are evaluated in: what stands for a constant, and for an operation on two values."""

    constant: Callable[[int], Any]
    apply: Callable[[Binary, Any, Any], Any]

    @staticmethod
    def of_ops(constant: Callable[[int], Any], emit: Callable[[str, Any, Any], Any]) -> Arithmetic:
        """That of 64-bit numbers, by ops of the arith dialect: `emit` computes, or builds, the op of a name.

        A remainder is clamped to where it lies anyhow, for those who know nothing but the interval of each op.
        """

        def apply(part: Binary, left: Any, right: Any) -> Any:
            if part.kind != "mod":
                return emit(_OPS[part.kind], left, right)
            whole = emit("arith.muli", emit("arith.floordivsi", left, right), right)
            rest = emit("arith.subi", left, whole)
            if not isinstance(part.rhs, Const):
                return rest
            low, high = remainders((part.rhs.value, part.rhs.value))
            return emit("arith.minsi", emit("arith.maxsi", rest, constant(low)), constant(high))

        return Arithmetic(constant, apply)


_OPS = {"+": "arith.addi", "*": "arith.muli", "floordiv": "arith.floordivsi", "ceildiv": "arith.ceildivsi"}

NUMBERS = Arithmetic(lambda value: value, lambda part, left, right: OPERATIONS[part.kind](left, right))
INTERVALS = Arithmetic(
    lambda value: (value, value), lambda part, left, right: interval_of(part.kind, left, right)
)


def _linear_leaf(part: AffineExpr) -> Linear | None:
    if isinstance(part, Const):
        return {}, part.value
    return ({part.position: 1}, 0) if isinstance(part, Dim) else None


def _linear(part: Binary, left: Linear | None, right: Linear | None) -> Linear | None:
    if left is None or right is None:
        return None
    if part.kind == "+":
        factors = {d: left[0].get(d, 0) + right[0].get(d, 0) for d in left[0] | right[0]}
        return factors, left[1] + right[1]
    if part.kind == "*" and not right[0]:
        return {d: f * right[1] for d, f in left[0].items()}, left[1] * right[1]
    return None


def lift(value: AffineExpr | int) -> AffineExpr:
    """An int as a constant expression."""
    return Const(value) if isinstance(value, int) else value


def binary(kind: str, lhs: AffineExpr, rhs: AffineExpr) -> AffineExpr:
    """`lhs kind rhs`, folded where constants allow it; a constant stands on the right.

    Raises ValueError for what is not affine: a division by 0 or by a dimension, a product of dimensions.
    """
    if isinstance(lhs, Const) and kind in "+*":
        lhs, rhs = rhs, lhs
    if isinstance(rhs, Const):
        return _by_constant(kind, lhs, rhs.value)
    if kind == "*" and lhs.dims() and rhs.dims():
        raise ValueError("one factor of a product must be a constant or made of symbols")
    if kind not in "+*" and rhs.dims():
        raise ValueError(f"what stands behind {kind} must be a constant or made of symbols")
    return Binary(kind, lhs, rhs)


def _by_constant(kind: str, lhs: AffineExpr, value: int) -> AffineExpr:
    if kind not in "+*" and value == 0:
        raise ValueError("a map divides by 0")
    if isinstance(lhs, Const):
        return Const(OPERATIONS[kind](lhs.value, value))
    if (kind, value) in (("+", 0), ("*", 1), ("floordiv", 1), ("ceildiv", 1)):
        return lhs
    return Const(0) if (kind, value) in (("*", 0), ("mod", 1)) else Binary(kind, lhs, Const(value))


EXPRESSIONS = Arithmetic(Const, lambda part, left, right: binary(part.kind, left, right))


@dataclass(frozen=True)
class AffineMap:
    """`(d0, ..)[s0, ..] -> (results)`."""

    num_dims: int
    num_symbols: int
    results: tuple[AffineExpr, ...]

    def __str__(self) -> str:
        dims = ", ".join(f"d{i}" for i in range(self.num_dims))
        symbols = f"[{', '.join(f's{i}' for i in range(self.num_symbols))}]" if self.num_symbols else ""
        return f"({dims}){symbols} -> ({', '.join(map(str, self.results))})"

    @staticmethod
    def identity(rank: int) -> AffineMap:
        return AffineMap.select(rank, range(rank))

    @staticmethod
    def select(num_dims: int, positions: Iterable[int]) -> AffineMap:
        """The map that yields the dimensions at `positions`. Those that are alike are mostly one object, which compares faster."""
        return _selecting(num_dims, tuple(positions))

    def evaluate(
        self, dims: Sequence[Any], symbols: Sequence[Any] = (), arithmetic: Arithmetic | None = None
    ) -> tuple[Any, ...]:
        return tuple(r.evaluate(dims, symbols, arithmetic) for r in self.results)

    def apply(self, operands: Sequence[Any], arithmetic: Arithmetic | None = None) -> tuple[Any, ...]:
        """The results for operands that are the dimensions and then the symbols, as those of `affine.apply` are."""
        return self.evaluate(operands[: self.num_dims], operands[self.num_dims :], arithmetic)

    def dim_positions(self) -> tuple[int, ...] | None:
        """Position of the dimension each result is; None unless every result is a plain dimension."""
        return self._positions

    @cached_property
    def _positions(self) -> tuple[int, ...] | None:
        dims = [r.position for r in self.results if isinstance(r, Dim)]
        return tuple(dims) if len(dims) == len(self.results) else None

    def dims(self) -> set[int]:
        """Positions of the dimensions that the results read."""
        return {d for r in self.results for d in r.dims()}

    @cached_property
    def is_permutation(self) -> bool:
        positions = self.dim_positions()
        return positions is not None and sorted(positions) == list(range(self.num_dims))

    @cached_property
    def is_projected_permutation(self) -> bool:
        """True if every result is a plain dimension and none occurs twice."""
        positions = self.dim_positions()
        return positions is not None and len(set(positions)) == len(positions)

    def permuted(self, order: Iterable[int]) -> AffineMap:
        """This map with its results in `order`."""
        return AffineMap(self.num_dims, self.num_symbols, tuple(self.results[d] for d in order))

    def compose(self, inner: Sequence[AffineExpr], num_dims: int) -> AffineMap:
        """This map with dimension i replaced by `inner[i]`, over `num_dims` dimensions."""
        symbols = [Sym(i) for i in range(self.num_symbols)]
        return AffineMap(num_dims, self.num_symbols, self.evaluate(inner, symbols, EXPRESSIONS))


@lru_cache(maxsize=4096)
def _selecting(num_dims: int, positions: tuple[int, ...]) -> AffineMap:
    return AffineMap(num_dims, 0, tuple(Dim(p) for p in positions))
