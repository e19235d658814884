"""Winograd's transforms as arithmetic: each op of `linalg_ext` on memory as a nest whose body moves a whole tile.

F(m, 3) computes m outputs of a 1-D convolution with 3 weights by alpha = m + 2 products. With the
polynomial M(x) = x (x^2 - p^2) (x^2 - q^2) ... over the points 0, +p, -p, +q, -q, ... and "infinity":

    input   row of point t:  the coefficients of M(x) / (x - t);   row of infinity: those of M(x)
    output  row k:           the points' k-th powers;              the last row has infinity as well
    gradient                 the output's, transposed

Points come in pairs, so that the even and the odd powers of a pair's two rows are computed once, and added
and subtracted. In two dimensions the transforms run over columns, then over rows: all columns as far as one pair,
and at once the rows that this makes, so that only they must be kept in registers, not the whole tile.

Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from mdsl.dialects import arith, linalg, memref
from mdsl.dialects import math as functions
from mdsl.dialects.linalg_ext import (
    PAIRS,
    WinogradFactors,
    WinogradInputTransform,
    WinogradOutputTransform,
    WinogradTransform,
    alpha,
)
from mdsl.ir.affine import AffineExpr, AffineMap, Const, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.rewriting.structured import inline_body


def expand_transforms(root: Op) -> None:
    """Replaces the transforms under `root`, which work on memory, by nests."""
    for op in root.walk():
        if isinstance(op, WinogradTransform):
            expand_transform(op)


def expand_transform(op: WinogradTransform) -> None:
    """Replaces a transform, which works on memory, by nests."""
    builder = Builder.before(op)
    for rows, columns in product(*(image_parts(op.pixels_along(d), op.m) for d in op.image)):
        if isinstance(op, WinogradFactors):
            _factors_nest(op, rows, columns, builder)
        elif isinstance(op, WinogradOutputTransform):
            _OutputNest(op, rows, columns, builder).build()
    op.erase()


def _factors_nest(op: WinogradFactors, rows: ImagePart, columns: ImagePart, builder: Builder) -> None:
    """Builds the nest of some tiles: an input for each pixel of a tile, an output for each factor."""
    image, whole = op.operands
    (h, w), side, rank = op.image, range(alpha(op.m)), op.tile_loops
    first, extents = [0] * rank, op.loop_sizes()[:rank]
    for d, part in ((h, rows), (w, columns)):
        first[d], extents[d] = part.first, part.count

    def factor(i: int, j: int) -> Value:
        part = memref.SubView.of(whole, [i, j, *first], [1, 1, *extents], shape=extents)
        return builder.value(part, f"{whole.name}_{i}_{j}" if whole.name else None)

    def shifted(i: int, j: int) -> AffineMap:
        moved: list[AffineExpr] = [Dim(d) for d in range(rank)]
        moved[h] = Dim(h) * op.m + (rows.first * op.m + i)
        moved[w] = Dim(w) * op.m + (columns.first * op.m + j)
        return AffineMap(rank, 0, tuple(moved))

    high, wide = op.inner_sizes((rows.outputs, columns.outputs))[2:]
    pixels = list(product(range(high), range(wide)))
    outs = [factor(i, j) for i in side for j in side]
    maps = [*(shifted(i, j) for i, j in pixels), *[AffineMap.identity(rank)] * len(outs)]
    nest = linalg.Generic.make([image] * len(pixels), outs, maps, [linalg.PARALLEL] * rank)
    data = [nest.body.args[i * wide : (i + 1) * wide] for i in range(high)]
    for i, j in pixels:
        data[i][j].name = f"x_{i}_{j}"
    transform = Transform(Builder(nest.body), op.m)
    made = transform.input(data) if isinstance(op, WinogradInputTransform) else transform.gradient(data)
    nest.body.append(linalg.Yield(made, results=[]))
    builder.add(nest)


@dataclass(frozen=True)
class ImagePart:
    """Tiles along one dimension: the first, how many, and the outputs of each that lie in the image."""

    first: int
    count: int
    outputs: int


def image_parts(size: int, m: int) -> list[ImagePart]:
    """The whole tiles, and the one that the image's end cuts."""
    whole, rest = divmod(size, m)
    return [p for p in (ImagePart(0, whole, m), ImagePart(whole, 1, rest)) if p.count and p.outputs]


