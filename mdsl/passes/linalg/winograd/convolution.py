"""winograd: a convolution becomes a transform of its image, products, and a transform of those."""

from __future__ import annotations

from mdsl.dialects import linalg, linalg_ext
from mdsl.dialects.linalg_ext import WinogradInputTransform, WinogradOutputTransform
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, f32
from mdsl.passes.linalg.winograd.match import Conv
from mdsl.passes.linalg.winograd.steps import Padded, Steps
from mdsl.passes.linalg.winograd.weight import transformed_weight, weight_matrix
from mdsl.rewriting.constants import constant_data, resource_name
from mdsl.rewriting.structured import empty_like


class ConvolutionRewriter:
    """Replaces one convolution by three steps."""

    def __init__(self, conv: Conv, m: int, padded: Padded) -> None:
        self.conv = conv
        self.m = m
        self.steps = Steps(conv.root, conv.op, m, padded)
        self.builder = self.steps.builder
        self.tiles = (-(-conv.size[0] // m), -(-conv.size[1] // m))
        self.name = conv.root.results[0].name or "conv"

    def run(self) -> None:
        image, (row, _) = self.conv.image, self.conv.image_dims
        factors = self.steps.factors(WinogradInputTransform, image, row, self.tiles, f"{self.name}_input")
        result = self._output(self._products(factors, self._weight()))
        old = self.conv.root.results[0]
        result.name = old.name
        self.conv.root.replace_by(result)

    def _weight(self) -> Value:
        """[alpha^2, *weight without its window], a constant if the weight is one."""
        weight, matrix = self.conv.weight, weight_matrix(self.m, self.conv.reversed)
        data = constant_data(weight)
        if data is None:
            return self._transformed_weight(self.steps.constant(matrix, "winograd_taps"))
        found = transformed_weight(data, self.conv.weight_dims, matrix)
        return self.steps.constant(found, f"{resource_name(weight)}_winograd")

    def _transformed_weight(self, matrix: Value) -> Value:
        """The weight's transform as a product of its windows with a matrix of alpha^2 rows."""
        conv, weight = self.conv, self.conv.weight
        sizes = shaped_of(weight).shape
        kept = [d for d in range(len(sizes)) if d not in conv.weight_dims]
        taps = (len(kept) + 1, len(kept) + 2)
        place = {**{d: i + 1 for i, d in enumerate(kept)}, **dict(zip(conv.weight_dims, taps, strict=True))}
        loops = len(sizes) + 1
        maps = [
            AffineMap.select(loops, [0, *taps]),
            AffineMap.select(loops, [place[d] for d in range(len(sizes))]),
            AffineMap.select(loops, range(len(kept) + 1)),
        ]
        iterators = [*[linalg.PARALLEL] * (len(kept) + 1), *[linalg.REDUCTION] * 2]
        type = TensorType((self.steps.side**2, *(sizes[d] for d in kept)), f32)
        name = f"{weight.name}_winograd" if weight.name else f"{self.name}_weight"
        found = self.steps.sum_of_products([matrix, weight], type, maps, iterators, conv.op.body, name)
        return self.steps.spread(found, type.shape, name)

    def _products(self, factors: Value, weight: Value) -> Value:
        """[alpha^2, *output, tiles in the place of rows and columns]: the convolution's sum over channels."""
        conv = self.conv
        (row, column), gone = conv.pixel_loops, set(conv.tap_loops)
        loops = [d for d in range(conv.op.num_loops) if d not in gone and d != column]
        place = {d: Dim(i + 1) for i, d in enumerate(loops)}
        image, taps, out = conv.op.maps
        flat = [e for p, e in enumerate(image.results) if p not in conv.image_dims[1:]]
        reads = [place[row] if e.dims() - gone == {row} else place[_only(e)] for e in flat]
        kept = [place[d] for d in taps.dim_positions() or () if d not in gone]
        written = [place[d] for d in out.dim_positions() or () if d != column]
        maps = [AffineMap(len(loops) + 1, 0, (Dim(0), *results)) for results in (reads, kept, written)]
        iterators = [linalg.PARALLEL, *(conv.op.iterators[d] for d in loops)]
        shape = [shaped_of(conv.op.outputs[0]).shape[p] for p in range(len(out.results))]
        h, w = conv.out_dims
        shape[h] = self.tiles[0] * self.tiles[1]
        del shape[w]
        type = TensorType((self.steps.side**2, *shape), f32)
        name = f"{self.name}_products"
        found = self.steps.sum_of_products([factors, weight], type, maps, iterators, conv.op.body, name)
        split = [self.steps.side, self.steps.side, *shape[:h], *self.tiles, *shape[h + 1 :]]
        return self.steps.spread(found, split, name)

    def _output(self, products: Value) -> Value:
        """The convolution's result, epilogue included."""
        tail = self.conv.tail
        init = empty_like(self.conv.root.results[0].type, self.builder, f"{self.name}_init")
        inputs, maps = (
            [products, *(v for v, _ in tail.others)],
            [tail.read, *(m for _, m in tail.others), tail.out],
        )
        nest = WinogradOutputTransform.make(inputs, init, maps, self.m, tail.pixel_loops)
        y, *others, _ = nest.body.args
        nest.body.append(linalg_ext.Yield([tail.apply(y, others, Builder(nest.body))], results=[]))
        return self.builder.value(nest)


def _only(expr: AffineExpr) -> int:
    (dim,) = expr.dims()
    return dim
