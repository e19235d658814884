"""Slices: what no part of a tensor or a memref can be. (A memref has no type of negative strides.)"""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.errors import MdslError

EXTRACT = "%s = tensor.extract_slice %x[{0}] [3] [{1}] : tensor<8xf32> to tensor<3xf32>"
INSERT = "%s = tensor.insert_slice %w into %x[{0}] [3] [{1}] : tensor<3xf32> into tensor<8xf32>"
SUBVIEW = (
    "%s = memref.subview %m[{0}] [3] [{1}] : memref<8xf32> to memref<3xf32, strided<[{1}], offset: {0}>>"
)
TEXT = """func.func @main(%x: tensor<8xf32>, %w: tensor<3xf32>, %m: memref<8xf32>) {{
  {}
  return
}}"""


@pytest.mark.parametrize("op", [EXTRACT, INSERT, SUBVIEW])
@pytest.mark.parametrize("stride", [-1, -2, 0])
def test_a_stride_is_positive(op: str, stride: int) -> None:
    with pytest.raises(MdslError, match=rf":2:\d+: error: .*({stride}|no type)"):
        mdsl.parse(TEXT.format(op.format(5, stride)))


@pytest.mark.parametrize("engine", ["reference", "vm", "jit"])
def test_a_stride_that_is_computed_is_positive(engine: str) -> None:
    text = """func.func @main(%x: tensor<8xf32>) -> tensor<3xf32> {
  %back = arith.constant -1 : index
  %s = tensor.extract_slice %x[5] [3] [%back] : tensor<8xf32> to tensor<3xf32>
  return %s : tensor<3xf32>
}"""
    with pytest.raises(MdslError, match=r":3:8: error: "):
        mdsl.compile(text, engine=engine)(np.zeros(8, np.float32))
