"""Elements at computed places: what is read beyond the edge, and which element rounding decides for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models_of_nodes import F32, model, node

import mdsl
from mdsl.frontends.onnx import import_model

RANDOM = np.random.default_rng(8)


def result(op: Any, arrays: dict[str, np.ndarray], weights: dict[str, Any], opset: int = 20) -> np.ndarray:
    proto = model([op], [(n, F32, a.shape) for n, a in arrays.items()], weights=weights, opset=opset)
    found = mdsl.compile(import_model(proto), engine="reference")(**arrays)
    assert isinstance(found, np.ndarray)
    return found


# GridSample -----------------------------------------------------------------------------------------------


def keys(t: np.ndarray, a: float = -0.75) -> list[np.ndarray]:
    """The weights of the four elements around a place, t behind the second."""
    d = [1 + t, t, 1 - t, 2 - t]
    near = [((a + 2) * v - (a + 3)) * v * v + 1 for v in d]
    far = [((a * v - 5 * a) * v + 8 * a) * v - 4 * a for v in d]
    return [far[0], near[1], near[2], far[3]]


def moved(tap: np.ndarray, size: int, padding: str, corners: int) -> np.ndarray:
    """The element that a tap reads, -1 for none."""
    if padding == "zeros":
        return np.where((tap < 0) | (tap >= size), -1, tap)
    if padding == "reflection":
        low, span = (0, size - 1) if corners else (-0.5, size)
        offset = np.mod(tap - low, 2 * span) if span else np.zeros_like(tap)
        tap = (low + np.minimum(offset, 2 * span - offset)).astype(int)
    return np.clip(tap, 0, size - 1)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [1, 4])
def test_a_cubic_has_the_weights_of_its_place_and_reads_moved_taps(
    padding: str, corners: int, size: int
) -> None:
    x = RANDOM.standard_normal((1, 1, size, 1)).astype(np.float32)
    at = np.array([-7, -2.25, -1.1, -0.3, 0.1, 0.95, 1.6, 5.5], np.float32)
    grid = np.stack([np.zeros_like(at), at], -1).reshape(1, 8, 1, 2)
    op = node("GridSample", "x grid", mode="cubic", padding_mode=padding, align_corners=corners)
    place = (at.astype(float) + 1) / 2 * (size - corners) - (0 if corners else 0.5)
    base = np.floor(place).astype(int)
    wanted = np.zeros(8)
    for k, weight in enumerate(keys(place - base)):
        tap = moved(base + k - 1, size, padding, corners)
        wanted += weight * np.where(tap < 0, 0, x.reshape(-1)[tap])
    found = result(op, {"x": x, "grid": grid}, {}).reshape(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


# Resize ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "scale", "new"),
    [(10, 0.7, 7), (20, 0.35, 7), (10, 0.9, 9), (10, 2.3, 23), (5, 1.4, 7), (7, 1.7, 11)],
)
@pytest.mark.parametrize("opset", [9, 10, 11, 19])
def test_a_scale_is_arithmetic_in_single_precision(size: int, scale: float, new: int, opset: int) -> None:
    x = np.arange(size, dtype=np.float32).reshape(1, 1, size)
    weights = {"scales": np.array([1, 1, scale], np.float32), "roi": np.zeros(0, np.float32)}
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    op = node("Resize", "x roi scales", **attributes)
    if opset < 11:
        op = node("Upsample" if opset == 9 else "Resize", "x scales")
    rounded = np.ceil if opset == 10 and scale < 1 else np.floor
    places = rounded(np.arange(new, dtype=np.float32) / np.float32(scale)).astype(int)
    found = result(op, {"x": x}, weights, opset).reshape(-1)
    np.testing.assert_array_equal(found, np.minimum(places, size - 1))


def test_a_single_element_that_pytorch_makes_is_the_first() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    scales = {"scales": np.array([1, 1, 0.3], np.float32)}
    op = node("Resize", "x _ scales", mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    assert result(op, {"x": x}, scales).tolist() == [[[0]]]


def test_an_element_without_weight_counts_for_nothing() -> None:
    """Infinity times a weight of 0 would be NaN."""
    x = np.array([1, np.inf, 3, 4], np.float32).reshape(1, 1, 4)
    scales = {"scales": np.array([1, 1, 2], np.float32)}
    op = node("Resize", "x _ scales", mode="linear", coordinate_transformation_mode="asymmetric")
    assert result(op, {"x": x}, scales).reshape(-1).tolist() == [1, np.inf, np.inf, np.inf, 3, 3.5, 4, 4]


def test_the_place_of_a_crop_is_between_whole_sizes() -> None:
    x = np.arange(10, dtype=np.float32).reshape(1, 1, 10)
    weights = {"scales": np.array([0.55], np.float32), "roi": np.array([0.0, 1.0], np.float32)}
    attributes: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "axes": [2]}
    found = result(node("Resize", "x roi scales", mode="linear", **attributes), {"x": x}, weights)
    np.testing.assert_allclose(found.reshape(-1), np.linspace(0, 9, 5), rtol=1e-6)


def test_resizing_to_nothing_and_from_nothing() -> None:
    sizes = {"sizes": [1, 0]}
    assert result(node("Resize", "x _ _ sizes"), {"x": np.ones((1, 3), np.float32)}, sizes).shape == (1, 0)
    doubled = {"scales": np.array([1, 2], np.float32)}
    assert result(node("Resize", "x _ scales"), {"x": np.ones((1, 0), np.float32)}, doubled).shape == (1, 0)
    with pytest.raises(mdsl.MdslError, match="cannot make 2 elements along an axis of none"):
        result(node("Resize", "x _ _ sizes"), {"x": np.ones((1, 0), np.float32)}, {"sizes": [1, 2]})
