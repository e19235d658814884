"""linalg_ext: structured ops that upstream's linalg has for fewer layouts than we need. They look like upstream's
(`linalg.winograd_input_transform`), and say in attributes which dimensions are the image's, as IREE's dialect does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Self

from mdsl.dialects.linalg import (
    element_type,
    parse_ins_outs,
    print_results,
    result_types,
    shape_of,
)
from mdsl.dialects.terminator import Terminator
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import AffineMapAttr, ArrayAttr, DenseArrayAttr
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import INDICES, MAPS, SHAPED, attr, one_of, operand, region, result
from mdsl.ir.types import DYNAMIC, TensorType, f32, i64

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

TAPS = 3
"""Weights along each dimension of the convolution."""

PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.75, 1.5)}
"""The points beside 0 and infinity, of each pair the positive one, for each number of outputs m.

They decide the error (Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2018): with
3/4 and 3/2, which are exact in binary and lie around 1, F(4, 3) errs four times less than with 1 and 2."""


def alpha(m: int) -> int:
    """Inputs, and products, along each dimension for m outputs."""
    return m + TAPS - 1


class Yield(Terminator):
    """Ends the body: the new element of the output."""

    name = "linalg_ext.yield"


class WinogradTransform(Op):
    """Base of the transforms: an iteration of the outer loops moves a whole tile. It is no `LinalgOp`: a pass that takes
    those apart would have to know what goes on within a tile."""

    inputs = operand(SHAPED, variadic=True)
    outputs = operand(SHAPED, variadic=True)
    results_ = result(variadic=True)
    body_region = region(arguments=True)

    fmr = attr(one_of("F_2_3", "F_4_3"), doc="outputs of a tile and taps, along each dimension")
    image_dimensions = attr(INDICES, doc="the loops over rows and columns")

    @property
    def m(self) -> int:
        """Outputs along each side of a tile."""
        return int(str(self.attr("fmr"))[2])

    @property
    def image(self) -> tuple[int, int]:
        """The loops over rows and columns, which count tiles."""
        rows, columns = self.attr("image_dimensions")
        return rows, columns

    @property
    def tile_loops(self) -> int:
        """How many loops come first, over tiles and whatever has a tile of its own (images, channels)."""
        raise AssertionError

    @property
    def maps(self) -> list[AffineMap]:
        """One map an operand: the loops over tiles, then those within a tile -> element."""
        raise AssertionError

    def loop_sizes(self) -> list[int]:
        raise AssertionError

    def flops(self, body: int) -> int:
        """About how many operations the op takes, `body` of them for each element that it makes. Each pair of points
        shares the even and the odd powers."""
        raise AssertionError

    def pixels_along(self, loop: int) -> int:
        """Pixels of the convolution's output along a loop of `image`, as far as the op knows: whole tiles at least."""
        return self.loop_sizes()[loop] * self.m

    def inner_sizes(self, outputs: tuple[int, int]) -> list[int]:
        """The extents of the loops within a tile of which so many rows and columns of outputs are wanted."""
        return [alpha(self.m)] * 4

    def elements(self, rows: int, columns: int) -> int:
        """How many elements such a tile has in the op's output, for each element of a channel."""
        return alpha(self.m) ** 2

    def verify_op(self) -> None:
        loops = self.attr("image_dimensions")
        if len(loops) != 2 or len({*loops}) != 2 or not all(0 <= d < self.tile_loops for d in loops):
            raise self.error(f"image_dimensions must be two of the {self.tile_loops} dimensions")
        if any(element_type(v) != f32 or DYNAMIC in shape_of(v) for v in (self.inputs[0], *self.outputs)):
            raise self.error("transforms static shapes of f32")

    def _verify_types(self) -> None:
        """Checks the body's type, and that all operands are tensors, or all memory."""
        if len({isinstance(v.type, TensorType) for v in self.operands}) > 1:
            raise self.error("works on tensors or on memory, not on both")
        if [a.type for a in self.body.args] != [element_type(v) for v in self.operands]:
            raise self.error("the body must take an element of each operand")
        end = self.body.last
        if not isinstance(end, Yield) or [v.type for v in end.operands] != [f32]:
            raise (end or self).error("the body must end in 'linalg_ext.yield' with an element of the output")
        if [r.type for r in self.results] != result_types(self.outputs):
            raise self.error("results must be of the types of the output tensors")

    def _print_operands(self, printer: Printer) -> None:
        printer.token(printer.dictionary(self))
        for word, values in (("ins", self.inputs), ("outs", self.outputs)):
            printer.token(f"{word}({printer.values(values)} : {printer.types(values)})")

    def _expect(self, value: Value, shape: Sequence[int]) -> None:
        if shape_of(value) != tuple(shape):
            raise self.error(f"takes or makes {'x'.join(map(str, shape))} elements, got {value.type}")


