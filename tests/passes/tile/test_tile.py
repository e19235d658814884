"""tile: what sizes may be given, and tensors without elements."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects import scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.reference import run


def matmul(rows: int, columns: int, attributes: str = "") -> str:
    a, b, c = (f"tensor<{s}xf32>" for s in (f"{rows}x16", f"16x{columns}", f"{rows}x{columns}"))
    return f"""
    func.func @main(%a: {a}, %b: {b}) -> {c} {{
      %zero = arith.constant 0.0 : f32
      %init = tensor.empty() : {c}
      %start = linalg.fill ins(%zero : f32) outs(%init : {c}) -> {c}
      %c = linalg.matmul {attributes} ins(%a, %b : {a}, {b}) outs(%start : {c}) -> {c}
      return %c : {c}
    }}"""


def steps(module: ModuleOp) -> list[list[int]]:
    return [op.attr("staticStep") for op in module.walk() if isinstance(op, scf.Forall)]


def test_a_noted_tile_is_taken() -> None:
    tiled = mdsl.opt(matmul(32, 48, "{mdsl.tile = array<i64: 8, 16>}"), "tile")
    assert steps(tiled) == [[16, 8]] and "mdsl.tile" not in str(tiled)


def test_a_noted_tile_is_no_larger_than_the_result() -> None:
    assert steps(mdsl.opt(matmul(32, 48, "{mdsl.tile = array<i64: 99, 16>}"), "tile")) == [[16]]


def test_sizes_that_are_given_go_before_a_noted_tile() -> None:
    tiled = mdsl.opt(matmul(32, 48, "{mdsl.tile = array<i64: 8, 16>}"), "tile{sizes=[4,24]}")
    assert steps(tiled) == [[24, 4]] and "mdsl.tile" not in str(tiled)


def test_a_noted_tile_of_what_is_no_contraction_is_dropped() -> None:
    text = """
    func.func @main(%x: tensor<64x256xf32>) -> tensor<64x256xf32> {
      %init = tensor.empty() : tensor<64x256xf32>
      %y = linalg.copy {mdsl.tile = array<i64: 1, 1>} ins(%x : tensor<64x256xf32>) outs(%init : tensor<64x256xf32>)
        -> tensor<64x256xf32>
      return %y : tensor<64x256xf32>
    }"""
    tiled = mdsl.opt(text, "tile")
    assert steps(tiled) == [[32]] and "mdsl.tile" not in str(tiled)


@pytest.mark.parametrize("noted", ["array<i64: 0, 16>", "array<i64: 8>", "array<f32: 8.0, 16.0>", "8 : i64"])
def test_a_noted_tile_that_does_not_fit_is_refused(noted: str) -> None:
    text = matmul(32, 48, f"{{mdsl.tile = {noted}}}")
    with pytest.raises(MdslError, match=r":6:12: error: .* mdsl.tile must be 2 integers from 1 on"):
        mdsl.opt(text, "tile")


@pytest.mark.parametrize(("rows", "columns"), [(0, 32), (32, 0)])
@pytest.mark.parametrize("step", ["tile", "tile{sizes=[4,16]}", "tune,tile"])
def test_a_product_without_elements_is_one_kernel(rows: int, columns: int, step: str) -> None:
    text = matmul(rows, columns)
    a, b = np.ones((rows, 16), np.float32), np.ones((16, columns), np.float32)
    assert np.asarray(mdsl.compile(text, pipeline=step)(a, b)).shape == (rows, columns)
    (found,) = run(mdsl.opt(text, step), [a, b])
    assert found.shape == (rows, columns)


REGION = """
func.func @main(%a: tensor<32x16xf32>, %b: tensor<16x{columns}xf32>) -> {result} {{
  %zero = arith.constant 0.0 : f32
  %y = ukernel.region -> {result} {{
    %init = tensor.empty() : tensor<32x{columns}xf32>
    %start = linalg.fill ins(%zero : f32) outs(%init : tensor<32x{columns}xf32>) -> tensor<32x{columns}xf32>
    %c = linalg.matmul ins(%a, %b : tensor<32x16xf32>, tensor<16x{columns}xf32>) outs(%start : tensor<32x{columns}xf32>)
      -> tensor<32x{columns}xf32>
    %r = tensor.empty() : {result}
    %e = linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}}
      ins(%c, %c : tensor<32x{columns}xf32>, tensor<32x{columns}xf32>) outs(%r : {result}) {{
    ^bb0(%s: f32, %t: f32, %o: f32):
      %u = arith.addf %s, %t : f32
      linalg.yield %u : f32
    }} -> {result}
    ukernel.yield %e : {result}
  }}
  return %y : {result}
}}"""


def region(result: tuple[int, ...], maps: list[str], columns: int) -> str:
    """A product, and an op that reads it twice through `maps`; the last one is where it writes."""
    listed = ", ".join(f"affine_map<{m}>" for m in maps)
    kinds = ", ".join(['"parallel"'] * len(result))
    return REGION.format(
        result=f"tensor<{'x'.join(map(str, result))}xf32>", maps=listed, kinds=kinds, columns=columns
    )


@pytest.mark.parametrize(
    ("result", "maps"),
    [
        ((48, 32), ["(i, j) -> (j, i)", "(i, j) -> (j, i)", "(i, j) -> (i, j)"]),  # transposed
        ((32,), ["(i) -> (i, i)", "(i) -> (i, i)", "(i) -> (i)"]),  # the diagonal
        ((2, 32, 48), ["(b, i, j) -> (i, j)", "(b, i, j) -> (i, j)", "(b, i, j) -> (b, i, j)"]),  # repeated
        ((32, 32), ["(i, j) -> (i, j)", "(i, j) -> (j, i)", "(i, j) -> (i, j)"]),  # read at two places
        ((32,), ["(i) -> (i, i)", "(i) -> (i, 31 - i)", "(i) -> (i)"]),  # not a point: one kernel
    ],
)
@pytest.mark.parametrize("tile", ["tile", "tile{sizes=[4,5]}"])
def test_a_region_is_cut_as_its_result_is(result: tuple[int, ...], maps: list[str], tile: str) -> None:
    columns = 48 if 48 in result else 32
    text = region(result, maps, columns)
    a, b = (np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((32, 16), (16, columns)))
    (wanted,) = run(mdsl.parse(text), [a, b])
    np.testing.assert_allclose(run(mdsl.opt(text, tile), [a, b])[0], wanted, rtol=1e-5)
    np.testing.assert_allclose(mdsl.compile(text, pipeline=tile)(a, b), wanted, rtol=1e-4, atol=1e-4)


def test_sizes_of_a_transposed_product_are_in_the_order_of_the_result() -> None:
    """The model's tile of the product is wide, that of its transpose tall."""
    transposed = ["(i, j) -> (j, i)", "(i, j) -> (j, i)", "(i, j) -> (i, j)"]
    plain = [m.replace("(j, i)", "(i, j)") for m in transposed]
    tall = mdsl.opt(region((48, 32), transposed, 48), "tile", target="avx2")
    wide = mdsl.opt(region((32, 48), plain, 48), "tile", target="avx2")
    assert steps(tall) and steps(tall) == steps(wide)


@pytest.mark.parametrize(("element", "line"), [("f32", 16), ("f64", 8)])
@pytest.mark.parametrize("columns", [8, 64])
def test_long_sums_over_rows_read_whole_cache_lines(element: str, line: int, columns: int) -> None:
    x, sums = f"tensor<20000x{columns}x{element}>", f"tensor<{columns}x{element}>"
    text = f"""
    func.func @main(%x: {x}) -> {sums} {{
      %y = nn.reduce %x {{kind = "sum", axes = [0], keepdims = false}} : ({x}) -> {sums}
      return %y : {sums}
    }}"""
    (step,) = steps(mdsl.opt(text, "lower-nn,fuse,tile")) or [[columns]]
    assert step == [min(line, columns)]
