"""Programs that once came out wrong: every engine must agree with the reference."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl

SQUARE_PLUS_SELF = """
func.func @main(%x: tensor<8xf32>, %y: tensor<8xf32>) -> tensor<8xf32> {
  %empty = tensor.empty() : tensor<8xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
      iterator_types = ["parallel"]} ins(%x, %y : tensor<8xf32>, tensor<8xf32>) outs(%empty : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32, %out: f32):
    %s = math.fma %a, %b, %a : f32
    linalg.yield %s : f32
  } -> tensor<8xf32>
  return %r : tensor<8xf32>
}
"""

MINUS_NEGATIVE_ZERO = """
func.func @main(%x: tensor<8xf32>, %y: tensor<8xf32>) -> tensor<8xf32> {
  %zero = arith.constant dense<-0.0> : tensor<8xf32>
  %d = nn.sub %x, %zero : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  %r = nn.mul %d, %y : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  return %r : tensor<8xf32>
}
"""


@pytest.mark.parametrize("ukernels", [True, False])
@pytest.mark.parametrize("program", [SQUARE_PLUS_SELF, MINUS_NEGATIVE_ZERO])
def test_agrees_with_the_reference(program: str, ukernels: bool) -> None:
    x = np.array([-0.0, 0.0, 1, 2, -3, 4, 5, 6], np.float32)
    y = np.ones(8, np.float32)
    wanted = mdsl.compile(program, engine="reference")(x, y)
    found = mdsl.compile(program, ukernels=ukernels)(x, y)
    assert np.array_equal(found, wanted) and np.array_equal(np.signbit(found), np.signbit(wanted))
