"""Winograd's transforms: with a product between them they are a convolution, on every level; and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mdsl
from mdsl.reference import run

MAPS = "indexing_maps = [affine_map<(c, h, w) -> (c, h, w)>, affine_map<(c, h, w) -> (c)>, affine_map<(c, h, w) -> (h, w, c)>]"


def program(m: int, height: int, width: int) -> str:
    """A depthwise convolution of 3 channels by two transforms and a product with `%w`, the weights' transform."""
    a, rows, columns = m + 2, -(-height // m), -(-width // m)
    image, tiles = (
        f"tensor<3x{rows * m + 2}x{columns * m + 2}xf32>",
        f"tensor<{a}x{a}x3x{rows}x{columns}xf32>",
    )
    pixels = f"tensor<{height}x{width}x3xf32>"
    loops = "d0, d1, d2, d3, d4"
    same, weight = f"affine_map<({loops}) -> ({loops})>", f"affine_map<({loops}) -> (d0, d1)>"
    fmr = f'fmr = "F_{m}_3", image_dimensions = array<i64: 1, 2>'
    return f"""
func.func @main(%x: {image}, %w: tensor<{a}x{a}xf32>, %bias: tensor<3xf32>) -> {pixels} {{
  %room = tensor.empty() : {tiles}
  %v = linalg_ext.winograd_input_transform {{{fmr}}} ins(%x : {image}) outs(%room : {tiles}) -> {tiles}
  %p = linalg.generic {{indexing_maps = [{same}, {weight}, {same}], iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]}} ins(%v, %w : {tiles}, tensor<{a}x{a}xf32>) outs(%room : {tiles}) {{
  ^bb0(%f: f32, %g: f32, %out: f32):
    %product = arith.mulf %f, %g : f32
    linalg.yield %product : f32
  }} -> {tiles}
  %empty = tensor.empty() : {pixels}
  %y = linalg_ext.winograd_output_transform {{{fmr}, {MAPS}}} ins(%p, %bias : {tiles}, tensor<3xf32>) outs(%empty : {pixels}) {{
  ^bb0(%sum: f32, %b: f32, %out: f32):
    %more = arith.addf %sum, %b : f32
    linalg_ext.yield %more : f32
  }} -> {pixels}
  return %y : {pixels}
}}
"""


def weights(m: int, taps: np.ndarray) -> np.ndarray:
    """Lavin and Gray's G g G', for the points 0, +-1 (m = 2) or 0, +-3/4, +-3/2 (m = 4)."""
    points = [0.0, 1.0, -1.0] if m == 2 else [0.0, 0.75, -0.75, 1.5, -1.5]
    rows = [np.array([1, t, t * t]) / np.prod([t - u for u in points if u != t]) for t in points]
    matrix = np.array([*rows, [0, 0, 1]])
    return matrix @ taps @ matrix.T


@pytest.mark.parametrize(("m", "height", "width"), [(2, 4, 7), (4, 8, 8), (4, 11, 2), (2, 1, 1), (4, 5, 12)])
def test_they_are_a_convolution(m: int, height: int, width: int) -> None:
    random = np.random.default_rng(7)
    taps, bias = random.standard_normal((3, 3)), random.standard_normal(3)
    x = random.standard_normal((3, -(-height // m) * m + 2, -(-width // m) * m + 2))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    wanted = np.einsum("chwij,ij->hwc", windows, taps)[:height, :width] + bias
    inputs = [v.astype(np.float32) for v in (x, weights(m, taps), bias)]
    text = program(m, height, width)
    np.testing.assert_allclose(run(mdsl.parse(text), inputs)[0], wanted, atol=1e-4)
    for ukernels in (True, False):
        np.testing.assert_allclose(mdsl.compile(text, ukernels=ukernels)(*inputs), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("F_4_3", "F_3_3", 'must be one of "F_2_3", "F_4_3"'),
        ("array<i64: 1, 2>", "array<i64: 1, 1>", "image_dimensions must be two of the 3 dimensions"),
        ("array<i64: 1, 2>", "array<i64: 1, 3>", "image_dimensions must be two of the 3 dimensions"),
        ("3x10x10x", "3x9x10x", "9 rows or columns are no tiles of 6"),
        ("6x6x3x2x2x", "6x5x3x2x2x", "takes or makes 6x6x3x2x2 elements"),
        ("8x8x3x", "8x9x3x", "takes or makes 6x6x3x2x3 elements"),
        ("8x8x3x", "8x3x", "does not fit"),
        ("(h, w, c)", "(h, w, w)", "must be permutations"),
        ("-> (c)>", "-> (h)>", "takes or makes 8 elements"),
        ("-> (c)>", "-> (c + h)>", "must consist of plain dimensions"),
        ("linalg_ext.yield %more", "linalg_ext.yield %out", "must not read the output"),
    ],
)
def test_what_is_refused(old: str, new: str, message: str) -> None:
    text = program(4, 8, 8)
    assert old in text
    with pytest.raises(mdsl.MdslError, match=re.escape(message)):
        mdsl.parse(text.replace(old, new))


def gradient(m: int, height: int, width: int) -> str:
    a, rows, columns = m + 2, -(-height // m), -(-width // m)
    image, tiles = f"tensor<{height}x{width}x3xf32>", f"tensor<{a}x{a}x{rows}x{columns}x3xf32>"
    return f"""
func.func @main(%x: {image}) -> {tiles} {{
  %room = tensor.empty() : {tiles}
  %v = linalg_ext.winograd_gradient_transform {{fmr = "F_{m}_3", image_dimensions = array<i64: 0, 1>}} ins(%x : {image}) outs(%room : {tiles}) -> {tiles}
  return %v : {tiles}
}}
"""


@pytest.mark.parametrize(("m", "height", "width"), [(2, 4, 7), (4, 8, 8), (4, 11, 2), (2, 1, 1), (4, 5, 13)])
def test_the_transform_of_a_gradient_is_the_output_transforms_adjoint(
    m: int, height: int, width: int
) -> None:
    """(A' p A) . x = p . (A x A') for each tile; the output transform drops what lies beyond the image."""
    x = np.random.default_rng(8).standard_normal((height, width, 3)).astype(np.float32)
    points = [0.0, 1.0, -1.0] if m == 2 else [0.0, 0.75, -0.75, 1.5, -1.5]
    matrix = np.array([*([t**k for k in range(m)] for t in points), [0.0] * (m - 1) + [1.0]])
    whole = np.pad(x.astype(np.float64), ((0, -height % m), (0, -width % m), (0, 0)))
    tiles = whole.reshape(whole.shape[0] // m, m, whole.shape[1] // m, m, 3)
    wanted = np.einsum("ik,jl,hkwlc->ijhwc", matrix, matrix, tiles)
    text = gradient(m, height, width)
    np.testing.assert_allclose(run(mdsl.parse(text), [x])[0], wanted, atol=1e-5)
    for ukernels in (True, False):
        np.testing.assert_allclose(mdsl.compile(text, ukernels=ukernels)(x), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("6x6x2x2x3x", "6x6x2x3x3x", "takes or makes 6x6x2x2x3 elements"),
        ("8x8x3x", "0x8x3x", "0 rows or columns are no tiles of 6"),
        (
            "ins(%x : tensor<8x8x3xf32>)",
            "ins(%x, %x : tensor<8x8x3xf32>, tensor<8x8x3xf32>)",
            "takes 1 input",
        ),
        ("array<i64: 0, 1>", "array<i64: 0, 3>", "image_dimensions must be two of the 3 dimensions"),
    ],
)
def test_what_is_refused_of_a_gradient(old: str, new: str, message: str) -> None:
    text = gradient(4, 8, 8)
    assert old in text
    with pytest.raises(mdsl.MdslError, match=re.escape(message)):
        mdsl.parse(text.replace(old, new))
