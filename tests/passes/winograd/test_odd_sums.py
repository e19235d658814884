"""winograd: sums that look like the gradient of filters or like a convolution, and are not, or are in an odd way."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.compiler.pipeline import run_passes
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.linalg.fuse import Fuse
from mdsl.passes.linalg.winograd import Winograd
from mdsl.reference import run

SIZES = {"k": 5, "c": 4, "i": 3, "j": 3, "n": 2, "r": 8, "s": 6, "o": 1}
"""Extents of the loops: filters, channels, taps, images, pixels, and one of a single step."""


def _sum(image: str, gradient: str, made: str, sizes: dict[str, int], before: str, fill: str) -> str:
    """`@main`, which sums products of an image and a gradient; each index is a sum of loops, or a number."""
    sizes = {**SIZES, **sizes}
    loops = [d for d in sizes if d in image + gradient + made]

    def extent(index: str) -> int:
        dims = index.split("+")
        return sum(sizes[d] if d in sizes else int(d) + 1 for d in dims) - len(dims) + 1

    texts = [text.split(",") for text in (image, gradient, made)]
    maps = ", ".join(f"affine_map<({', '.join(loops)}) -> ({', '.join(t)})>" for t in texts)
    x, g, y = (f"tensor<{''.join(f'{extent(i)}x' for i in text)}f32>" for text in texts)
    results = {d for d in made.split(",") if sizes[d] > 1}
    kinds = ", ".join('"parallel"' if d in results else '"reduction"' for d in loops)
    return f"""
func.func @main(%x: {x}, %g: {g}) -> {y} {{
  %fill = arith.constant {fill} : f32
  %region = ukernel.region -> {y} {{
    %room = tensor.empty() : {y}
    %init = linalg.fill ins(%fill : f32) outs(%room : {y}) -> {y}{before.replace("TYPE", x)}
    %sum = linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}} ins({"%made" if before else "%x"}, %g : {x}, {g}) outs(%init : {y}) {{
    ^bb0(%a: f32, %b: f32, %old: f32):
      %product = arith.mulf %a, %b : f32
      %new = arith.addf %old, %product : f32
      linalg.yield %new : f32
    }} -> {y}
    ukernel.yield %sum : {y}
  }}
  return %region : {y}
}}
"""


COPIED, SQUARED = (
    f"""
    %other = tensor.empty() : TYPE
    %made = linalg.generic {{indexing_maps = [affine_map<(c, i, j) -> (c, i, j)>, affine_map<(c, i, j) -> (c, i, j)>], iterator_types = ["parallel", "parallel", "parallel"]}} ins(%x : TYPE) outs(%other : TYPE) {{
    ^bb0(%a: f32, %old: f32):
      %square = arith.mulf %a, %a : f32
      linalg.yield {what} : f32
    }} -> TYPE"""
    for what in ("%a", "%square")
)
"""What makes the image, or a copy of it, in the same group."""


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize(
    ("image", "gradient", "made", "more", "is_gradient"),
    [
        pytest.param("n,c,r+i,s+j", "n,k,r,s", "k,c,i,j", {}, True, id="the gradient"),
        pytest.param("n,c,r+i,s+j", "k,r,s", "k,c,i,j", {}, True, id="images share what is summed"),
        pytest.param("c,r+i,s+j", "k,r,s", "k,c,i,j", {"r": 1, "s": 1}, True, id="one pixel"),
        pytest.param("c,r+i,s+j", "k,r,s", "k,c,i,j", {"before": COPIED}, True, id="a copy inside"),
        pytest.param("c,r+i,s+j", "k,r,s", "k,c,i,j", {"before": SQUARED}, False, id="an image made inside"),
        pytest.param("c,r+i,s+j", "k,r,s", "k,c,i,j", {"fill": "1.0"}, False, id="added to ones"),
        pytest.param("0,c,r+i,s+j", "k,r,s", "k,c,i,j", {}, False, id="a number as index"),
        pytest.param("c,r+i+1,s+j", "k,r,s", "k,c,i,j", {}, False, id="not the first row"),
        pytest.param("s,c,r+i,s+j", "k,r,s", "k,c,i,j", {}, False, id="a diagonal of pixels"),
        pytest.param("i,c,r+i,s+j", "k,r,s", "k,c,i,j", {}, False, id="a diagonal of taps"),
        pytest.param("c,r+i,s+j", "k,r,s", "k,c,i,j,s", {"s": 1}, False, id="one pixel in the result"),
        pytest.param("n,c,r+i,s+j", "n,k,r,s", "k,c,i,j", {"n": 0}, False, id="no images"),
    ],
)
def test_sums_like_gradients(
    tile: int, image: str, gradient: str, made: str, more: dict[str, object], is_gradient: bool
) -> None:
    options = dict(more)
    before, fill = str(options.pop("before", "")), str(options.pop("fill", "0.0"))
    module = mdsl.parse(_sum(image, gradient, made, options, before, fill))  # type: ignore[arg-type]
    _stays(module, tile, "gradient", is_gradient)


@pytest.mark.parametrize("tile", [2, 4])
def test_an_image_of_which_not_all_is_read(tile: int) -> None:
    text = _sum("c,r+i,s+j", "k,r,s", "k,c,i,j", {}, "", "0.0").replace(
        "tensor<4x10x8xf32>", "tensor<4x13x8xf32>"
    )
    _stays(mdsl.parse(text), tile, "gradient", True)
    module = _convolution(1, 13, 9)
    run_passes(module, [Fuse()])
    _stays(module, tile, "output", True)


def test_a_convolution_of_no_images() -> None:
    module = _convolution(0, 8, 7)
    run_passes(module, [Fuse()])
    _stays(module, 4, "output", False)


def _convolution(images: int, rows: int, columns: int) -> ModuleOp:
    x, y = f"tensor<{images}x{rows}x{columns}x4xf32>", f"tensor<{images}x6x5x6xf32>"
    return mdsl.parse(f"""
func.func @main(%x: {x}, %w: tensor<3x3x4x6xf32>) -> {y} {{
  %zero = arith.constant 0.0 : f32
  %empty = tensor.empty() : {y}
  %init = linalg.fill ins(%zero : f32) outs(%empty : {y}) -> {y}
  %c = linalg.conv_2d_nhwc_hwcf ins(%x, %w : {x}, tensor<3x3x4x6xf32>) outs(%init : {y}) -> {y}
  return %c : {y}
}}
""")


def _stays(module: ModuleOp, tile: int, kind: str, applies: bool) -> None:
    """The pass makes a transform of this kind where it `applies`, and the result is what it was."""
    rng = np.random.default_rng(7)
    function = next(op for op in module.walk() if op.name == "func.func")
    given = [rng.standard_normal(a.type.shape).astype(np.float32) for a in function.regions[0].block.args]
    (wanted,) = run(module, given)
    run_passes(module, [Winograd(tile, True)])
    found = any(op.name == f"linalg_ext.winograd_{kind}_transform" for op in module.walk())
    assert found == applies
    assert np.allclose(run(module, given)[0], wanted, atol=1e-5 * np.abs(wanted).max(initial=1))
