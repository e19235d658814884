"""autodiff: gradients of slices that lie side by side, as of a split into heads or gates, are joined instead of padded and added."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from mdsl.dialects import nn
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.passes.nn.autodiff.build import Adjoint


def joined(a: Adjoint, partials: Sequence[Value]) -> list[Value]:
    """Tensors of the same sum as `partials`: those that are zero but for parts side by side have become one."""
    pieces = [(v, _piece(v)) for v in partials]
    for axis in sorted({piece.axis for _, piece in pieces if piece is not None}):
        side = sorted(
            (p for _, p in pieces if p is not None and p.axis == axis), key=lambda p: (p.start, p.stop)
        )
        if len(side) < 2 or any(left.stop != right.start for left, right in pairwise(side)):
            continue
        whole = a(nn.Concat([p.inner for p in side], axis=axis), "joined")
        shape = tensor_of(partials[0]).shape
        low, high = [0] * len(shape), [0] * len(shape)
        low[axis], high[axis] = side[0].start, shape[axis] - side[-1].stop
        others = [v for v, piece in pieces if piece is None or piece.axis != axis]
        return [a.pad(whole, low, high, "joined"), *others]
    return list(partials)


class _Piece(NamedTuple):
    """The part of a tensor, from `start` to `stop` along `axis`, that is not zero."""

    axis: int
    start: int
    stop: int
    inner: Value


def _piece(value: Value) -> _Piece | None:
    pad = value.owner
    if not isinstance(pad, nn.Pad) or pad.attr("value") != 0:
        return None
    inner, pads, rank = tensor_of(pad.x).shape, pad.attr("pads"), tensor_of(value).rank
    axes = [d for d in range(rank) if pads[d] or pads[d + rank]]
    if len(axes) != 1:
        return None
    (axis,) = axes
    return _Piece(axis, pads[axis], pads[axis] + inner[axis], pad.x)
