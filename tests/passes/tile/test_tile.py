"""tile: what sizes may be given, and tensors without elements."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects import scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.reference import run
from mdsl.syntax.errors import MdslError


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
