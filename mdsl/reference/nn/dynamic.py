"""Meaning of nn's ops on shapes that are computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mdsl.ir.core import Op
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC
from mdsl.reference.registry import failure, semantics

Array = np.ndarray


@semantics("nn.shape")
def shape(op: Op, x: Array) -> Array:
    return np.array(x.shape, np.int64)


@semantics("nn.range")
def range_(op: Op, start: Array, limit: Array, delta: Array) -> Array:
    if not delta:
        raise failure(op, "the distance of two numbers must not be 0")
    return _checked(op, np.arange(start.item(), limit.item(), delta.item()).astype(start.dtype))


@semantics("nn.dynamic_reshape")
def reshape(op: Op, x: Array, shape: Array) -> Array:
    return _checked(op, x.reshape(reshaped(op, x.shape, shape.tolist())))


@semantics("nn.dynamic_broadcast")
def broadcast(op: Op, x: Array, shape: Array) -> Array:
    return _checked(op, np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist()))))


@semantics("nn.dynamic_slice")
def slice_(op: Op, x: Array, starts: Array, ends: Array) -> Array:
    axes = op.attr("axes") or range(len(starts))
    steps = op.attr("steps") or [1] * len(starts)
    for axis, *bounds in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        x = np.take(x, range(*slice(*bounds).indices(x.shape[axis])), axis)
    return _checked(op, x)


@semantics("nn.dynamic_pad")
def pad(op: Op, x: Array, pads: Array) -> Array:
    widths = pads.reshape(2, x.ndim).T.tolist()
    return _checked(op, np.pad(x, widths, constant_values=x.dtype.type(op.attr("value"))) if widths else x)


@semantics("nn.dynamic_tile")
def tile(op: Op, x: Array, repeats: Array) -> Array:
    return _checked(op, np.tile(x, repeats.tolist()))


def reshaped(op: Op, old: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The shape that nn.dynamic_reshape means by `shape`. Raises EvaluationError if the elements do not fill it."""
    if any(s == 0 and d >= len(old) for d, s in enumerate(shape)):
        raise failure(op, f"shape {list(shape)} has a 0 where x has no dimension")
    found = [old[d] if s == 0 else s for d, s in enumerate(shape)]
    rest = np.prod([s for s in found if s != -1], dtype=object)
    size = np.prod(old, dtype=object)
    if (
        found.count(-1) > 1
        or any(s < -1 for s in found)
        or (size % rest if -1 in found and rest else size != rest)
    ):
        raise failure(op, f"the {size} elements of {list(old)} do not fill {list(shape)}")
    return [size // rest if s == -1 else s for s in found]


def _checked(op: Op, y: Array) -> Array:
    """`y`, which must have the sizes that the result's type knows."""
    wanted = tensor_of(op.result).shape
    if len(wanted) != y.ndim or any(w not in (DYNAMIC, s) for w, s in zip(wanted, y.shape, strict=True)):
        raise failure(op, f"the result is a {tensor_of(op.result)}, but comes out as {list(y.shape)}")
    return y
