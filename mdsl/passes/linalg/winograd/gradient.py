"""winograd: the gradient of 3x3 filters, by the adjoint of what the method does in a convolution.

    y = A' (G w G' * B' x B) A    so    dw = G' (A dy A' * B' x B) G    summed over all tiles of all images

The factors of the image are those of the convolution itself; `winograd_gradient_transform` makes those of dy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from math import prod

from mdsl.dialects import arith, linalg, tensor, ukernel
from mdsl.dialects.linalg_ext import (
    TAPS,
    WinogradFactors,
    WinogradGradientTransform,
    WinogradInputTransform,
)
from mdsl.ir.affine import AffineMap
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType, f32
from mdsl.passes.linalg.winograd.steps import Padded, Steps, contraction
from mdsl.passes.linalg.winograd.weight import weight_matrix
from mdsl.rewriting.structured import without_dims

Atom = tuple[int, int]
"""A loop of the contraction, and how far a tensor reaches along it."""


@dataclass(frozen=True)
class Image:
    """A factor of the contraction. Each of its dimensions runs over some loops, the last one fastest; rows and columns over
    the pixels'."""

    value: Value
    dims: tuple[tuple[Atom, ...], ...]

    def find(self, row: int, column: int) -> Image | None:
        """The same before its dimensions were exchanged, split or joined; None if rows and columns never lie side by side."""
        source = self._source()
        found = source.find(row, column) if source else None
        return found or (self if self._row(row, column) is not None else None)

    def row(self, row: int) -> int:
        """The dimension of rows, which columns follow."""
        return next(d for d, atoms in enumerate(self.dims) if [loop for loop, _ in atoms] == [row])

    def _row(self, row: int, column: int) -> int | None:
        loops = [tuple(loop for loop, _ in atoms) for atoms in self.dims]
        return next((d for d in range(len(loops)) if loops[d : d + 2] == [(row,), (column,)]), None)

    def _source(self) -> Image | None:
        """What the value was made of, if that only changed dimensions."""
        op, dims = self.value.owner, self.dims
        if isinstance(op, tensor.ExpandShape):
            return Image(op.operands[0], tuple(sum((dims[d] for d in group), ()) for group in op.groups))
        if isinstance(op, tensor.CollapseShape):
            shape = shaped_of(op.operands[0]).shape
            parts: list[tuple[Atom, ...] | None] = []
            for atoms, group in zip(dims, op.groups, strict=True):
                parts += _split(atoms, [shape[d] for d in group])
            return None if None in parts else Image(op.operands[0], tuple(p for p in parts if p is not None))
        if not isinstance(op, linalg.LinalgOp) or len(op.operands) != 2 or not op.is_elementwise:
            return None
        source, out = (m.dim_positions() for m in op.maps)
        if op.body.terminator.operands != [op.body.args[0]] or source is None or out is None:
            return None
        return Image(op.inputs[0], tuple(dims[out.index(d)] for d in source)) if {*source} == {*out} else None


def _split(atoms: Sequence[Atom], sizes: Sequence[int]) -> list[tuple[Atom, ...] | None]:
    """The atoms of each of the dimensions of `sizes` that one was joined of; None where a loop crosses from one to another."""
    rest = list(atoms)
    found: list[tuple[Atom, ...] | None] = []
    for size in sizes:
        taken: list[Atom] = []
        while rest and size % rest[0][1] == 0 and prod(n for _, n in taken) < size:
            taken.append(rest.pop(0))
        found.append(tuple(taken) if prod(n for _, n in taken) == size else None)
    return found if not rest else [None]


@dataclass(frozen=True)
class FilterGradient:
    """`op`, in the ukernel.region `root`, sums up at each of nine offsets what an image has there times the gradient of
    the convolution's output."""

    root: ukernel.RegionOp
    op: linalg.LinalgOp
    image: Image
    gradient: Image
    pixel_loops: tuple[int, int]
    """The loops over the gradient's rows and columns."""
    tap_loops: tuple[int, int]
    """Those over the filter's."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the gradient."""
        sizes = self.op.loop_sizes()
        return sizes[self.pixel_loops[0]], sizes[self.pixel_loops[1]]


def filter_gradient_of(root: Op) -> FilterGradient | None:
    """The gradient of filters in `root`, a ukernel.region; None if there is none that Winograd's method fits."""
    if not isinstance(root, ukernel.RegionOp):
        return None
    found = [_filter_gradient(root, op) for op in root.body.ops if isinstance(op, linalg.LinalgOp)]
    return next((gradient for gradient in found if gradient), None)


