"""Interpolation along one axis: the taps of each new element, and ops that compute the sums of taps fast.

Interpolation is separable, so a resize is one of these for each axis. Where the new size is a multiple of the
old one, the same pattern repeats at every element: the result's phases are sums of shifted slices, put together
again; only other ratios have to look elements up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import BEFORE_ALL, along
from mdsl.frontends.onnx.expressions import Expr

Array = np.ndarray


@dataclass(frozen=True)
class Taps:
    """For each new element, (new size, taps): which old elements, possibly beyond the edge (which then stands for
    them), and with what weights."""

    places: Array
    weights: Array


# Where a new element lies ---------------------------------------------------------------------------------


def coordinates(
    mode: str, size: int, new: int, scale: float, roi: tuple[float, float], precise: bool
) -> Array | None:
    """The new elements' places among the old ones, as ONNX's coordinate_transformation_mode has them: `precise`, or in f32,
    as runtimes compute them, where rounding decides which element is read."""
    number = np.float64 if precise else np.float32
    y, half = np.arange(new, dtype=number), number(0.5)
    if mode == "asymmetric":
        return y / number(scale)
    if mode == "align_corners":  # of a scale the size before it is made whole, as ONNX's tests have it
        exact = number(new if np.isclose(scale * size, new) else scale * size)
        return y * number(size - 1) / (exact - 1) if exact != 1 else np.zeros(new)
    if mode == "tf_crop_and_resize":
        start, end = map(number, roi)
        if new == 1:
            return np.full(1, half * (start + end) * number(size - 1))
        return start * number(size - 1) + y * (end - start) * number(size - 1) / number(new - 1)
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(1)
    centre = (y + half) / number(scale) - half
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return centre
    if mode == "half_pixel_symmetric":
        adjustment = number(new) / (number(scale) * number(size))
        return number(size) / 2 * (1 - adjustment) + centre
    return None


# Weights --------------------------------------------------------------------------------------------------


def nearest(where: Array, mode: str) -> Taps:
    """The nearest element, halves by `mode`."""
    rounded: dict[str, Callable[[Array], Array]] = {
        "round_prefer_floor": lambda w: np.ceil(w - 0.5),
        "round_prefer_ceil": lambda w: np.floor(w + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    places = rounded[mode](where).astype(np.int64)[:, None]
    return Taps(places, np.ones_like(places, np.float64))


def _tent(distance: Array) -> Array:
    return np.clip(1 - np.abs(distance), 0, None)


def _keys(a: float) -> Callable[[Array], Array]:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981)."""

    def weigh(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    return weigh


def weighted(where: Array, cubic: float | None, scale: float, exclude_outside: bool, size: int) -> Taps:
    """Linear interpolation, or cubic with the coefficient `cubic`, stretched by 1 / scale (below 1, which makes
    it a low-pass filter: antialias; else 1)."""
    radius = 2 if cubic is not None else 1
    weigh = _tent if cubic is None else _keys(cubic)
    reach = int(np.ceil(radius / scale))
    places = np.floor(where).astype(np.int64)[:, None] + np.arange(1 - reach, 1 + reach)
    weights = weigh((places - where[:, None]) * scale)
    if exclude_outside:
        weights = np.where((places < 0) | (places >= size), 0, weights)
    if exclude_outside or scale != 1:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return Taps(places, weights)


# Building -------------------------------------------------------------------------------------------------


def resized(x: Expr, axis: int, taps: Taps) -> Expr:
    """`x` with `axis` resized."""
    size, new = x.shape[axis], len(taps.places)
    used = np.abs(taps.weights).max(axis=0) > 0
    places, weights = taps.places[:, used], taps.weights[:, used]
    if places.shape[1] == 1 and (weights == 1).all():
        return taken(x, axis, np.clip(places[:, 0], 0, size - 1))
    factor = new // size
    if new == factor * size and _repeats(places, weights, factor):
        return _by_phases(x, axis, places[:factor], weights[:factor])
    if places.shape[1] > 4:
        return _by_matrix(x, axis, places, weights)
    columns = zip(np.clip(places, 0, size - 1).T, weights.T, strict=True)
    return reduce(add, (_scaled(taken(x, axis, p), axis, w) for p, w in columns))


def taken(x: Expr, axis: int, places: Array) -> Expr:
    """Elements of `x` along an axis: a slice or a repetition if they are one, else looked up."""
    outer, (size, *inner), new = x.shape[:axis], x.shape[axis:], len(places)
    if np.array_equal(places, np.arange(size)):
        return x
    factor = new // size
    if new == factor * size and np.array_equal(places, np.repeat(np.arange(size), factor)):
        columns = x.reshape((*outer, size, 1, *inner)).broadcast((*outer, size, factor, *inner))
        return columns.reshape((*outer, new, *inner))
    first, step = int(places[0]), int(places[1] - places[0]) if new > 1 else 1
    if not np.array_equal(places, first + step * np.arange(new)):
        return x.of(nn.Gather, x.node.const(places, "places"), axis=axis)
    if step == 0:
        return x.slice(axis, first, first + 1).broadcast((*outer, new, *inner))
    end = int(places[-1]) + (1 if step > 0 else -1)
    return x.slice(axis, first, end if end >= 0 else BEFORE_ALL, step)


def extended(x: Expr, axis: int, low: int, high: int, mode: str) -> Expr:
    """`x` continued along an axis as `np.pad` does in its `mode`: "reflect", "edge" or "wrap"."""
    size = x.shape[axis]
    places = np.pad(np.arange(size), (low, high), mode=mode)  # type: ignore[call-overload]
    before = [taken(x, axis, places[:low])] if low else []
    after = [taken(x, axis, places[low + size :])] if high else []
    first, *rest = [*before, x, *after]
    return first.of(nn.Concat, *rest, axis=axis) if rest else first


def _repeats(places: Array, weights: Array, factor: int) -> bool:
    """True if each element has the same pattern around it."""
    around = places.reshape(-1, factor, places.shape[1]) - np.arange(len(places) // factor)[:, None, None]
    pattern = weights.reshape(around.shape)
    return bool((around == around[:1]).all() and np.allclose(pattern, pattern[:1], rtol=0, atol=1e-12))


def _by_phases(x: Expr, axis: int, places: Array, weights: Array) -> Expr:
    """New element q * factor + r is the sum of weights[r] times the elements q + places[r]: one formula of what lies at
    (q, r), where the element of a tap is the choice of r among slices. What has no weight is 0, whatever lies there."""
    outer, (size, *inner), factor = x.shape[:axis], x.shape[axis:], len(places)
    low, high = max(0, -int(places.min())), max(0, int(places.max()))
    padded = extended(x, axis, low, high, "edge")

    def shifted(place: int) -> Expr:
        found = taken(padded, axis, low + place + np.arange(size))
        return found.reshape((*outer, size, 1, *inner))

    def tap(places: Array, weights: Array) -> Expr:
        first, *others = dict.fromkeys(places[weights != 0].tolist())
        value = shifted(first)
        for place in others:
            value = shifted(place).where(flags(places == place), value)
        if not weights.all():
            value = value.like(0).where(flags(weights == 0), value)
        return _scaled(value, axis + 1, weights)

    def flags(chosen: Array) -> Expr:
        return Expr(x.node, x.node.const(along(chosen, axis + 1, len(x.shape) + 1), "phases"))

    total = reduce(add, map(tap, places.T, weights.T))
    return total.broadcast((*outer, size, factor, *inner)).reshape((*outer, size * factor, *inner))


def _by_matrix(x: Expr, axis: int, places: Array, weights: Array) -> Expr:
    """A product with the matrix of all weights."""
    rank, size = x.type.rank, x.shape[axis]
    matrix = np.zeros((size, len(places)))
    np.add.at(matrix, (np.clip(places, 0, size - 1), np.arange(len(places))[:, None]), weights)
    if axis == rank - 1:
        return x.of(nn.Matmul, matrix)
    order = [d for d in range(rank) if d != axis] + [axis]
    transposed = x.of(nn.Transpose, perm=order).of(nn.Matmul, matrix)
    return transposed.of(nn.Transpose, perm=[order.index(d) for d in range(rank)])


def _scaled(x: Expr, axis: int, weights: Array) -> Expr:
    """`x` times one weight for each place along an axis, or one for all."""
    if (weights == weights[0]).all():
        return x * float(weights[0])
    return x * along(weights, axis, x.type.rank)
