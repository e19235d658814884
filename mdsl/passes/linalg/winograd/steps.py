"""winograd: what its rewrites share: tiles of an image as factors, and sums of products in groups of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import gcd, prod
from operator import mul

import numpy as np

from mdsl.dialects import arith, linalg, tensor, ukernel
from mdsl.dialects.arith import Constant
from mdsl.dialects.linalg_ext import TAPS, WinogradFactors, WinogradInputTransform, alpha
from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, f32
from mdsl.rewriting.constants import fresh_resource
from mdsl.rewriting.structured import empty_like, inline_body, reshaped

Padded = dict[tuple[Value, tuple[int, ...], tuple[int, ...]], Value]
"""Images with zeros around them that the pass made in a function so far, by the image and the zeros' numbers."""


class Steps:
    """Builds the steps that take the place of `root`, whose location they get, for m outputs along each side of a tile."""

    def __init__(self, root: Op, like: Op, m: int, padded: Padded) -> None:
        self.root = root
        self.m = m
        self.side = alpha(m)
        self.builder = Builder.before(root)
        self.builder.location = like.location
        self.padded = padded

    def constant(self, data: np.ndarray, base: str) -> Value:
        """A constant in f32, kept under a name that begins with `base`."""
        type = TensorType(data.shape, f32)
        attr = tensor_attribute(data.astype(np.float32), type, fresh_resource(self.root, base))
        return self.builder.value(Constant(value=attr, results=[type]), base)

    def factors(
        self, transform: type[WinogradFactors], image: Value, row: int, tiles: tuple[int, int], name: str
    ) -> Value:
        """[alpha^2, *image], with the tiles' numbers in the place of the image's rows (dimension `row`) and columns, which
        follow them."""
        if transform is WinogradInputTransform:
            image = self._covering(image, row, tiles, name)
        shape = list(shaped_of(image).shape)
        shape[row : row + 2] = tiles
        init = empty_like(TensorType((self.side, self.side, *shape), f32), self.builder, f"{name}_init")
        found = self.builder.value(transform.make(image, init, self.m, (row, row + 1)), name)
        return self.spread(found, [self.side**2, *shape[:row], prod(tiles), *shape[row + 2 :]], name)

    def spread(self, value: Value, shape: Sequence[int], name: str) -> Value:
        """`value`, alpha^2 tensors in one, in `shape`. The tensors begin at different places of a page, for those that are read or
        written side by side would all fall into the same few sets of the caches."""
        count = self.side**2
        size = prod(shape) // count
        if count * gcd(4 * size, _PAGE) <= _WAYS * _PAGE:
            found = reshaped(value, shape, self.builder, f"{name}_flat")
            assert found is not None, "tiles, or what counts the tensors, are joined or split"
            return found
        flat = tensor.CollapseShape.of(value, self._groups(shaped_of(value).shape))
        room = empty_like(TensorType((count, size + _APART), f32), self.builder, f"{name}_room")
        insert = tensor.InsertSlice.of(self.builder.value(flat, f"{name}_flat"), room, [0, 0], [count, size])
        room = self.builder.value(insert, f"{name}_all")
        used = self.builder.value(tensor.ExtractSlice.of(room, [0, 0], [count, size]), f"{name}_used")
        return self.builder.value(tensor.ExpandShape.of(used, self._groups(shape), shape), f"{name}_tiles")

    def _groups(self, shape: Sequence[int]) -> list[list[int]]:
        """The dimensions of `shape` that count the alpha^2 tensors, and the others."""
        lead = list(accumulate(shape, mul)).index(self.side**2) + 1
        return [list(range(lead)), list(range(lead, len(shape)))]

    def _covering(self, image: Value, row: int, tiles: tuple[int, int], name: str) -> Value:
        """What the tiles are of: the image, with zeros behind it where the last tiles reach farther, or without what none of them reaches."""
        shape = shaped_of(image).shape
        wanted = list(shape)
        wanted[row : row + 2] = [count * self.m + TAPS - 1 for count in tiles]
        if any(size < had for size, had in zip(wanted, shape, strict=True)):
            kept = list(map(min, wanted, shape))
            image = self.builder.value(
                tensor.ExtractSlice.of(image, [0] * len(shape), kept), f"{name}_reached"
            )
        high = [size - had for size, had in zip(wanted, shaped_of(image).shape, strict=True)]
        if not any(high):
            return image
        low = [0] * len(shape)
        pad = image.owner
        number = arith.constant_of(pad.padding_value) if isinstance(pad, tensor.Pad) else None
        if isinstance(pad, tensor.Pad) and number == 0 and len(pad.operands) == 1:
            image, low = pad.operands[0], pad.attr("static_low")
            high = [old + more for old, more in zip(pad.attr("static_high"), high, strict=True)]
        key = image, tuple(low), tuple(high)
        if key not in self.padded:
            zero = self.builder.value(Constant.of(0.0, f32), "zero")
            self.padded[key] = self.builder.value(tensor.Pad.of(image, low, high, zero), f"{name}_covered")
        return self.padded[key]

    def sum_of_products(
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
        body = Builder(region.body, location=self.builder.location)
        zero = self.builder.value(Constant.of(0.0, f32), "zero")
        init = body.value(linalg.Fill.make([zero], [empty_like(type, body, f"{name}_init")]), f"{name}_zero")
        found = body.value(contraction(factors, init, maps, iterators, term), name)
        region.body.append(ukernel.Yield([found], results=[]))
        self.builder.add(region, name)
        return region.results[0]


def contraction(
    factors: Sequence[Value], init: Value, maps: Sequence[AffineMap], iterators: Sequence[str], term: Block
) -> linalg.Generic:
    """A nest that adds products to `init` by the body `term`."""
    nest = linalg.Generic.make(factors, [init], maps, iterators)
    nest.body.append(linalg.Yield(inline_body(term, nest.body.args, Builder(nest.body)), results=[]))
    return nest


_PAGE = 4096
"""Bytes that the sets of a first-level cache cover."""

_WAYS = 4
"""So many of the tensors may begin in one set: half of a set's lines, as processors have them; others are in use."""

_APART = 16
"""Elements of a line of the caches, by which tensors side by side are set apart."""