class WinogradFactors(WinogradTransform):
    """Base of the transforms whose results are factors of products: each of a tile of an image. The output has alpha x alpha
    in front, and tiles where the image has rows and columns; tiles begin every m rows and columns."""

    @classmethod
    def make(cls, image: Value, out: Value, m: int, dimensions: Sequence[int]) -> Self:
        return cls(
            [image],
            [out],
            results=result_types([out]),
            regions=[cls._body()],
            fmr=f"F_{m}_3",
            image_dimensions=DenseArrayAttr(i64, tuple(dimensions)),
        )

    @staticmethod
    def _body() -> Region:
        block = Block([f32, f32], ["in", "out"])
        block.append(Yield([block.args[0]], results=[]))
        return Region(block)

    @staticmethod
    def tiles_along(pixels: int, m: int) -> int | None:
        """How many tiles so many rows or columns of the image are; None if they are no tiles."""
        raise AssertionError

    @property
    def tile_loops(self) -> int:
        return len(shape_of(self.operands[0]))

    @property
    def maps(self) -> list[AffineMap]:
        """Loops: one a dimension of the image, rows and columns by tiles; the factor's row and column; the pixel's."""
        rank, (h, w) = self.tile_loops, self.image
        pixels: list[AffineExpr] = [Dim(d) for d in range(rank)]
        pixels[h], pixels[w] = Dim(h) * self.m + Dim(rank + 2), Dim(w) * self.m + Dim(rank + 3)
        return [
            AffineMap(rank + 4, 0, tuple(pixels)),
            AffineMap.select(rank + 4, [rank, rank + 1, *range(rank)]),
        ]

    def verify_op(self) -> None:
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            raise self.error("takes 1 input and 1 output")
        super().verify_op()
        shape, tiles = list(shape_of(self.inputs[0])), shape_of(self.outputs[0])
        if len(tiles) != len(shape) + 2:
            raise self.error("the output must have two dimensions more than the image")
        for d in self.image:
            found = self.tiles_along(shape[d], self.m)
            if found is None:
                raise self.error(f"{shape[d]} rows or columns are no tiles of {alpha(self.m)}")
            shape[d] = found
        self._expect(self.outputs[0], [alpha(self.m), alpha(self.m), *shape])
        self._verify_types()
        if self.body.terminator.operands[0] is not self.body.args[0] or self.body.first is not self.body.last:
            raise self.error("the body must yield the factor as it is")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes = cursor.attr_dict()
        inputs, outputs = parse_ins_outs(cursor)
        results = cursor.type_group() if cursor.accept("->") else []
        attributes.update(cls.segments([inputs, outputs]))
        return cls.from_parts([*inputs, *outputs], results, attributes, [cls._body()])

    def print_custom(self, printer: Printer) -> None:
        self._print_operands(printer)
        print_results(self, printer)


class WinogradInputTransform(WinogradFactors):
    """Overlapping tiles of an image as factors of products: y = B' x B for each tile x of alpha x alpha pixels, alpha =
    m + 2, that begin every m rows and columns. The output has alpha x alpha in front, and tiles where the image has
    rows and columns."""

    name = "linalg_ext.winograd_input_transform"

    @staticmethod
    def tiles_along(pixels: int, m: int) -> int | None:
        tiles, rest = divmod(pixels - TAPS + 1, m)
        return tiles if tiles > 0 and not rest else None

    def loop_sizes(self) -> list[int]:
        return [*shape_of(self.outputs[0])[2:], *[alpha(self.m)] * 4]

    def flops(self, body: int) -> int:
        pairs = len(PAIRS[self.m])
        return prod(self.loop_sizes()[: self.tile_loops]) * 2 * alpha(self.m) * 4 * pairs * (pairs + 1)


