"""Interpolation along one axis: the taps of each new element, and ops that compute the sums of taps fast.

Interpolation is separable, so a resize is one of these for each axis. Where the new size is a multiple of the
old one, the same pattern repeats at every element: the result's phases are sums of shifted slices, put together
again; only other ratios have to look elements up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of

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


def resized(node: Node, x: Value, axis: int, taps: Taps, suffix: str) -> Value:
    """`x` with `axis` resized."""
    size, new = tensor_of(x).shape[axis], len(taps.places)
    used = np.abs(taps.weights).max(axis=0) > 0
    places, weights = taps.places[:, used], taps.weights[:, used]
    if places.shape[1] == 1 and (weights == 1).all():
        return taken(node, x, axis, np.clip(places[:, 0], 0, size - 1), suffix)
    factor = new // size
    if new == factor * size and _repeats(places, weights, factor):
        return _by_phases(node, x, axis, places[:factor], weights[:factor], suffix)
    if places.shape[1] > 4:
        return _by_matrix(node, x, axis, places, weights, suffix)
    terms = [
        _scaled(node, taken(node, x, axis, np.clip(places[:, t], 0, size - 1), f"{suffix}_tap{t}"), axis,
                weights[:, t], f"{suffix}_term{t}")
        for t in range(places.shape[1])
    ]  # fmt: skip
    return _sum(node, terms, suffix)


def taken(node: Node, x: Value, axis: int, places: Array, suffix: str) -> Value:
    """Elements of `x` along an axis: a slice or a repetition if they are one, else looked up."""
    shape = tensor_of(x).shape
    size, new = shape[axis], len(places)
    if np.array_equal(places, np.arange(size)):
        return x
    factor = new // size
    if new == factor * size and np.array_equal(places, np.repeat(np.arange(size), factor)):
        column = node.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]), f"{suffix}_column")
        repeated = node.broadcast(
            column, (*shape[: axis + 1], factor, *shape[axis + 1 :]), f"{suffix}_repeated"
        )
        return node.reshape(repeated, (*shape[:axis], new, *shape[axis + 1 :]), suffix)
    step = int(places[1] - places[0]) if new > 1 else 1
    if step > 0 and np.array_equal(places, places[0] + step * np.arange(new)):
        start, end = [int(places[0])], [int(places[-1]) + 1]
        return node.build(nn.Slice(x, starts=start, ends=end, axes=[axis], steps=[step]), suffix)
    return node.build(nn.Gather(x, node.const(places, f"{suffix}_places"), axis=axis), suffix)


def _repeats(places: Array, weights: Array, factor: int) -> bool:
    """True if each element has the same pattern around it."""
    around = places.reshape(-1, factor, places.shape[1]) - np.arange(len(places) // factor)[:, None, None]
    pattern = weights.reshape(around.shape)
    return bool((around == around[:1]).all() and np.allclose(pattern, pattern[:1], rtol=0, atol=1e-12))


def _by_phases(node: Node, x: Value, axis: int, places: Array, weights: Array, suffix: str) -> Value:
    """New element q * factor + r is the sum of weights[r] times the elements q + places[r]."""
    shape = tensor_of(x).shape
    size, factor = shape[axis], len(places)
    low, high = max(0, -int(places.min())), max(0, int(places.max()))
    padded = _edged(node, x, axis, low, high, f"{suffix}_edged")
    phases: list[Value] = []
    for r in range(factor):
        name = f"{suffix}_phase{r}"
        terms = [
            _scaled(node, _part(node, padded, axis, low + int(p), size, f"{name}_tap{t}"), axis,
                    np.array([w]), f"{name}_term{t}")
            for t, (p, w) in enumerate(zip(places[r], weights[r], strict=True)) if w
        ]  # fmt: skip
        phases.append(_sum(node, terms, name if factor > 1 else suffix))
    if factor == 1:
        return phases[0]
    column = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    columns = [node.reshape(p, column, f"{suffix}_column{r}") for r, p in enumerate(phases)]
    joined = node.build(nn.Concat(*columns, axis=axis + 1), f"{suffix}_phases")
    return node.reshape(joined, (*shape[:axis], size * factor, *shape[axis + 1 :]), suffix)


def _by_matrix(node: Node, x: Value, axis: int, places: Array, weights: Array, suffix: str) -> Value:
    """A product with the matrix of all weights."""
    rank, size = tensor_of(x).rank, tensor_of(x).shape[axis]
    matrix = np.zeros((size, len(places)))
    np.add.at(matrix, (np.clip(places, 0, size - 1), np.arange(len(places))[:, None]), weights)
    factors = node.const(matrix, f"{suffix}_weights", tensor_of(x).element)
    if axis == rank - 1:
        return node.build(nn.Matmul(x, factors), suffix)
    order = [d for d in range(rank) if d != axis] + [axis]
    turned = node.build(
        nn.Matmul(node.build(nn.Transpose(x, perm=order), f"{suffix}_turned"), factors), f"{suffix}_rows"
    )
    return node.build(nn.Transpose(turned, perm=[order.index(d) for d in range(rank)]), suffix)


def _edged(node: Node, x: Value, axis: int, low: int, high: int, suffix: str) -> Value:
    """`x` with its first and last element repeated along an axis."""
    shape = tensor_of(x).shape
    parts = [x]
    for count, at in ((low, 0), (high, shape[axis] - 1)):
        if count:
            edge = _part(node, x, axis, at, 1, f"{suffix}_at{at}")
            wide = node.broadcast(edge, (*shape[:axis], count, *shape[axis + 1 :]), f"{suffix}_by{at}")
            parts = [*parts, wide] if at else [wide, *parts]
    return x if len(parts) == 1 else node.build(nn.Concat(*parts, axis=axis), suffix)


def _part(node: Node, x: Value, axis: int, start: int, size: int, suffix: str) -> Value:
    if start == 0 and size == tensor_of(x).shape[axis]:
        return x
    return node.build(nn.Slice(x, starts=[start], ends=[start + size], axes=[axis]), suffix)


def _scaled(node: Node, x: Value, axis: int, weights: Array, suffix: str) -> Value:
    """`x` times one weight for each place along an axis, or one for all."""
    if (weights == 1).all():
        return x
    shape: list[int] = []
    if not (weights == weights[0]).all():
        shape = [len(weights), *[1] * (tensor_of(x).rank - axis - 1)]
    factors = node.const(
        np.reshape(weights if shape else weights[0], shape), f"{suffix}_weights", tensor_of(x).element
    )
    return node.build(nn.Mul(x, factors), suffix)


def _sum(node: Node, terms: list[Value], suffix: str) -> Value:
    total = terms[0]
    for i, term in enumerate(terms[1:], 2):
        total = node.build(nn.Add(total, term), suffix if i == len(terms) else f"{suffix}_sum{i}")
    return total