def _filter_gradient(root: ukernel.RegionOp, op: linalg.LinalgOp) -> FilterGradient | None:
    if not op.is_contraction or not op.sums_products or any(shaped_of(v).element != f32 for v in op.operands):
        return None
    zero = op.outputs[0].owner
    if not isinstance(zero, linalg.Fill) or arith.constant_of(zero.inputs[0]) != 0:
        return None
    *factors, made = op.maps
    plain = [m.is_projected_permutation for m in factors]
    if sorted(plain) != [False, True] or not made.is_projected_permutation:
        return None
    seen = plain.index(False)
    read: list[int] = []
    windows: list[tuple[int, int]] = []
    for expr in factors[seen].results:
        linear = expr.coefficients()
        if linear is None or linear[1] or any(factor != 1 for factor in linear[0].values()):
            return None
        if len(linear[0]) not in (1, 2):
            return None
        pixel, *taps = sorted(linear[0], key=lambda d: op.iterators[d] == linalg.PARALLEL)
        windows += [(pixel, tap) for tap in taps]
        read.append(pixel)
    if len(windows) != 2:
        return None
    (row, tap_row), (column, tap_column) = windows
    sizes = op.loop_sizes()
    pixels, taps = {row, column}, {tap_row, tap_column}
    if (
        0 in sizes
        or any(sizes[d] != TAPS for d in taps)
        or len(pixels | taps) != 4
        or not taps <= set(made.dims())
    ):
        return None
    if any(op.iterators[d] != linalg.REDUCTION for d in pixels) or not pixels.isdisjoint(made.dims()):
        return None  # a sum over one pixel may keep its dimension
    if len(set(read)) != len(read) or not taps.isdisjoint(read):
        return None  # a diagonal of the image
    if not pixels <= set(factors[1 - seen].dims()) or not taps.isdisjoint(factors[1 - seen].dims()):
        return None
    images = (
        Image(value, tuple(((loop, size),) for loop, size in zip(loops, shaped_of(value).shape, strict=True)))
        for value, loops in (
            (op.inputs[seen], read),
            (op.inputs[1 - seen], factors[1 - seen].dim_positions() or ()),
        )
    )
    image, gradient = (part.find(row, column) for part in images)
    if image is None or gradient is None:
        return None
    if any(
        isinstance(part.value.owner, Op) and part.value.owner.parent is root for part in (image, gradient)
    ):
        return None  # the factors are made before the region
    loops = [{loop for atoms in part.dims for loop, size in atoms if size > 1} for part in (image, gradient)]
    alone = (loops[0] - loops[1], loops[1] - loops[0])
    if not all(any(op.iterators[d] == linalg.PARALLEL for d in dims) for dims in alone):
        return None  # a filter a channel: no matrix product is left
    return FilterGradient(root, op, image, gradient, (row, column), (tap_row, tap_column))


class GradientRewriter:
    """Replaces the contraction by a sum of products' transforms, and makes the products before `root`."""

    def __init__(self, found: FilterGradient, m: int, padded: Padded) -> None:
        self.found = found
        self.m = m
        self.steps = Steps(found.root, found.op, m, padded)
        self.tiles = (-(-found.size[0] // m), -(-found.size[1] // m))
        self.name = found.op.results[0].name or "gradient"

    def run(self) -> None:
        op, points = self.found.op, self._products()
        made = op.maps[-1].dim_positions() or ()
        loop = {d: i for i, d in enumerate(made)}
        last = len(made)
        maps = [
            AffineMap.select(last + 1, [last, *(loop[d] for d in self.found.tap_loops)]),
            AffineMap.select(last + 1, [last, *(loop[d] for d in made if d not in self.found.tap_loops)]),
            AffineMap.select(last + 1, range(last)),
        ]
        matrix = self.steps.constant(weight_matrix(self.m), "winograd_taps")
        iterators = [*[linalg.PARALLEL] * last, linalg.REDUCTION]
        nest = contraction([matrix, points], op.outputs[0], maps, iterators, op.body)
        builder = Builder.before(op)
        builder.location = op.location
        op.replace_by(builder.value(nest), rename=True)

    def _products(self) -> Value:
        """[alpha^2, *filters without rows and columns]: summed over the tiles of all images."""
        found, op = self.found, self.found.op
        (_, column), taps = found.pixel_loops, found.tap_loops
        factors = [
            self._factors(transform, image, f"{self.name}_{word}")
            for transform, image, word in (
                (WinogradInputTransform, found.image, "image"),
                (WinogradGradientTransform, found.gradient, "factors"),
            )
        ]
        loops = [d for d in range(op.num_loops) if d not in (column, *taps)]
        place = {d: i + 1 for i, d in enumerate(loops)}
        made = [d for d in op.maps[-1].dim_positions() or () if d not in taps]
        read = [_loops(image, column) for image in (found.image, found.gradient)]
        maps = [AffineMap.select(len(loops) + 1, [0, *(place[d] for d in dims)]) for dims in (*read, made)]
        iterators = [linalg.PARALLEL, *(op.iterators[d] for d in loops)]
        sizes = op.loop_sizes()
        type = TensorType((self.steps.side**2, *(sizes[d] for d in made)), f32)
        name = f"{self.name}_points"
        points = self.steps.sum_of_products(factors, type, maps, iterators, op.body, name)
        return self.steps.spread(points, type.shape, name)

    def _factors(self, transform: type[WinogradFactors], image: Image, name: str) -> Value:
        """[alpha^2, a dimension for each loop, tiles for rows and columns]."""
        at = image.row(self.found.pixel_loops[0])
        value = self.steps.factors(transform, image.value, at, self.tiles, name)
        dims = [[size for _, size in atoms] for atoms in image.dims]
        sizes = [[self.steps.side**2], *dims[:at], [self.tiles[0] * self.tiles[1]], *dims[at + 2 :]]
        builder, whole = self.steps.builder, [some or [1] for some in sizes]
        if any(len(some) > 1 for some in whole):
            groups = [list(range(a, b)) for a, b in pairwise(accumulate(map(len, whole), initial=0))]
            value = builder.value(tensor.ExpandShape.of(value, groups, list(chain(*whole))), f"{name}_split")
        ones = [not some for some in sizes for _ in some or [1]]
        return without_dims(value, [d for d, one in enumerate(ones) if one], builder)


def _loops(image: Image, column: int) -> list[int]:
    """The loop of each dimension of the image's factors."""
    return [loop for atoms in image.dims for loop, _ in atoms if loop != column]
