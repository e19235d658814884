"""prepack: which constants are laid out anew, and that the result stays."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.ir.core import Op
from mdsl.reference import run

MATMUL = """
func.func @main(%a: tensor<{rows}x{depth}xf32>) -> tensor<{rows}x{columns}xf32> {{
  %w = arith.constant dense_resource<w> : tensor<{depth}x{columns}xf32>
  %c = nn.matmul %a, %w : (tensor<{rows}x{depth}xf32>, tensor<{depth}x{columns}xf32>) -> tensor<{rows}x{columns}xf32>
  {more}
  return %c : tensor<{rows}x{columns}xf32>
}}
{{-#
  dialect_resources: {{ builtin: {{ w: "0x04000000{data}" }} }}
#-}}
"""


def _program(rows: int, depth: int, columns: int, more: str = "") -> str:
    weights = np.random.default_rng(0).standard_normal((depth, columns)).astype(np.float32)
    return MATMUL.format(rows=rows, depth=depth, columns=columns, more=more, data=weights.tobytes().hex())


def _slices(module: Op) -> list[Op]:
    return [
        op for op in module.walk() if op.name == "tensor.expand_shape" and op.result.name == "w_packed_tile"
    ]


@pytest.mark.parametrize("rows, depth, columns", [(14, 24, 64), (14, 24, 80), (3, 17, 90), (40, 8, 33)])
def test_the_result_stays(rows: int, depth: int, columns: int) -> None:
    tiled = mdsl.opt(_program(rows, depth, columns), "tile", target="avx512")
    packed = mdsl.opt(tiled, "prepack", target="avx512")
    a = np.random.default_rng(1).standard_normal((rows, depth)).astype(np.float32)
    before, after = run(tiled, [a])[0], run(packed, [a])[0]
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_each_tile_reads_one_contiguous_piece() -> None:
    packed = mdsl.opt(_program(14, 24, 64), "prepack", target="avx512")
    assert _slices(packed), "the weights' tiles are views of one stream"
    shapes = {op.result.type.shape for op in _slices(packed)}
    assert shapes == {(24, 2, 16)}, "summed dimension first, the blocks of one step side by side"


def test_a_remainder_has_a_constant_of_its_own() -> None:
    packed = mdsl.opt(_program(14, 24, 80), "prepack", target="avx512")
    constants = [
        op for op in packed.walk() if op.name == "arith.constant" and "w_packed" in str(op.result.name)
    ]
    assert sum(op.result.type.size for op in constants) == 24 * 80, "nothing is kept twice"


def test_a_constant_with_another_reader_stays() -> None:
    more = "%d = nn.add %w, %w : (tensor<24x64xf32>, tensor<24x64xf32>) -> tensor<24x64xf32>"
    text = _program(14, 24, 64, more).replace(
        "return %c : tensor<14x64xf32>", "return %c, %d : tensor<14x64xf32>, tensor<24x64xf32>"
    )
    text = text.replace("-> tensor<14x64xf32> {", "-> (tensor<14x64xf32>, tensor<24x64xf32>) {", 1)
    exe = mdsl.compile(text)
    a = np.ones((14, 24), np.float32)
    product, doubled = exe(a)
    np.testing.assert_allclose(product[0], doubled.sum(axis=0) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("columns", "tiles"), [(512, {(512, 24)}), (90, {(80, 24), (10, 24)})])
def test_columns_of_a_matrix_in_a_loop_become_tiles(columns: int, tiles: set[tuple[int, int]]) -> None:
    row, matrix = f"tensor<1x{columns}xf32>", f"tensor<24x{columns}xf32>"
    weights = np.random.default_rng(0).standard_normal((24, columns)).astype(np.float32)
    text = f"""
    func.func @main(%a: tensor<1x24xf32>) -> {row} {{
      %w = arith.constant dense_resource<w> : {matrix}
      %zero = arith.constant 0.0 : f32
      %init = tensor.empty() : {row}
      %start = linalg.fill ins(%zero : f32) outs(%init : {row}) -> {row}
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c3 = arith.constant 3 : index
      %all = scf.for %t = %c0 to %c3 step %c1 iter_args(%sum = %start) -> ({row}) {{
        %c = linalg.matmul ins(%a, %w : tensor<1x24xf32>, {matrix}) outs(%sum : {row}) -> {row}
        scf.yield %c : {row}
      }}
      return %all : {row}
    }}
    {{-# dialect_resources: {{ builtin: {{ w: "0x04000000{weights.tobytes().hex()}" }} }} #-}}"""
    packed = mdsl.opt(text, "tile{sizes=[1,16]},prepack")
    constants = [op for op in packed.walk() if op.name == "arith.constant"]
    shapes = {op.result.type.shape for op in constants if op.result.name.startswith("w")}
    assert shapes == tiles
    a = np.random.default_rng(1).standard_normal((1, 24)).astype(np.float32)
    np.testing.assert_allclose(run(packed, [a])[0], 3 * (a @ weights), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mdsl.compile(text)(a), 3 * (a @ weights), rtol=1e-4, atol=1e-4)
