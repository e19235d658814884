"""Rules that sample images at computed positions: GridSample, AffineGrid, RoiAlign."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as points
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import times
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64


class Arithmetic:
    """Elementwise arithmetic on values and numbers, each result with a name of its own."""

    def __init__(self, node: Node, prefix: str, like: Value) -> None:
        self.node = node
        self.prefix = prefix
        self.type = like.type
        self.count = 0

    def name(self, what: str) -> str:
        self.count += 1
        return f"{self.prefix}_{what}{self.count}"

    def number(self, x: Value | float | np.ndarray) -> Value:
        return x if isinstance(x, Value) else self.node.const(x, self.name("number"), self.type)

    def add(self, a: Value, b: Value | float) -> Value:
        return self.node.build(nn.Add(a, self.number(b)), self.name("sum"))

    def sub(self, a: Value | float, b: Value | float) -> Value:
        return self.node.build(nn.Sub(self.number(a), self.number(b)), self.name("difference"))

    def mul(self, a: Value, b: Value | float | np.ndarray) -> Value:
        return self.node.build(nn.Mul(a, self.number(b)), self.name("product"))

    def div(self, a: Value, b: Value | float) -> Value:
        return self.node.build(nn.Div(a, self.number(b)), self.name("quotient"))

    def clip(self, x: Value, low: float, high: float) -> Value:
        return self.node.build(nn.Clip(x, min=low, max=high), self.name("clipped"))

    def compare(self, kind: str, a: Value, b: Value | float) -> Value:
        return self.node.build(nn.Compare(a, self.number(b), kind=kind), self.name("holds"))

    def select(self, flags: Value, a: Value, b: Value | float) -> Value:
        return self.node.build(nn.Select(flags, a, self.number(b)), self.name("chosen"))

    def floor(self, x: Value) -> Value:
        return self.node.build(nn.Floor(x), self.name("floor"))


def inside(m: Arithmetic, x: Value, size: int) -> Value:
    """True where a whole x is a place in a dimension of `size`."""
    low, high = m.compare("ge", x, 0), m.compare("le", x, size - 1)
    return m.node.build(nn.And(low, high), m.name("inside"))


def picked(node: Node, x: Value, places: Value, suffix: str) -> Value:
    """Elements of x (N, C, sizes..) at row-major positions (N, P) in each image, as (N, C, P)."""
    n, c, *sizes = tensor_of(x).shape
    area = prod(sizes)
    first = node.const(
        (np.arange(n)[:, None, None] * c + np.arange(c)[None, :, None]) * area, f"{suffix}_first"
    )
    column = node.reshape(places, (n, 1, tensor_of(places).shape[1]), f"{suffix}_column")
    flat = node.reshape(x, (n * c * area,), f"{suffix}_flat")
    return node.build(nn.Gather(flat, node.build(nn.Add(column, first), f"{suffix}_places"), axis=0), suffix)


# GridSample -----------------------------------------------------------------------------------------------


@converts("GridSample")
def grid_sample(node: Node) -> Value:
    """Jaderberg et al., "Spatial transformer networks" (2015): x at the places that the grid names, in -1 .. 1."""
    x, grid = node.operand(0), node.operand(1)
    node.static(x, grid)
    n, c, *sizes = tensor_of(x).shape
    _, *new, rank = tensor_of(grid).shape
    if rank != len(sizes):
        raise node.malformed(f"grid {tensor_of(grid)} does not fit {tensor_of(x)}")
    given: str = node.attr("mode", "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(given, given)
    count = prod(new)
    m = Arithmetic(node, "grid", grid)
    rows = node.reshape(grid, (n, count, rank), "points")
    places: list[Value] = []
    for d, size in enumerate(sizes):  # the grid has the last dimension first
        at = rank - 1 - d
        part = node.build(nn.Slice(rows, starts=[at], ends=[at + 1], axes=[2]), f"axis{d}_part")
        place = _place(node, m, node.reshape(part, (n, count), f"axis{d}"), size)
        place = node.build(nn.Round(place), m.name("rounded")) if mode == "nearest" else place
        # A cubic's weights are those of the place itself: its taps alone are moved, by `_tap`.
        places.append(place if mode == "cubic" else _bounded(node, m, place, size))
    total: Value | None = None
    for taps in points(*(_taps(node, m, p, mode) for p in places)):
        value = _tap(node, m, x, [t for t, _ in taps], sizes)
        for _, weight in taps:
            if weight is not None:
                value = m.mul(value, node.reshape(weight, (n, 1, count), m.name("weight")))
        total = value if total is None else m.add(total, value)
    assert total is not None
    return node.reshape(total, (n, c, *new))


def _place(node: Node, m: Arithmetic, x: Value, size: int) -> Value:
    """-1 .. 1 as 0 .. size - 1, or with the pixels' outer edges -0.5 .. size - 0.5."""
    if node.attr("align_corners", 0):
        return m.mul(m.add(x, 1), (size - 1) / 2)
    return m.sub(m.mul(m.add(x, 1), size / 2), 0.5)


