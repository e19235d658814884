"""Affine expressions and maps over dimensions, `affine_map<(d0, d1) -> (d0 * 2 + d1)>`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class AffineExpr:
    """Base. Build expressions from `Dim`, `Sym` and `Const` with Python's `+ - * // %`."""

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

    def dims(self) -> set[int]:
        """Positions of the dimensions that the expression reads."""
        return set()

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> Any:
        """The value for `dims`: ints, NumPy arrays, intervals or other expressions."""
        raise AssertionError(type(self))

    def coefficients(self) -> tuple[dict[int, int], int] | None:
        """`({dim: factor}, constant)` of a linear expression; None for any other."""
        return None


@dataclass(frozen=True)
class Dim(AffineExpr):
    """The dimension `d<position>`."""

    position: int

    def __str__(self) -> str:
        return f"d{self.position}"

    def dims(self) -> set[int]:
        return {self.position}

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> Any:
        return dims[self.position]

    def coefficients(self) -> tuple[dict[int, int], int] | None:
        return {self.position: 1}, 0


@dataclass(frozen=True)
class Sym(AffineExpr):
    """The symbol `s<position>`."""

    position: int

    def __str__(self) -> str:
        return f"s{self.position}"

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> Any:
        return symbols[self.position]


@dataclass(frozen=True)
class Const(AffineExpr):
    """An integer."""

    value: int

    def __str__(self) -> str:
        return str(self.value)

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> Any:
        return self.value

    def coefficients(self) -> tuple[dict[int, int], int] | None:
        return {}, self.value


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "ceildiv": lambda a, b: -(-a // b),
    "mod": lambda a, b: a % b,
}


@dataclass(frozen=True)
class Binary(AffineExpr):
    """`lhs kind rhs` with kind one of `+ * floordiv ceildiv mod`."""

    kind: str
    lhs: AffineExpr
    rhs: AffineExpr

    def __str__(self) -> str:
        if self.kind == "+" and isinstance(self.rhs, Const) and self.rhs.value < 0:
            return f"{self.lhs} - {-self.rhs.value}"
        return f"{self._side(self.lhs)} {self.kind} {self._side(self.rhs, right=True)}"

    def _side(self, side: AffineExpr, right: bool = False) -> str:
        tight = not isinstance(side, Binary) or (self.kind == "+" and (side.kind != "+" or not right))
        return str(side) if tight else f"({side})"

    def dims(self) -> set[int]:
        return self.lhs.dims() | self.rhs.dims()

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> Any:
        return _OPERATIONS[self.kind](self.lhs.evaluate(dims, symbols), self.rhs.evaluate(dims, symbols))

    def coefficients(self) -> tuple[dict[int, int], int] | None:
        left, right = self.lhs.coefficients(), self.rhs.coefficients()
        if left is None or right is None:
            return None
        if self.kind == "+":
            factors = {d: left[0].get(d, 0) + right[0].get(d, 0) for d in left[0] | right[0]}
            return factors, left[1] + right[1]
        if self.kind == "*" and not right[0]:
            return {d: f * right[1] for d, f in left[0].items()}, left[1] * right[1]
        return None


def lift(value: AffineExpr | int) -> AffineExpr:
    """An int as a constant expression."""
    return Const(value) if isinstance(value, int) else value


def binary(kind: str, lhs: AffineExpr, rhs: AffineExpr) -> AffineExpr:
    """`lhs kind rhs`, folded where constants allow it; a constant stands on the right."""
    if isinstance(lhs, Const) and isinstance(rhs, Const):
        return Const(_OPERATIONS[kind](lhs.value, rhs.value))
    if kind in "+*" and isinstance(lhs, Const):
        lhs, rhs = rhs, lhs
    if isinstance(rhs, Const):
        if (kind, rhs.value) in (("+", 0), ("*", 1), ("floordiv", 1), ("ceildiv", 1)):
            return lhs
        if (kind, rhs.value) in (("*", 0), ("mod", 1)):
            return Const(0)
    return Binary(kind, lhs, rhs)


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
        """The map that yields the dimensions at `positions`."""
        return AffineMap(num_dims, 0, tuple(Dim(p) for p in positions))

    def evaluate(self, dims: Sequence[Any], symbols: Sequence[Any] = ()) -> tuple[Any, ...]:
        return tuple(r.evaluate(dims, symbols) for r in self.results)

    def dim_positions(self) -> tuple[int, ...] | None:
        """Position of the dimension each result is; None unless every result is a plain dimension."""
        if not all(isinstance(r, Dim) for r in self.results):
            return None
        return tuple(r.position for r in self.results if isinstance(r, Dim))

    def dims(self) -> set[int]:
        """Positions of the dimensions that the results read."""
        return {d for r in self.results for d in r.dims()}

    @property
    def is_identity(self) -> bool:
        return self.dim_positions() == tuple(range(self.num_dims))

    @property
    def is_permutation(self) -> bool:
        positions = self.dim_positions()
        return positions is not None and sorted(positions) == list(range(self.num_dims))

    @property
    def is_projected_permutation(self) -> bool:
        """True if every result is a plain dimension and none occurs twice."""
        positions = self.dim_positions()
        return positions is not None and len(set(positions)) == len(positions)

    def compose(self, inner: Sequence[AffineExpr], num_dims: int) -> AffineMap:
        """This map with dimension i replaced by `inner[i]`, over `num_dims` dimensions."""
        return AffineMap(
            num_dims, self.num_symbols, self.evaluate(inner, [Sym(i) for i in range(self.num_symbols)])
        )
