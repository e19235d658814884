"""winograd: 3x3 convolutions with fewer multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from mdsl.dialects import arith, linalg, linalg_ext, tensor, ukernel
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import TAPS, WinogradInputTransform, WinogradOutputTransform, alpha
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Block, Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, f32
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.winograd.cost import tilings
from mdsl.passes.linalg.winograd.match import Conv, conv_of
from mdsl.passes.linalg.winograd.weight import transformed_weight, weight_matrix
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.rewriting.structured import empty_like, inline_body


@dataclass(frozen=True)
class Winograd(Pass):
    """Compute 3x3 convolutions of stride 1 by Winograd's minimal filtering: fewer multiplications, other rounding.

    Before (maps left out):

        %y = ukernel.region -> tensor<1x4x56x56x16xf32> {
          %c = linalg.generic (convolution) ins(%x, %w : tensor<1x4x58x58x16xf32>, tensor<4x4x3x3x16x16xf32>) ...
          %r = linalg.generic (bias, maximum 0) ins(%c, %bias : ...) ...
        }

    After, with tiles of 4 x 4 outputs, each from 6 x 6 inputs:

        %x_input = linalg_ext.winograd_input_transform {fmr = "F_4_3", ...} ins(%x : ...) outs(... : tensor<6x6x1x4x14x14x16xf32>)
        %v = tensor.collapse_shape %x_input ... into tensor<36x1x4x196x16xf32>
        %m = ukernel.region -> tensor<36x1x4x196x16xf32> {
          %p = linalg.generic (matrix product) ins(%v, %w_winograd : ..., tensor<36x4x4x16x16xf32>) ...
        }
        %p = tensor.expand_shape %m ... into tensor<6x6x1x4x14x14x16xf32>
        %y = linalg_ext.winograd_output_transform {fmr = "F_4_3", ...} ins(%p, %bias : ...) outs(... : tensor<1x4x56x56x16xf32>) {
          (bias, maximum 0)
        }

    36 products instead of 144 for 16 outputs. Constant weights are transformed now, in float64; others, as a network that is trained
    has them, by a product with a matrix of 36 x 9, at each call. A convolution with the filters from last to first, as the gradient of
    an image is, has them transformed so. It works on whatever layout `pack` chose, after `fuse`, so that the output transform takes
    the epilogue in. The transforms become arithmetic when machine code is made of the micro-kernels (`unroll-vectors` shows it).
    `passes/linalg/winograd/cost.py` tells which convolutions gain, and what tile they get.

    Results differ from the plain sum by rounding. Measured against float64 on layers of 64 to 512 channels,
    with weights as in He et al. 2015 and non-negative inputs, the largest error is 3e-7 to 1e-6 of the
    largest output for F(2, 3) and 1.5e-6 to 4e-6 for F(4, 3); that of the plain sum in float32 is 7e-7 to
    2e-6. Sums of up to 100 inputs are formed, so that inputs above 1e36 overflow earlier; an infinity or a
    NaN spreads over its tile.
    Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015).
    """

    name: ClassVar[str] = "winograd"
    level: ClassVar[str | None] = "linalg"
    subject = "3x3 convolution"

    tile: int = option(
        0, "outputs along each side of a tile, 2 or 4; 0: what the cost model finds best", least=0
    )
    all: bool = option(False, "every convolution that can be computed so, not only those that gain")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tile not in (0, 2, 4):
            raise ValueError(f"option 'tile' must be 0, 2 or 4, got {self.tile}")

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            for op in func.body.ops:
                conv = conv_of(op)
                if conv is None:
                    continue
                choice = tilings(conv, self.tile, self.all, context.target)
                if choice.best:
                    message = f"is computed by F({choice.best}x{choice.best}, 3x3)"
                    remarks.applied(op, message, tiles=choice)
                    _Rewriter(conv, choice.best).run()
                else:
                    remarks.missed(op, "is cheaper as it is", tiles=choice)
            drop_unused(func)


class _Rewriter:
    """Replaces one convolution by three steps."""

    def __init__(self, conv: Conv, m: int) -> None:
        self.conv = conv
        self.m = m
        self.side = alpha(m)
        self.builder = Builder.before(conv.root)
        self.builder.location = conv.op.location
        self.tiles = (-(-conv.size[0] // m), -(-conv.size[1] // m))
        self.name = conv.root.results[0].name or "conv"

    def run(self) -> None:
        products = self._products(self._transformed_input(), self._weight())
        result = self._output(products)
        old = self.conv.root.results[0]
        result.name = old.name
        self.conv.root.replace_by(result)

    # Weights ----------------------------------------------------------------------------------------------

    def _weight(self) -> Value:
        """[alpha^2, *weight without its window], a constant if the weight is one."""
        weight, matrix = self.conv.weight, weight_matrix(self.m, self.conv.reversed)
        data = constant_data(weight)
        if data is None:
            return self._transformed_weight(self._constant(matrix.astype(np.float32), "winograd_taps"))
        found = transformed_weight(data, self.conv.weight_dims, matrix)
        return self._constant(found, f"{resource_name(weight)}_winograd")

    def _constant(self, data: np.ndarray, base: str) -> Value:
        type = TensorType(data.shape, f32)
        attr = tensor_attribute(data, type, fresh_resource(self.conv.root, base))
        return self.builder.value(Constant(value=attr, results=[type]), base)

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
        type = TensorType((self.side**2, *(sizes[d] for d in kept)), f32)
        name = f"{weight.name}_winograd" if weight.name else f"{self.name}_weight"
        return self._sum_of_products([matrix, weight], type, maps, iterators, conv.op.body, name)

    # Input ------------------------------------------------------------------------------------------------

    def _transformed_input(self) -> Value:
        """[alpha^2, *image], with the tiles' numbers in the place of the image's rows and columns."""
        h, w = self.conv.image_dims
        image, side, name = self._covering(self.conv.image), self.side, f"{self.name}_input"
        shape = list(shaped_of(image).shape)
        shape[h], shape[w] = self.tiles
        room = _without_collisions(shape, h)
        rest = [0] * len(shape)
        whole = empty_like(TensorType((side, side, *room), f32), self.builder, f"{name}_init")
        out, sizes = whole, [side, side, *shape]
        if room != tuple(shape):
            out = self.builder.value(tensor.ExtractSlice.of(whole, [0, 0, *rest], sizes), f"{name}_part")
        nest = WinogradInputTransform.make(image, out, self.m, (h, w))
        found = self.builder.value(nest, name)
        if room != tuple(shape):
            insert = tensor.InsertSlice.of(found, whole, [0, 0, *rest], sizes)
            found = self.builder.value(insert, f"{name}_all")
        flat = self.builder.value(tensor.CollapseShape.of(found, _merged(len(shape), h)), f"{name}_flat")
        if room == tuple(shape):
            return flat
        used = [side**2, *shape[:h], shape[h] * shape[w], *shape[w + 1 :]]
        return self.builder.value(tensor.ExtractSlice.of(flat, [0] * len(used), used), f"{name}_used")

    def _covering(self, image: Value) -> Value:
        """The image, with zeros behind it where the last tiles reach farther."""
        shape = shaped_of(image).shape
        high = [0] * len(shape)
        for d, tiles in zip(self.conv.image_dims, self.tiles, strict=True):
            high[d] = max(0, tiles * self.m + TAPS - 1 - shape[d])
        if not any(high):
            return image
        low = [0] * len(shape)
        pad = image.owner
        number = arith.constant_of(pad.padding_value) if isinstance(pad, tensor.Pad) else None
        if isinstance(pad, tensor.Pad) and number == 0 and len(pad.operands) == 1:
            image, low = pad.operands[0], pad.attr("static_low")
            high = [old + more for old, more in zip(pad.attr("static_high"), high, strict=True)]
        zero = self.builder.value(Constant.of(0.0, f32), "zero")
        return self.builder.value(tensor.Pad.of(image, low, high, zero), f"{self.name}_covered")

    # Products ---------------------------------------------------------------------------------------------

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
        type = TensorType((self.side**2, *shape), f32)
        name = f"{self.name}_products"
        found = self._sum_of_products([factors, weight], type, maps, iterators, conv.op.body, name)
        split = [self.side, self.side, *type.shape[1 : h + 1], *self.tiles, *type.shape[h + 2 :]]
        expand = tensor.ExpandShape.of(found, _merged(len(split) - 2, h), split)
        return self.builder.value(expand, f"{name}_tiles")

    def _sum_of_products(
        self,
        factors: Sequence[Value],
        type: TensorType,
        maps: Sequence[AffineMap],
        iterators: Sequence[str],
        term: Block,
        name: str,
    ) -> Value:
        """A group of its own: zeros, to which the products are added by the body `term`."""
        region = ukernel.RegionOp.make([type])
        body = Builder(region.body, location=self.conv.op.location)
        zero = self.builder.value(Constant.of(0.0, f32), "zero")
        init = body.value(linalg.Fill.make([zero], [empty_like(type, body, f"{name}_init")]), f"{name}_zero")
        nest = linalg.Generic.make(factors, [init], maps, iterators)
        nest.body.append(linalg.Yield(inline_body(term, nest.body.args, Builder(nest.body)), results=[]))
        region.body.append(ukernel.Yield([body.value(nest, name)], results=[]))
        self.builder.add(region, name)
        return region.results[0]

    # Output -----------------------------------------------------------------------------------------------

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


def _without_collisions(shape: Sequence[int], row: int) -> tuple[int, ...]:
    """`shape`, enlarged in the dimension before `row` if it has a multiple of `_PAGE` bytes: the tensors of
    this shape that are written side by side would all fall into the same few lines of the cache."""
    if row == 0 or 4 * prod(shape) % _PAGE:
        return tuple(shape)
    return (*shape[: row - 1], shape[row - 1] + 1, *shape[row:])


_PAGE = 4096
"""Bytes that the sets of a first-level cache cover."""


def _merged(rank: int, row: int) -> list[list[int]]:
    """The reassociation by which factors, and tiles from dimension `row` on, have one number each: of [alpha, alpha,
    *shape] with a shape of that rank."""
    before, after = range(2, row + 2), range(row + 4, rank + 2)
    return [[0, 1], *([d] for d in before), [row + 2, row + 3], *([d] for d in after)]


def _only(expr: AffineExpr) -> int:
    (dim,) = expr.dims()
    return dim
