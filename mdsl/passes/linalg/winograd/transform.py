"""The arithmetic of Winograd's convolution: its matrices, and its transforms as scalar ops.

F(m, 3) computes m outputs of a 1-D convolution with 3 weights by alpha = m + 2 products. With the
polynomial M(x) = x (x^2 - p^2) (x^2 - q^2) ... over the points 0, +p, -p, +q, -q, ... and "infinity":

    input   row of point t:  the coefficients of M(x) / (x - t);   row of infinity: those of M(x)
    weight  row of point t:  (1, t, t^2) / M'(t);                  row of infinity: (0, 0, 1)
    output  row k:           the points' k-th powers;              the last row has infinity as well

Points come in pairs, so that the even and the odd powers of a pair's two rows are computed once, and added
and subtracted. In two dimensions the transforms run over columns, then over rows: all columns as far as one pair,
and at once the rows that this makes, so that only they must be kept in registers, not the whole tile.

Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015). The points decide the error
(Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2018): with 3/4 and 3/2,
which are exact in binary and lie around 1, F(4, 3) errs four times less than with 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mdsl.dialects import arith
from mdsl.dialects import math as functions
from mdsl.ir.core import Builder, Value

TAPS = 3
"""Weights along each dimension of the convolution."""

PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.75, 1.5)}
"""The points beside 0 and infinity, of each pair the positive one, for each number of outputs m."""


def alpha(m: int) -> int:
    """Inputs, and products, along each dimension for m outputs."""
    return m + TAPS - 1


def points(m: int, outputs: int) -> int:
    """How many of the alpha points the first `outputs` of m outputs need: infinity serves the last one only."""
    return alpha(m) if outputs == m else alpha(m) - 1


def transformed_weight(weight: np.ndarray, axes: tuple[int, int], m: int) -> np.ndarray:
    """A weight of 3 x 3 (at `axes`) as alpha^2 leading ones; computed in float64, not yet rounded."""
    finite = [0.0, *(sign * p for p in PAIRS[m] for sign in (1, -1))]
    rows = [
        [t**k / np.prod([t - other for other in finite if other != t]) for k in range(TAPS)] for t in finite
    ]
    matrix = np.array([*rows, [0.0] * (TAPS - 1) + [1.0]])
    taps = np.moveaxis(weight.astype(np.float64), axes, (0, 1))
    found = np.kron(matrix, matrix) @ taps.reshape(TAPS**2, -1)
    return found.reshape(alpha(m) ** 2, *taps.shape[2:])


class Transform:
    """Builds the scalar ops of the transforms for m outputs."""

    def __init__(self, builder: Builder, m: int) -> None:
        self.builder = builder
        self.pairs = PAIRS[m]
        self.m = m

    def input(self, data: Sequence[Sequence[Value]]) -> list[Value]:
        """alpha x alpha inputs as alpha^2 factors of the products, row by row."""
        columns = [self._input_1d(column, "t") for column in zip(*data, strict=True)]
        rows = (row for some in zip(*columns, strict=True) for row in zip(*some, strict=True))
        return [v for row in rows for some in self._input_1d(row, "v") for v in some]

    def output(
        self, products: Sequence[Sequence[Value]], rows: int, columns: int
    ) -> Iterator[tuple[tuple[int, int], Value]]:
        """Row, column and value of the first `rows` x `columns` of the m x m outputs, each where it is made; `products`
        lacks infinity where it is not needed."""
        reduced = [self._output_1d(column, rows, "t") for column in zip(*products, strict=True)]
        for some in zip(*reduced, strict=True):
            for i in some[0]:
                for found in self._output_1d([values[i] for values in some], columns, "y"):
                    yield from (((i, j), value) for j, value in found.items())

    def _input_1d(self, v: Sequence[Value], name: str) -> Iterator[list[Value]]:
        """The factors of each pair of points, and of 0 and infinity."""
        squares = [p * p for p in self.pairs]
        whole = _even_polynomial(squares)
        yield [self._sum(whole, v[0::2], f"{name}_0")]
        for i, p in enumerate(self.pairs):
            rest = _even_polynomial(squares[:i] + squares[i + 1 :])
            even, odd = self._sum(rest, v[2::2], "even"), self._sum(rest, v[1::2], "odd")
            yield [
                self._scaled_add(even, p, odd, f"{name}_plus"),
                self._scaled_add(even, -p, odd, f"{name}_minus"),
            ]
        yield [self._sum(whole, v[1::2], f"{name}_inf")]

    def _output_1d(self, y: Sequence[Value], outputs: int, name: str) -> Iterator[dict[int, Value]]:
        """The even outputs, which are made of the pairs' sums, then the odd ones, of their differences."""
        pairs = list(zip(y[1::2], y[2::2], strict=False))[: len(self.pairs)]
        for first, sign, word in ((0, 1.0, "even"), (1, -1.0, "odd")):
            if first < outputs:
                sums = [self._scaled_add(a, sign, b, word) for a, b in pairs]
                yield {k: self._output(k, y, sums, name) for k in range(first, outputs, 2)}

    def _output(self, k: int, y: Sequence[Value], sums: Sequence[Value], name: str) -> Value:
        ends = [y[0]] if k == 0 else [y[-1]] if k == self.m - 1 else []
        terms = [(p**k, v) for p, v in zip(self.pairs, sums, strict=True)]
        return self._combination([*((1.0, v) for v in ends), *terms], f"{name}_{k}")

    def _sum(self, factors: Sequence[float], values: Sequence[Value], name: str) -> Value:
        """The values times their factors, the highest power (whose factor is 1) first."""
        return self._combination(list(zip(factors, values, strict=False))[::-1], name)

    def _combination(self, terms: Sequence[tuple[float, Value]], name: str) -> Value:
        (factor, total), *rest = terms
        if factor != 1.0:
            total = self.builder.value(arith.MulF(total, self._constant(factor, total)), name)
        for factor, value in rest:
            total = self._scaled_add(total, factor, value, name)
        return total

    def _scaled_add(self, total: Value, factor: float, value: Value, name: str) -> Value:
        if factor == 1.0:
            return self.builder.value(arith.AddF(total, value), name)
        if factor == -1.0:
            return self.builder.value(arith.SubF(total, value), name)
        return self.builder.value(functions.Fma(value, self._constant(factor, value), total), name)

    def _constant(self, number: float, like: Value) -> Value:
        return self.builder.value(arith.Constant.of(number, like.type), "factor")


def _even_polynomial(squares: Sequence[float]) -> list[float]:
    """Coefficients of (x - s) (x - t) ... over `squares`, the constant first; x stands for a square."""
    return [float(c) for c in np.poly(squares)[::-1]] if squares else [1.0]