class WinogradGradientTransform(WinogradFactors):
    """Tiles of an output's gradient, side by side, as factors of products: y = A x A' for each tile x of m x m pixels, the
    adjoint of the output transform. Pixels of the last tiles that lie beyond the image are zeros. The output has
    alpha x alpha in front, alpha = m + 2, and tiles where the image has rows and columns."""

    name = "linalg_ext.winograd_gradient_transform"

    @staticmethod
    def tiles_along(pixels: int, m: int) -> int | None:
        return -(-pixels // m) or None

    def pixels_along(self, loop: int) -> int:
        return shape_of(self.inputs[0])[loop]

    def inner_sizes(self, outputs: tuple[int, int]) -> list[int]:
        return [*[alpha(self.m)] * 2, *outputs]

    def loop_sizes(self) -> list[int]:
        pixels = [min(self.m, self.pixels_along(d)) for d in self.image]
        return [*shape_of(self.outputs[0])[2:], *[alpha(self.m)] * 2, *pixels]

    def flops(self, body: int) -> int:
        pairs = len(PAIRS[self.m])
        return prod(self.loop_sizes()[: self.tile_loops]) * (self.m + alpha(self.m)) * 2 * pairs * self.m


class WinogradOutputTransform(WinogradTransform):
    """Products of tiles as pixels: y = A' p A for each tile p of alpha x alpha products, alpha = m + 2, gives m x m pixels;
    those of the last tiles that lie beyond the output are dropped. The body makes each pixel's element of y and of
    further inputs. `indexing_maps` are those of a `linalg.generic` over the pixels: the products have alpha x alpha in
    front, and tiles for rows and columns."""

    name = "linalg_ext.winograd_output_transform"
    indexing_maps = attr(MAPS)

    @classmethod
    def make(
        cls, inputs: Sequence[Value], out: Value, maps: Sequence[AffineMap], m: int, dimensions: Sequence[int]
    ) -> WinogradOutputTransform:
        """An op with an empty body: append to `.body`, and end with `linalg_ext.yield`."""
        names = ["y", *["in"] * (len(inputs) - 1), "out"]
        return cls(
            inputs,
            [out],
            results=result_types([out]),
            regions=[Region(Block([element_type(v) for v in (*inputs, out)], names))],
            fmr=f"F_{m}_3",
            image_dimensions=DenseArrayAttr(i64, tuple(dimensions)),
            indexing_maps=ArrayAttr(tuple(AffineMapAttr(m) for m in maps)),
        )

    @property
    def pixel_maps(self) -> list[AffineMap]:
        """`indexing_maps`."""
        found = self.attributes["indexing_maps"]
        assert isinstance(found, ArrayAttr)
        return [m.map for m in found if isinstance(m, AffineMapAttr)]

    @property
    def tile_loops(self) -> int:
        return self.pixel_maps[-1].num_dims

    def pixels_along(self, loop: int) -> int:
        return self.pixel_sizes()[loop]

    def inner_sizes(self, outputs: tuple[int, int]) -> list[int]:
        return [*outputs, *[alpha(self.m)] * 2]

    def elements(self, rows: int, columns: int) -> int:
        return rows * columns

    def pixel_sizes(self) -> list[int]:
        """The extent of each loop over pixels."""
        places = self.pixel_maps[-1].dim_positions() or ()
        sizes = dict(zip(places, shape_of(self.outputs[0]), strict=True))
        return [sizes[d] for d in range(self.tile_loops)]

    @property
    def maps(self) -> list[AffineMap]:
        """Loops: those over pixels, rows and columns by tiles; the pixel's row and column in its tile; the product's."""
        rank, (h, w) = self.tile_loops, self.image
        inner: list[AffineExpr] = [Dim(d) for d in range(rank)]
        read, *others = self.pixel_maps
        products = (Dim(rank + 2), Dim(rank + 3), *read.results)
        inner[h], inner[w] = Dim(h) * self.m + Dim(rank), Dim(w) * self.m + Dim(rank + 1)
        return [AffineMap(rank + 4, 0, products), *(m.compose(inner, rank + 4) for m in others)]

    def loop_sizes(self) -> list[int]:
        sizes = self.pixel_sizes()
        pixels = [min(self.m, sizes[d]) for d in self.image]
        for d in self.image:
            sizes[d] = -(-sizes[d] // self.m)
        return [*sizes, *pixels, *[alpha(self.m)] * 2]

    def verify_op(self) -> None:
        maps, rank = self.pixel_maps, self.tile_loops if self.pixel_maps else 0
        if not self.inputs or len(self.outputs) != 1 or len(maps) != len(self.operands):
            raise self.error("takes at least 1 input, 1 output, and a map for each")
        if any(m.num_dims != rank or m.num_symbols for m in maps):
            raise self.error(f"each map must take {rank} dimensions")
        if not maps[0].is_permutation or not maps[-1].is_permutation:
            raise self.error("the maps of the products and of the output must be permutations")
        if len(shape_of(self.outputs[0])) != rank:
            raise self.error(f"map {maps[-1]} does not fit {self.outputs[0].type}")
        super().verify_op()
        if 0 in shape_of(self.outputs[0]):
            raise self.error("makes no pixels")
        pixels, tiles = self.pixel_sizes(), self.loop_sizes()
        reads = maps[0].dim_positions() or ()
        self._expect(self.inputs[0], [*[alpha(self.m)] * 2, *(tiles[d] for d in reads)])
        for value, map in zip(self.inputs[1:], maps[1:], strict=False):
            positions = map.dim_positions()
            if positions is None:
                raise self.error(f"map {map} must consist of plain dimensions")
            self._expect(value, [pixels[d] for d in positions])
        self._verify_types()
        if self.body.args[-1].users:
            raise self.error("the body must not read the output")

    def flops(self, body: int) -> int:
        pairs, tiles = len(PAIRS[self.m]), prod(self.loop_sizes()[: self.tile_loops])
        transform = (alpha(self.m) + self.m) * 2 * pairs * (self.m + 1)
        return tiles * transform + prod(self.pixel_sizes()) * body

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes = cursor.attr_dict()
        inputs, outputs = parse_ins_outs(cursor)
        body = cursor.region()
        results = cursor.type_group() if cursor.accept("->") else []
        attributes.update(cls.segments([inputs, outputs]))
        return cls.from_parts([*inputs, *outputs], results, attributes, [body])

    def print_custom(self, printer: Printer) -> None:
        self._print_operands(printer)
        printer.region(self.regions[0], label=True)
        print_results(self, printer)
