"""winograd: matching. 3x3 convolutions are recognised by their indexing maps in any layout, with their epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.analysis.regions import writes_old_content
from mdsl.dialects import arith, linalg, tensor, ukernel
from mdsl.dialects.linalg_ext import TAPS
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import f32
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import inline_body


@dataclass(frozen=True)
class Tail:
    """What follows the convolution element by element; `op` is None if nothing does."""

    op: linalg.LinalgOp | None
    loops: int
    """How many loops it has."""
    pixel_loops: tuple[int, int]
    """The loops over the output's rows and columns."""
    read: AffineMap
    """The element of the convolution that an iteration reads."""
    out: AffineMap
    others: list[tuple[Value, AffineMap]]
    """What else it reads."""

    def apply(self, value: Value, others: Sequence[Value], builder: Builder) -> Value:
        """The body, for the convolution's element `value`, at the builder."""
        if self.op is None:
            return value
        given = iter(others)
        maps = zip(self.op.inputs, self.op.maps, strict=False)
        arguments = [value if self._is_read(v, m) else next(given) for v, m in maps]
        # The old element of the output is not read: any value stands for it.
        (found,) = inline_body(self.op.body, [*arguments, value], builder)
        return found

    def _is_read(self, value: Value, map: AffineMap) -> bool:
        return (value, map) not in self.others


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution of stride 1 (perhaps grouped): `root` is the op to replace, `op` the contraction in it."""

    root: Op
    op: linalg.LinalgOp
    tail: Tail
    image_dims: tuple[int, int]
    """The image's dimensions of rows and columns."""
    weight_dims: tuple[int, int]
    """The weight's, of the window's rows and columns."""
    out_dims: tuple[int, int]
    """Those of the contraction's output."""
    pixel_loops: tuple[int, int]
    """The contraction's loops over the output's rows and columns."""
    tap_loops: tuple[int, int]
    """Its loops over the window's rows and columns."""
    reversed: tuple[bool, bool]
    """Whether the weight's rows, and its columns, are taken from last to first."""

    @property
    def image(self) -> Value:
        return self.op.operands[0]

    @property
    def weight(self) -> Value:
        return self.op.operands[1]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output."""
        sizes = self.op.loop_sizes()
        return sizes[self.pixel_loops[0]], sizes[self.pixel_loops[1]]


def conv_of(root: Op) -> Conv | None:
    """The convolution that `root`, a ukernel.region, is; None if it is none that Winograd's method fits."""
    if not isinstance(root, ukernel.RegionOp) or len(root.results) != 1:
        return None
    ops = [op for op in root.body.ops if not isinstance(op, tensor.Empty | ukernel.Yield | arith.Constant)]
    fill, op, *rest = ops if len(ops) in (2, 3) else (None, None)
    if not isinstance(fill, linalg.Fill) or not isinstance(op, linalg.LinalgOp):
        return None
    if op.outputs != [fill.result] or arith.constant_of(fill.inputs[0]) != 0:
        return None
    if not op.is_contraction or not op.sums_products or 0 in op.loop_sizes():
        return None
    if all(m.is_projected_permutation for m in op.maps):
        return None  # a product without a window
    if any(shaped_of(v).element != f32 for v in op.operands):
        return _missed(root, "its elements are not f32")
    tail = _tail(op, rest[0] if rest else None)
    return _conv(root, op, *tail) if tail else None


def _tail(op: linalg.LinalgOp, last: Op | None) -> tuple[linalg.LinalgOp | None, AffineMap, AffineMap] | None:
    """The epilogue with the map through which it reads `op`'s result, and the map of its own."""
    out = op.maps[-1]
    if last is None:
        identity = AffineMap.identity(len(out.results))
        return None, identity, identity
    if not isinstance(last, linalg.LinalgOp) or not last.is_elementwise or len(last.results) != 1:
        return None
    counts = any(isinstance(inner, linalg.IndexOp) for inner in last.body.ops)
    reads = [map for v, map in zip(last.inputs, last.maps, strict=False) if v is op.result]
    if counts or writes_old_content(last) or len(reads) != 1 or not reads[0].is_permutation:
        return None
    return last, reads[0], last.maps[-1]