class _OutputNest:
    """Builds the nest of some tiles: transform and epilogue, with an output for each pixel of a tile."""

    def __init__(
        self, op: WinogradOutputTransform, rows: ImagePart, columns: ImagePart, builder: Builder
    ) -> None:
        self.op = op
        self.parts = (rows, columns)
        self.builder = builder
        self.operands: list[tuple[Value, AffineMap]] = []

    def build(self) -> None:
        op, (rows, columns) = self.op, self.parts
        height, width = points(op.m, rows.outputs), points(op.m, columns.outputs)
        pixels = list(product(range(rows.outputs), range(columns.outputs)))
        outs = [self._pixels(i, j) for i, j in pixels]
        read, *others, out = op.pixel_maps
        products = self._products(read)
        for i, j in product(range(height), range(width)):
            map = AffineMap(op.tile_loops, 0, (Const(i), Const(j), *read.results))
            self.operands.append((products, map))
        further = list(zip(op.inputs[1:], others, strict=True))
        reads = {(i, j): [self._operand(v, self._at(m, i, j)) for v, m in further] for i, j in pixels}
        maps = [*(m for _, m in self.operands), *[out] * len(outs)]
        iterators = [linalg.PARALLEL] * op.tile_loops
        nest = linalg.Generic.make([v for v, _ in self.operands], outs, maps, iterators)
        body, arguments = Builder(nest.body), nest.body.args
        for (i, j), argument in zip(product(range(height), range(width)), arguments, strict=False):
            argument.name = f"p_{i}_{j}"
        grid: list[Sequence[Value]] = [arguments[k : k + width] for k in range(0, height * width, width)]
        made: dict[tuple[int, int], Value] = {}
        for pixel, value in Transform(body, op.m).output(grid, rows.outputs, columns.outputs):
            # The old element of the output is not read: any value stands for it.
            given = [value, *(arguments[k] for k in reads[pixel]), value]
            (made[pixel],) = inline_body(op.body, given, body)
        nest.body.append(linalg.Yield([made[pixel] for pixel in pixels], results=[]))
        self.builder.add(nest)

    def _pixels(self, i: int, j: int) -> Value:
        """The part of the output that row and column i, j of these tiles make."""
        op, whole = self.op, self.op.outputs[0]
        sizes = op.pixel_sizes()
        offsets, strides = [0] * len(sizes), [1] * len(sizes)
        for d, part, number in zip(op.image, self.parts, (i, j), strict=True):
            offsets[d], sizes[d] = part.first * op.m + number, part.count
            strides[d] = op.m if part.count > 1 else 1
        order = op.pixel_maps[-1].dim_positions() or ()
        picked = [[of[d] for d in order] for of in (offsets, sizes, strides)]
        name = f"{whole.name}_{i}_{j}" if whole.name else None
        return self.builder.value(memref.SubView.of(whole, *picked), name)

    def _products(self, read: AffineMap) -> Value:
        """The products of these tiles."""
        op, whole = self.op, self.op.inputs[0]
        old = op.loop_sizes()
        sizes, offsets = list(old), [0] * len(old)
        for d, part in zip(op.image, self.parts, strict=True):
            offsets[d], sizes[d] = part.first, part.count
        if sizes == old:
            return whole
        order, side = read.dim_positions() or (), alpha(op.m)
        starts, extents = [0, 0, *(offsets[d] for d in order)], [side, side, *(sizes[d] for d in order)]
        return self.builder.value(memref.SubView.of(whole, starts, extents), whole.name)

    def _at(self, map: AffineMap, i: int, j: int) -> AffineMap:
        """A map over pixels, at row and column i, j of each tile."""
        op = self.op
        inner: list[AffineExpr] = [Dim(d) for d in range(op.tile_loops)]
        for d, part, number in zip(op.image, self.parts, (i, j), strict=True):
            inner[d] = Dim(d) * op.m + (part.first * op.m + number)
        return map.compose(inner, op.tile_loops)

    def _operand(self, value: Value, map: AffineMap) -> int:
        """The number of an operand, each taken once."""
        if (value, map) not in self.operands:
            self.operands.append((value, map))
        return self.operands.index((value, map))


def points(m: int, outputs: int) -> int:
    """How many of the alpha points the first `outputs` of m outputs need: infinity serves the last one only."""
    return alpha(m) if outputs == m else alpha(m) - 1


class Transform:
    """Builds the scalar ops of the transforms for m outputs."""

    def __init__(self, builder: Builder, m: int) -> None:
        self.builder = builder
        self.pairs = PAIRS[m]
        self.m = m

    def input(self, data: Sequence[Sequence[Value]]) -> list[Value]:
        """alpha x alpha inputs as alpha^2 factors of the products, row by row."""
        return self._factors(data, self._input_1d)

    def gradient(self, data: Sequence[Sequence[Value]]) -> list[Value]:
        """The gradients of a tile's first outputs, m x m at most, as alpha^2 factors of the products, row by row."""
        return self._factors(data, self._gradient_1d)

    def _factors(
        self, data: Sequence[Sequence[Value]], along: Callable[[Sequence[Value], str], Iterator[list[Value]]]
    ) -> list[Value]:
        columns = [along(column, "t") for column in zip(*data, strict=True)]
        rows = (row for some in zip(*columns, strict=True) for row in zip(*some, strict=True))
        return [v for row in rows for some in along(row, "v") for v in some]

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

    def _gradient_1d(self, v: Sequence[Value], name: str) -> Iterator[list[Value]]:
        """The factors of 0, each pair of points, and infinity, which has what the last output has, if it is there."""
        yield [v[0]]
        for p in self.pairs:
            even, odd = (
                self._combination([(p ** (k - first), v[k]) for k in range(first, len(v), 2)], word)
                if first < len(v)
                else None
                for first, word in ((0, "even"), (1, "odd"))
            )
            assert even is not None, "a tile has a pixel"
            signs = ((p, f"{name}_plus"), (-p, f"{name}_minus"))
            yield [self._scaled_add(even, f, odd, word) if odd is not None else even for f, word in signs]
        yield [v[-1] if len(v) == self.m else self._constant(0.0, v[0])]

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
