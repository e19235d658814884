"""Rules for resizing: Resize and Upsample."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import along
from mdsl.frontends.onnx.interpolation import Taps, coordinates, nearest, resized, weighted
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, f32, f64

_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@converts("Resize", "Upsample")
def resize(node: Node) -> Value:
    x, type = node.operand(0), node.type()
    axes = [node.axis(a, type.rank) for a in node.attr("axes", list(range(type.rank)))]
    scales, sizes = _targets(node, axes)
    legacy = node.op_type == "Upsample" or node.version < 11
    mode, transform = node.attr("mode", "nearest"), node.attr("coordinate_transformation_mode", "half_pixel")
    transform = "asymmetric" if legacy else transform
    crops = transform == "tf_crop_and_resize"
    roi = node.constant(1) if crops else np.zeros(0)
    if roi is None or (crops and roi.size != 2 * len(axes)):
        raise node.unsupported(f"roi is not a constant of {2 * len(axes)} numbers")
    wide = x if mode == "nearest" or type.element in (f32, f64) else node.cast(x, f32, "wide")
    for i, axis in enumerate(axes):
        size, scale, new = type.shape[axis], scales[i], sizes[i]
        if size == new and np.isclose(scale, 1) and not crops:
            continue
        if DYNAMIC in (size, new):
            raise node.unsupported(f"needs known sizes, got {type}")
        if new < 1 or size < 1:
            wide = _empty(node, wide, axis, new)
            continue
        node.check_size([*type.shape[:axis], new, *type.shape[axis + 1 :]], type.element)
        window = (float(roi.flat[i]), float(roi.flat[len(axes) + i])) if crops else (0.0, 1.0)
        where = coordinates(transform, size, new, scale, window, mode != "nearest" and not crops)
        if where is None:
            raise node.malformed(f"coordinate_transformation_mode = {transform} is unknown")
        taps = _taps(node, mode, where, scale, size)
        wide = resized(node.expr(wide), axis, taps).value
        if crops:
            wide = _extrapolated(node, wide, axis, (where < 0) | (where > size - 1))
    if tensor_of(wide).element != type.element:
        wide = node.cast(wide, type.element)
    return _with_open_sizes(node, wide, axes, sizes)


def _with_open_sizes(node: Node, y: Value, axes: list[int], sizes: list[int]) -> Value:
    """`y` with the computed sizes that it kept: should they be others when the program is called, that is an error."""
    kept = {a: i for i, a in enumerate(axes) if sizes[i] == DYNAMIC}
    if not kept or node.version < 11 or node.input(3) is None:
        return y
    shape = [
        node.build(nn.Slice(node.operand(3), starts=[kept[d]], ends=[kept[d] + 1]), f"size{d}")
        if d in kept
        else s
        for d, s in enumerate(node.sizes(y))
    ]
    return node.build(nn.DynamicReshape(y, node.vector(shape), results=[y.type]))


def _targets(node: Node, axes: list[int]) -> tuple[list[float], list[int]]:
    """For each axis the scale and the new size; `DYNAMIC` where an open size stays."""
    old = [node.type().shape[a] for a in axes]
    legacy = node.op_type == "Upsample" or node.version < 11
    scales = node.attr("scales") if node.version < 9 else node.constant(1 if legacy else 2)
    given = None if scales is None else [float(s) for s in np.asarray(scales).reshape(-1)]
    if given:
        if len(given) != len(axes) or min(given) <= 0:
            raise node.malformed(f"scales must hold {len(axes)} positive numbers, got {given}")
        return given, [
            s if s == DYNAMIC and f == 1 else int(np.float32(s) * np.float32(f))
            for s, f in zip(old, given, strict=True)
        ]
    if node.input(3) is None:
        raise node.unsupported("scales is not a constant")
    wanted = node.known(3)
    if wanted is None:
        raise node.unsupported("sizes is not a constant")
    if len(wanted) != len(axes):
        raise node.malformed(f"sizes must hold {len(axes)} integers, got {wanted}")
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch" and (DYNAMIC in old or None in wanted):
        raise node.unsupported(f"keep_aspect_ratio_policy = {policy} needs known sizes, got {node.type()}")
    if any((size == DYNAMIC) != (new is None) for size, new in zip(old, wanted, strict=True)):
        raise node.unsupported(f"needs known sizes, got {node.type()}")
    sizes = [DYNAMIC if new is None else new for new in wanted]
    ratios = [
        float(np.float32(new) / np.float32(size)) if size else 1.0
        for new, size in zip(sizes, old, strict=True)
    ]
    if policy == "stretch":
        return ratios, sizes
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [ratio] * len(axes), [int(ratio * size + 0.5) for size in old]


def _taps(node: Node, mode: str, where: np.ndarray, scale: float, size: int) -> Taps:
    if mode == "nearest":
        # Opset 10 does not say how a place is rounded: as onnxruntime does.
        legacy = "ceil" if node.version == 10 and scale < 1 else "floor"
        rounding = node.attr("nearest_mode", "round_prefer_floor") if node.version > 10 else legacy
        if rounding not in _NEAREST:
            raise node.malformed(f"nearest_mode = {rounding} is unknown")
        return nearest(where, rounding)
    if mode not in ("linear", "bilinear", "cubic"):
        raise node.malformed(f"mode = {mode} is unknown")
    stretch = min(scale, 1.0) if node.attr("antialias", 0) else 1.0
    cubic = node.attr("cubic_coeff_a", -0.75) if mode == "cubic" else None
    return weighted(where, cubic, stretch, bool(node.attr("exclude_outside", 0)), size)


def _empty(node: Node, x: Value, axis: int, new: int) -> Value:
    """`x` with nothing left along an axis."""
    if new:
        raise node.malformed(f"cannot make {new} elements along an axis of none: {tensor_of(x)}")
    return node.build(nn.Slice(x, starts=[0], ends=[0], axes=[axis]), f"axis{axis}")


def _extrapolated(node: Node, x: Value, axis: int, outside: np.ndarray) -> Value:
    """`x` with the extrapolation value at places along an axis."""
    if not outside.any():
        return x
    flags = node.const(along(outside, axis, tensor_of(x).rank), f"outside{axis}")
    value = node.const(node.attr("extrapolation_value", 0.0), f"beyond{axis}", x.type)
    return node.build(nn.Select(flags, value, x), f"cropped{axis}")
