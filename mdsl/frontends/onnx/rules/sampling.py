"""Rules that sample images at computed positions: GridSample, AffineGrid, RoiAlign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product as points
from math import prod
from operator import add, and_, mul

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import times
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.types import i64


def picked(x: Expr, places: Expr) -> Expr:
    """Elements of x (N, C, sizes..) at row-major positions (N, P) in each image, as (N, C, P)."""
    n, c, *sizes = x.shape
    first = np.arange(n * c).reshape(n, c, 1) * prod(sizes)
    column = places.reshape((n, 1, places.shape[1])) + first
    return x.reshape((n * c * prod(sizes),)).of(nn.Gather, column, axis=0)


# GridSample -----------------------------------------------------------------------------------------------


@converts("GridSample")
def grid_sample(node: Node) -> Value:
    """Jaderberg et al., "Spatial transformer networks" (2015): x at the places that the grid names, in -1 .. 1."""
    x, grid = node.expr(0), node.expr(1)
    node.static(x.value, grid.value)
    n, c, *sizes = x.shape
    _, *new, rank = grid.shape
    if rank != len(sizes):
        raise node.malformed(f"grid {grid.type} does not fit {x.type}")
    given: str = node.attr("mode", "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(given, given)
    count = prod(new)
    rows = grid.reshape((n, count, rank))
    places: list[Expr] = []
    for d, size in enumerate(sizes):  # the grid has the last dimension first
        at = rank - 1 - d
        place = _place(rows.slice(2, at, at + 1).reshape((n, count)), size).named(f"axis{d}")
        place = place.of(nn.Round) if mode == "nearest" else place
        # A cubic's weights are those of the place itself: its taps alone are moved, by `_tap`.
        places.append(place if mode == "cubic" else _bounded(place, size))
    terms: list[Expr] = []
    for taps in points(*(_taps(p, mode) for p in places)):
        weights = [weight.reshape((n, 1, count)) for _, weight in taps if weight is not None]
        terms.append(reduce(mul, weights, _tap(x, [t for t, _ in taps], sizes)))
    return reduce(add, terms).reshape((n, c, *new)).value


def _place(x: Expr, size: int) -> Expr:
    """-1 .. 1 as 0 .. size - 1, or with the pixels' outer edges -0.5 .. size - 0.5."""
    if x.node.attr("align_corners", 0):
        return (x + 1) * ((size - 1) / 2)
    return (x + 1) * (size / 2) - 0.5


def _bounded(x: Expr, size: int) -> Expr:
    """Places outside moved to the border, or mirrored at it, by padding_mode."""
    mode = x.node.attr("padding_mode", "zeros")
    if mode == "border":
        return x.clip(0, size - 1)
    if mode != "reflection":
        return x
    low, high = (0.0, size - 1.0) if x.node.attr("align_corners", 0) else (-0.5, size - 0.5)
    if high == low:
        return x * 0
    # Within a period of twice the range: the distance from the far end, counted from the nearer one.
    offset = (x - low).of(nn.Mod, 2 * (high - low))
    return high - abs(offset - (high - low))


def _taps(place: Expr, mode: str) -> list[tuple[Expr, Expr | None]]:
    """Whole places around one, with their weights."""
    if mode == "nearest":
        return [(place, None)]
    base = place.of(nn.Floor)
    t = place - base
    rest = 1 - t
    if mode == "linear":
        return [(base, rest), (base + 1, t)]
    if mode != "cubic":
        raise place.node.malformed(f"mode {mode} is unknown")
    weights = [_far(t + 1), _near(t), _near(rest), _far(rest + 1)]
    return [(base + (k - 1), w) for k, w in enumerate(weights)]


def _near(d: Expr, a: float = -0.75) -> Expr:
    """Keys's cubic within 1: ((a + 2) d - (a + 3)) d^2 + 1."""
    return (d * (a + 2) - (a + 3)) * d * d + 1


def _far(d: Expr, a: float = -0.75) -> Expr:
    """Keys's cubic from 1 to 2: a d^3 - 5 a d^2 + 8 a d - 4 a."""
    return ((d * a - 5 * a) * d + 8 * a) * d - 4 * a


def _tap(x: Expr, places: Sequence[Expr], sizes: Sequence[int]) -> Expr:
    """The elements at whole places, 0 outside (where padding has left any)."""
    has_zeros = x.node.attr("padding_mode", "zeros") == "zeros"
    whole: list[Expr] = []
    for place, size in zip(places, sizes, strict=True):
        at = place if has_zeros else _bounded(place, size)
        whole.append(at.clip(0, size - 1).cast(i64))
    position = whole[0]
    for at, size in zip(whole[1:], sizes[1:], strict=True):
        position = position * np.int64(size) + at
    found = picked(x, position)
    if not has_zeros:
        return found
    inside = [(p >= 0) & (p <= size - 1) for p, size in zip(places, sizes, strict=True)]
    n, count = position.shape
    return found.where(reduce(and_, inside).reshape((n, 1, count)), 0)