def _bounded(node: Node, m: Arithmetic, x: Value, size: int) -> Value:
    """Places outside moved to the border, or mirrored at it, by padding_mode."""
    mode = node.attr("padding_mode", "zeros")
    if mode == "border":
        return m.clip(x, 0, size - 1)
    if mode != "reflection":
        return x
    low, high = (0.0, size - 1.0) if node.attr("align_corners", 0) else (-0.5, size - 0.5)
    if high == low:
        return m.mul(x, 0)
    # Within a period of twice the range: the distance from the far end, counted from the nearer one.
    offset = node.build(nn.Mod(m.sub(x, low), m.number(2 * (high - low))), m.name("offset"))
    mirrored = node.build(nn.Abs(m.sub(offset, high - low)), m.name("mirrored"))
    return m.sub(high, mirrored)


def _taps(node: Node, m: Arithmetic, place: Value, mode: str) -> list[tuple[Value, Value | None]]:
    """Whole places around one, with their weights."""
    if mode == "nearest":
        return [(place, None)]
    base = m.floor(place)
    t = m.sub(place, base)
    if mode == "linear":
        return [(base, m.sub(1, t)), (m.add(base, 1), t)]
    if mode != "cubic":
        raise node.malformed(f"mode {mode} is unknown")
    rest = m.sub(1, t)
    weights = [_far(m, m.add(t, 1)), _near(m, t), _near(m, rest), _far(m, m.add(rest, 1))]
    return [(m.add(base, k - 1), w) for k, w in enumerate(weights)]


def _near(m: Arithmetic, d: Value, a: float = -0.75) -> Value:
    """Keys's cubic within 1: ((a + 2) d - (a + 3)) d^2 + 1."""
    return m.add(m.mul(m.mul(m.sub(m.mul(d, a + 2), a + 3), d), d), 1)