def _conv(
    root: Op, op: linalg.LinalgOp, last: linalg.LinalgOp | None, read: AffineMap, out: AffineMap
) -> Conv | None:
    image, taps, made = op.maps
    if not taps.is_projected_permutation or not made.is_projected_permutation:
        return None
    windows = [(p, e) for p, e in enumerate(image.results) if not isinstance(e, Dim)]
    found = [_window(e, op) for _, e in windows]
    if len(found) != 2 or None in found:
        return _missed(root, _other_window([e for _, e in windows], op))
    (row, tap_row, last_row), (column, tap_column, last_column) = (w for w in found if w)
    (h, _), (w, _) = windows
    if w != h + 1 or not {row, column}.isdisjoint(taps.dims()):
        return None
    weights, results = taps.dim_positions() or (), made.dim_positions() or ()
    if not set(op.reduction_dims) - {tap_row, tap_column}:
        return _missed(root, "it has a filter a channel: no matrix product is left")
    at = results.index(row)
    if results[at + 1 : at + 2] != (column,) or not {tap_row, tap_column} <= set(weights):
        return None
    loops = read.dim_positions()
    assert loops is not None, "the epilogue reads the convolution element by element"
    others = (
        []
        if last is None
        else [(v, m) for v, m in zip(last.inputs, last.maps, strict=False) if v is not op.result]
    )
    tail = Tail(last, read.num_dims, (loops[at], loops[at + 1]), read, out, others)
    return Conv(
        root,
        op,
        tail,
        image_dims=(h, w),
        weight_dims=(weights.index(tap_row), weights.index(tap_column)),
        pixel_loops=(row, column),
        tap_loops=(tap_row, tap_column),
        out_dims=(at, at + 1),
        reversed=(last_row, last_column),
    )


def _missed(root: Op, why: str) -> None:
    remarks.missed(root, f"is no convolution for Winograd's method: {why}")


def _other_window(exprs: Sequence[AffineExpr], op: linalg.LinalgOp) -> str:
    """The sizes, strides and dilations of a window that is not one for the method."""
    found: list[tuple[int, int, int]] = []
    for expr in exprs:
        linear = expr.coefficients()
        loops = sorted(linear[0], key=lambda d: op.iterators[d] == linalg.REDUCTION) if linear else []
        if linear is None or len(loops) != 2:
            return "what it reads is no window of pixels"
        found.append((op.loop_sizes()[loops[1]], linear[0][loops[0]], linear[0][loops[1]]))
    if not found:
        return "its window is one pixel"
    taps, strides, dilations = ("x".join(map(str, numbers)) for numbers in zip(*found, strict=True))
    return f"its window is {taps} with strides {strides} and dilations {dilations}, not 3x3 with 1x1 and 1x1"


def _window(expr: AffineExpr, op: linalg.LinalgOp) -> tuple[int, int, bool] | None:
    """The loops (pixel, tap) of an index `pixel + tap` with three taps, or `pixel + 2 - tap`; True for that."""
    linear = expr.coefficients()
    if linear is None or len(linear[0]) != 2:
        return None
    pixel, tap = sorted(linear[0], key=lambda d: op.iterators[d] == linalg.REDUCTION)
    kinds = [op.iterators[d] for d in (pixel, tap)]
    if kinds != [linalg.PARALLEL, linalg.REDUCTION] or op.loop_sizes()[tap] != TAPS or linear[0][pixel] != 1:
        return None
    ways = {(1, 0): False, (-1, TAPS - 1): True}
    step = linear[0][tap], linear[1]
    return (pixel, tap, ways[step]) if step in ways else None