@converts("AffineGrid")
def affine_grid(node: Node) -> Value:
    """For each place of an image of `size`, in -1 .. 1, the place that a batch's matrices take it to."""
    theta, (_, _, *sizes) = node.expr(0), node.ints(1, "size")
    rank = len(sizes)
    if theta.shape[1:] != (rank, rank + 1):
        raise node.malformed(f"{theta.type} does not hold matrices for {rank} dimensions")
    node.check_made([rank + 1, *sizes], theta.type.element)
    batch, count = node.sizes(theta.value)[0], prod(sizes)
    places = np.meshgrid(*(_centres(node, n) for n in sizes), indexing="ij")[::-1]
    known = np.stack([p.reshape(-1) for p in (*places, np.ones(sizes))])
    moved = theta.reshape((times(node, [batch, rank]), rank + 1)).of(nn.Matmul, known)
    columns = moved.reshape((batch, rank, count)).of(nn.Transpose, perm=[0, 2, 1])
    return columns.reshape((batch, *sizes, rank)).value


def _centres(node: Node, size: int) -> np.ndarray:
    """Where elements lie in -1 .. 1. ONNX does not define where a single one lies between two corners: as onnxruntime, at 1."""
    if node.attr("align_corners", 0):
        return np.linspace(1, -1, size)[::-1]
    return (2 * np.arange(size) + 1) / size - 1


# RoiAlign -------------------------------------------------------------------------------------------------

Samples = tuple[list[tuple[Expr, Expr]], Expr]
"""Along one axis, (regions, samples) each: two whole places with their weights; and where a sample counts."""


@converts("RoiAlign")
def roi_align(node: Node) -> Value:
    """He et al., "Mask R-CNN" (2017): the mean, or the largest, of bilinear samples in each cell of each region."""
    x, rois = node.expr(0), node.expr(1)
    node.static(x.value, rois.value)
    cells, ratio = (
        [node.attr("output_height", 1), node.attr("output_width", 1)],
        node.attr("sampling_ratio", 0),
    )
    if ratio < 1:
        raise node.unsupported(
            "sampling_ratio = 0: how many samples a region needs is known at run time only"
        )
    kind = "mean" if node.attr("mode", "avg") == "avg" else "max"
    images = x.of(nn.Gather, node.operand(2), axis=0)
    total = _roi_sampled(images, *_roi_samples(node, [n * ratio for n in cells]), kind)
    split = total.reshape((rois.shape[0], x.shape[1], cells[0], ratio, cells[1], ratio))
    return split.reduce(kind, [3, 5], keepdims=False).value


def _roi_samples(node: Node, counts: Sequence[int]) -> tuple[Samples, Samples]:
    """Along height and width, `counts` samples of each region at equal distances."""
    half_pixel = "half_pixel" if node.version >= 16 else "output_half_pixel"
    half = node.attr("coordinate_transformation_mode", half_pixel) == "half_pixel"
    scaled = node.expr(1) * node.attr("spatial_scale", 1.0) - (0.5 if half else 0.0)

    def samples(axis: int) -> Samples:
        start, end = (scaled.slice(1, i - axis, i - axis + 1) for i in (1, 3))  # a region has x before y
        length = end - start if half else (end - start).of(nn.Maximum, 1)
        steps = (np.arange(counts[axis]) + 0.5) / counts[axis]
        return _roi_taps(length * steps[None, :] + start, node.type().shape[2 + axis])

    return samples(0), samples(1)


def _roi_taps(place: Expr, size: int) -> Samples:
    """The two whole places around each, and where the place is no more than 1 outside."""
    fits = (place >= -1) & (place <= size)
    place = place.clip(0, size - 1)
    low = place.of(nn.Floor)
    t = place - low
    high = (low + 1).clip(0, size - 1)
    return [(low.cast(i64), 1 - t), (high.cast(i64), t)], fits


def _roi_sampled(images: Expr, rows: Samples, columns: Samples, kind: str) -> Expr:
    """The samples (regions, C, rows * columns) of one image for each region: the sum, or the largest, of the four
    weighted elements around each."""
    (ys, y_fits), (xs, x_fits) = rows, columns
    (count, h), w = y_fits.shape, x_fits.shape[1]

    def grid(combine: Callable[[Expr, Expr], Expr], y: Expr, x: Expr, *shape: int) -> Expr:
        """combine(y, x) for each pair of a row and a column."""
        return combine(y.reshape((count, h, 1)), x.reshape((count, 1, w))).reshape((count, *shape, h * w))

    starts = [(y * np.int64(images.shape[3]), weight) for y, weight in ys]
    terms = [
        picked(images, grid(add, start, x)) * grid(mul, wy, wx, 1)
        for (start, wy), (x, wx) in points(starts, xs)
    ]
    total = reduce(lambda a, b: a + b if kind == "mean" else a.of(nn.Maximum, b), terms)
    return total.where(grid(and_, y_fits, x_fits, 1), 0)
