"""lower-nn: the gradient of max-pooling. Each place of the image looks through the windows that it is in.

Places that are a stride apart lie in as many windows, at the same elements of them. So a nest has a loop over the strides of the
image, and one over the places in a stride: element number `place + stride * t` of a window is there, of the window that lies t
before.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdsl.dialects import arith, linalg, nn, tensor
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i32, wide
from mdsl.passes.nn.lower_nn.build import Emitter, Scalars, lowers
from mdsl.passes.nn.lower_nn.elementwise import converted
from mdsl.passes.nn.lower_nn.layers import finish

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION


@dataclass(frozen=True)
class _Side:
    """The rows, or the columns, of a pooling: of `windows` and of the image, whose places lie in at most `taps` windows."""

    stride: int
    dilation: int
    kernel: int
    pad: int
    windows: int
    size: int

    @property
    def taps(self) -> int:
        return -(-self.kernel // self.stride)

    @property
    def strides(self) -> int:
        """How many there are in the image and the padding before it."""
        return -(-(self.pad + self.size) // self.stride)

    @property
    def before(self) -> int:
        """How many windows before the first a place may look for."""
        return (self.taps - 1) * self.dilation


@lowers("nn.max_pool2d_grad")
def max_pool2d_grad(e: Emitter, op: nn.MaxPool2dGrad) -> Value:
    result = tensor_of(op.result)
    first = 1 if op.channels_last else 2
    places, grad = op.places, op.grad
    sides: list[_Side] = []
    for d in range(2):
        stride, dilation = op.attr("strides")[d], op.attr("dilations")[d]
        if stride > 1 and dilation > 1:
            # Windows and elements go in steps of their own: the windows are set apart.
            places, grad = (_apart(e, v, first + d, stride, f) for v, f in ((places, -1), (grad, 0)))
            stride = 1
        windows = tensor_of(places).shape[first + d]
        kernel, pad = op.attr("kernel")[d], op.attr("pads")[d]
        sides.append(_Side(stride, dilation, kernel, pad, windows, op.image()[2 + d]))
    nest = _Nest(e, op, sides)
    total = nest.sum(*(nest.seen(v, fill) for v, fill in ((places, -1), (grad, 0))))
    whole = op.arrange(*op.image()[:2], *(s.strides * s.stride for s in sides))
    total = e.reshape(total, whole, "whole")
    if tuple(whole) != result.shape:
        offsets = op.arrange(0, 0, *(s.pad for s in sides))
        total = e.value(tensor.ExtractSlice.of(total, offsets, result.shape, [1] * 4), "sum")
    total = finish(e, total, result.element, None, 1)
    total.name = e.name
    return total


def _apart(e: Emitter, x: Value, dim: int, step: int, fill: float) -> Value:
    """`x` with `fill` between its elements along a dimension, which gets `step` times as long."""
    shape = tensor_of(x).shape
    x = e.reshape(x, (*shape[: dim + 1], 1, *shape[dim + 1 :]), "apart")
    high = [step - 1 if d == dim + 1 else 0 for d in range(len(shape) + 1)]
    x = e.pad(x, [0] * len(high), high, fill)
    return e.reshape(x, [n * step if d == dim else n for d, n in enumerate(shape)], "spread")


class _Nest:
    """The nest: a loop for each letter of `loops`. h and w run over strides, a and b over the places in one (where that is more than one),
    i and j over the windows that a place is in (where it is in several), the first of them first."""

    def __init__(self, e: Emitter, op: nn.MaxPool2dGrad, sides: list[_Side]) -> None:
        self.e, self.op, self.sides = e, op, sides
        places = "h" + "a" * (sides[0].stride > 1) + "w" + "b" * (sides[1].stride > 1)
        self.image, self.out = ("nhwc", f"n{places}c") if op.channels_last else ("nchw", f"nc{places}")
        self.loops = self.out + "i" * (sides[0].taps > 1) + "j" * (sides[1].taps > 1)

    def seen(self, x: Value, fill: float) -> Value:
        """`x`, of which each window has one, as far as places look: with windows before the first and behind the last."""
        op, shape = self.op, list(tensor_of(x).shape)
        kept = op.arrange(*op.image()[:2], *(min(s.windows, s.strides) for s in self.sides))
        if list(kept) != shape:
            x = self.e.value(tensor.ExtractSlice.of(x, [0] * 4, kept, [1] * 4), "part")
        high = (max(0, s.strides - s.windows) for s in self.sides)
        low = op.arrange(0, 0, *(s.before for s in self.sides))
        return self.e.pad(x, low, op.arrange(0, 0, *high), fill)

    def sum(self, places: Value, grad: Value) -> Value:
        e, rank = self.e, len(self.loops)
        read = AffineMap(rank, 0, tuple(self._at(c) for c in self.image))
        out = AffineMap.select(rank, range(len(self.out)))
        element = wide(tensor_of(self.op.result).element)
        sizes = {"n": self.op.image()[0], "c": self.op.image()[1]}
        for side, strides, within in zip(self.sides, "hw", "ab", strict=True):
            sizes |= {strides: side.strides, within: side.stride}
        shape = [sizes[c] for c in self.out]
        inputs, maps = [places, grad], [read, read]
        taps = [side.taps for side in self.sides if side.taps > 1]
        if not taps:
            nest = e.nest(inputs, [e.empty(shape, element)], [*maps, out], [PARALLEL] * rank, self._gets)
            return e.value(nest, "gets")
        window = e.empty(taps, element, "window")
        maps.append(AffineMap.select(rank, range(len(self.out), rank)))
        iterators = [PARALLEL if c in self.out else REDUCTION for c in self.loops]

        def body(s: Scalars, place: Value, grad: Value, _: Value, total: Value) -> Value:
            return s.add(total, self._gets(s, place, grad))

        start = e.fill(0, shape, element)
        return e.value(e.nest([*inputs, window], [start], [*maps, out], iterators, body), "sums")

    def _at(self, letter: str) -> AffineExpr:
        """Where a place reads what windows have."""
        found: AffineExpr = Dim(self.loops.index(letter))
        tap = {"h": "i", "w": "j"}.get(letter, "")
        if not tap or tap not in self.loops:
            return found
        return found + Dim(self.loops.index(tap)) * self.sides["hw".index(letter)].dilation

    def _gets(self, s: Scalars, place: Value, grad: Value, *_: Value) -> Value:
        """What a place gets of one window."""
        row, (column, fits) = self._element(s, 0)[0], self._element(s, 1)
        width = s.constant(self.op.attr("kernel")[1], i32, "width")
        number = s.add(s.multiply(row, width, "row"), column, "number")
        is_it = s(arith.CmpI.of("eq", converted(s, place, i32), number), "is_it")
        if fits is not None:  # beyond the last column of a window is no place of its next row
            is_it = s(arith.AndI(is_it, fits), "is_it")
        grad = s.widen(grad)
        return s(arith.Select(is_it, grad, s.constant(0, grad.type, "zero")), "gets")

    def _element(self, s: Scalars, d: int) -> tuple[Value, Value | None]:
        """The row, or the column, of a window's element that lies at the place; and whether there is such a one, if that is not certain."""
        side, within, tap = self.sides[d], "ab"[d], "ij"[d]
        found = s.constant(side.stride * (side.taps - 1), i32, "last")
        if within in self.loops:
            found = s.add(found, self._counter(s, within), "element")
        if tap in self.loops:
            step = s.constant(side.stride, i32, "step")
            found = s(arith.SubI(found, s.multiply(self._counter(s, tap), step, "behind")), "element")
        if side.taps * side.stride == side.kernel:
            return found, None
        return found, s(arith.CmpI.of("slt", found, s.constant(side.kernel, i32, "size")), "fits")

    def _counter(self, s: Scalars, letter: str) -> Value:
        here = s(linalg.IndexOp(dim=self.loops.index(letter)), letter)
        return s(arith.IndexCast(here, results=[i32]), letter)