def _far(m: Arithmetic, d: Value, a: float = -0.75) -> Value:
    """Keys's cubic from 1 to 2: a d^3 - 5 a d^2 + 8 a d - 4 a."""
    return m.sub(m.mul(m.add(m.mul(m.sub(m.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)


def _tap(node: Node, m: Arithmetic, x: Value, places: Sequence[Value], sizes: Sequence[int]) -> Value:
    """The elements at whole places, 0 outside (where padding has left any)."""
    position: Value | None = None
    valid: Value | None = None
    for place, size in zip(places, sizes, strict=True):
        if node.attr("padding_mode", "zeros") == "zeros":
            fits = inside(m, place, size)
            valid = fits if valid is None else node.build(nn.And(valid, fits), m.name("valid"))
        else:
            place = _bounded(node, m, place, size)
        whole = node.cast(m.clip(place, 0, size - 1), i64, m.name("whole"))
        if position is not None:
            row = node.build(nn.Mul(position, node.const(np.int64(size), m.name("size"))), m.name("row"))
            whole = node.build(nn.Add(row, whole), m.name("position"))
        position = whole
    assert position is not None
    found = picked(node, x, position, m.name("seen"))
    if valid is None:
        return found
    n, count = tensor_of(position).shape
    return m.select(node.reshape(valid, (n, 1, count), m.name("flags")), found, 0)


@converts("AffineGrid")
def affine_grid(node: Node) -> Value:
    """For each place of an image of `size`, in -1 .. 1, the place that a batch's matrices take it to."""
    theta, (_, _, *sizes) = node.operand(0), node.ints(1, "size")
    rank = len(sizes)
    if tensor_of(theta).shape[1:] != (rank, rank + 1):
        raise node.malformed(f"{tensor_of(theta)} does not hold matrices for {rank} dimensions")
    node.check_made([rank + 1, *sizes], tensor_of(theta).element)
    batch, count = node.sizes(theta)[0], prod(sizes)
    places = np.meshgrid(*(_centres(node, n) for n in sizes), indexing="ij")[::-1]
    known = np.stack([p.reshape(-1) for p in (*places, np.ones(sizes))])
    rows = node.reshape(theta, (times(node, [batch, rank]), rank + 1), "rows")
    moved = node.build(nn.Matmul(rows, node.const(known, "places", theta.type)), "moved")
    columns = node.reshape(moved, (batch, rank, count), "columns")
    points = node.build(nn.Transpose(columns, perm=[0, 2, 1]), "points")
    return node.reshape(points, (batch, *sizes, rank))


def _centres(node: Node, size: int) -> np.ndarray:
    """Where elements lie in -1 .. 1. ONNX does not define where a single one lies between two corners: as onnxruntime, at 1."""
    if node.attr("align_corners", 0):
        return np.linspace(1, -1, size)[::-1]
    return (2 * np.arange(size) + 1) / size - 1


# RoiAlign -------------------------------------------------------------------------------------------------

Samples = tuple[list[tuple[Value, Value]], Value]
"""Along one axis, (regions, samples) each: two whole places with their weights; and where a sample counts."""


@converts("RoiAlign")
def roi_align(node: Node) -> Value:
    """He et al., "Mask R-CNN" (2017): the mean, or the largest, of bilinear samples in each cell of each region."""
    x, rois, batch = node.operand(0), node.operand(1), node.operand(2)
    node.static(x, rois)
    c, count = tensor_of(x).shape[1], tensor_of(rois).shape[0]
    cells, ratio = (
        [node.attr("output_height", 1), node.attr("output_width", 1)],
        node.attr("sampling_ratio", 0),
    )
    if ratio < 1:
        raise node.unsupported(
            "sampling_ratio = 0: how many samples a region needs is known at run time only"
        )
    m = Arithmetic(node, "roi", rois)
    average = node.attr("mode", "avg") == "avg"
    rows, columns = _roi_samples(node, m, [n * ratio for n in cells])
    images = node.build(nn.Gather(x, batch, axis=0), "images")
    total = _roi_sampled(node, m, images, rows, columns, average)
    split = node.reshape(total, (count, c, cells[0], ratio, cells[1], ratio), "samples")
    return node.build(nn.Reduce(split, kind="mean" if average else "max", axes=[3, 5], keepdims=False))


def _roi_samples(node: Node, m: Arithmetic, counts: Sequence[int]) -> tuple[Samples, Samples]:
    """Along height and width, `counts` samples of each region at equal distances."""
    half_pixel = "half_pixel" if node.version >= 16 else "output_half_pixel"
    half = node.attr("coordinate_transformation_mode", half_pixel) == "half_pixel"
    scaled = m.sub(m.mul(node.operand(1), node.attr("spatial_scale", 1.0)), 0.5 if half else 0.0)

    def corner(which: int) -> Value:
        return node.build(nn.Slice(scaled, starts=[which], ends=[which + 1], axes=[1]), m.name("corner"))

    def samples(axis: int) -> Samples:
        start, end = corner(1 - axis), corner(3 - axis)  # a region has x before y
        length = m.sub(end, start)
        length = length if half else node.build(nn.Maximum(length, m.number(1)), m.name("length"))
        steps = (np.arange(counts[axis]) + 0.5) / counts[axis]
        return _roi_taps(node, m, m.add(m.mul(length, steps[None, :]), start), node.type().shape[2 + axis])

    return samples(0), samples(1)


def _roi_taps(node: Node, m: Arithmetic, place: Value, size: int) -> Samples:
    """The two whole places around each, and where the place is no more than 1 outside."""
    fits = node.build(nn.And(m.compare("ge", place, -1), m.compare("le", place, size)), m.name("near"))
    place = m.clip(place, 0, size - 1)
    low = m.floor(place)
    t = m.sub(place, low)
    high = m.clip(m.add(low, 1), 0, size - 1)
    whole = [node.cast(v, i64, m.name("whole")) for v in (low, high)]
    return [(whole[0], m.sub(1, t)), (whole[1], t)], fits


def _roi_sampled(
    node: Node, m: Arithmetic, images: Value, rows: Samples, columns: Samples, average: bool
) -> Value:
    """The samples (regions, C, rows * columns) of one image for each region: the sum, or the largest, of the four
    weighted elements around each."""
    (ys, y_fits), (xs, x_fits) = rows, columns
    (count, h), w = tensor_of(y_fits).shape, tensor_of(x_fits).shape[1]
    each, of_channels = (count, h * w), (count, 1, h * w)

    def grid(
        op: type[nn.Add | nn.Mul | nn.And], y: Value, x: Value, shape: Sequence[int], name: str
    ) -> Value:
        """y op x for each pair of a row and a column."""
        column, row = node.reshape(y, (count, h, 1), m.name("y")), node.reshape(x, (count, 1, w), m.name("x"))
        return node.reshape(node.build(op(column, row), m.name(name)), shape, m.name(name))

    width = node.const(np.int64(tensor_of(images).shape[3]), m.name("width"))
    starts = [node.build(nn.Mul(y, width), m.name("start")) for y, _ in ys]
    total: Value | None = None
    for (start, (_, wy)), (x, wx) in points(zip(starts, ys, strict=True), xs):
        found = picked(node, images, grid(nn.Add, start, x, each, "place"), m.name("seen"))
        term = m.mul(found, grid(nn.Mul, wy, wx, of_channels, "weight"))
        if total is not None:
            term = m.add(total, term) if average else node.build(nn.Maximum(total, term), m.name("larger"))
        total = term
    assert total is not None
    return m.select(grid(nn.And, y_fits, x_fits, of_channels, "fits"), total, 0)
