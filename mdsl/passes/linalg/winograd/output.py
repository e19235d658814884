"""winograd: the output transform, from the products of tiles to the pixels of the result, epilogue included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from mdsl.dialects import linalg, tensor
from mdsl.ir.affine import AffineExpr, AffineMap, Const, Dim
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.linalg.winograd.match import Conv
from mdsl.passes.linalg.winograd.transform import Transform, alpha, points
from mdsl.rewriting.structured import empty_like


@dataclass(frozen=True)
class _Part:
    """Tiles along one dimension: the first, how many, and the outputs of each that lie in the image."""

    first: int
    count: int
    outputs: int


def _parts(size: int, m: int) -> list[_Part]:
    """The whole tiles, and the one that the image's end cuts."""
    whole, rest = divmod(size, m)
    return [p for p in (_Part(0, whole, m), _Part(whole, 1, rest)) if p.count and p.outputs]


def build_outputs(conv: Conv, m: int, products: Value, builder: Builder, name: str) -> Value:
    """The convolution's result, of `products` [alpha^2, *output with tiles for rows and columns]: an output
    transform for each combination of whole and cut tiles."""
    result = empty_like(conv.root.results[0].type, builder, f"{name}_init")
    for rows in _parts(conv.size[0], m):
        for columns in _parts(conv.size[1], m):
            result = _PartBuilder(conv, m, rows, columns, builder, name).build(products, result)
    return result


@dataclass
class _PartBuilder:
    """Builds the output transform of some tiles."""

    conv: Conv
    m: int
    rows: _Part
    columns: _Part
    builder: Builder
    name: str
    operands: list[tuple[Value, AffineMap]] = field(default_factory=list)

    def build(self, products: Value, result: Value) -> Value:
        """`result` with the pixels of these tiles."""
        tail, whole = self.conv.tail, shaped_of(result)
        at = [tail.out.results.index(Dim(d)) for d in tail.pixel_loops]
        shape = list(whole.shape)
        shape[at[0]], shape[at[1]] = self.rows.count, self.columns.count
        init = empty_like(TensorType(tuple(shape), whole.element), self.builder, f"{self.name}_part_init")
        nest = self._nest(self._tiles(products), init)
        for part, (i, j) in zip(nest.results, self._pixels(), strict=True):
            offsets, strides = [0] * len(shape), [1] * len(shape)
            for d, place, number in zip(at, (self.rows, self.columns), (i, j), strict=True):
                offsets[d] = place.first * self.m + number
                strides[d] = self.m if place.count > 1 else 1
            insert = tensor.InsertSlice.of(part, result, offsets, shape, strides)
            result = self.builder.value(insert, f"{self.name}_to_{i}_{j}")
        return result

    def _pixels(self) -> list[tuple[int, int]]:
        """Row and column, within a tile, of each output."""
        return [(i, j) for i in range(self.rows.outputs) for j in range(self.columns.outputs)]

    def _tiles(self, products: Value) -> Value:
        """The products of these tiles."""
        type = shaped_of(products)
        sizes, offsets = list(type.shape), [0] * type.rank
        for p, part in zip(self.conv.out_dims, (self.rows, self.columns), strict=True):
            offsets[p + 1], sizes[p + 1] = part.first, part.count
        if tuple(sizes) == type.shape:
            return products
        return self.builder.value(tensor.ExtractSlice.of(products, offsets, sizes), f"{products.name}_part")

    def _nest(self, products: Value, init: Value) -> linalg.Generic:
        """Transform and epilogue, with an output for each pixel of a tile."""
        tail, side = self.conv.tail, alpha(self.m)
        height, width = points(self.m, self.rows.outputs), points(self.m, self.columns.outputs)
        for i in range(height):
            for j in range(width):
                map = AffineMap(tail.loops, 0, (Const(i * side + j), *tail.read.results))
                self.operands.append((products, map))
        reads = {
            (i, j): [self._operand(v, self._at_pixel(m, i, j)) for v, m in tail.others]
            for i, j in self._pixels()
        }
        inputs, maps = [v for v, _ in self.operands], [m for _, m in self.operands]
        count = len(reads)
        iterators = [linalg.PARALLEL] * tail.loops
        nest = linalg.Generic.make(inputs, [init] * count, [*maps, *[tail.out] * count], iterators)
        body, arguments = Builder(nest.body), nest.body.args
        grid: list[Sequence[Value]] = [arguments[k : k + width] for k in range(0, height * width, width)]
        for (i, j), argument in zip(product(range(height), range(width)), arguments, strict=False):
            argument.name = f"p_{i}_{j}"
        made = {
            pixel: tail.apply(value, [arguments[k] for k in reads[pixel]], body)
            for pixel, value in Transform(body, self.m).output(grid, self.rows.outputs, self.columns.outputs)
        }
        results = [made[pixel] for pixel in self._pixels()]
        nest.body.append(linalg.Yield(results, results=[]))
        return self.builder.add(nest, *[f"{self.name}_{i}_{j}" for i, j in self._pixels()])

    def _at_pixel(self, map: AffineMap, i: int, j: int) -> AffineMap:
        """A map of the epilogue with the loops over rows and columns at one pixel of each tile."""
        inner: list[AffineExpr] = [Dim(d) for d in range(self.conv.tail.loops)]
        for d, part, number in zip(
            self.conv.tail.pixel_loops, (self.rows, self.columns), (i, j), strict=True
        ):
            inner[d] = Dim(d) * self.m + (part.first * self.m + number)
        return map.compose(inner, self.conv.tail.loops)

    def _operand(self, value: Value, map: AffineMap) -> int:
        """The number of an operand, each taken once."""
        if (value, map) not in self.operands:
            self.operands.append((value, map))
        return self.operands.index((value, map))
