"""outline-ukernels: what a region takes and yields may be numbers."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl

TEXT = """func.func @main(%x: tensor<4xf32>, %s: TYPE) -> (tensor<4xf32>, TYPE) {
  %u = OP %s, %s : TYPE
  %a, %b = ukernel.region -> (tensor<4xf32>, TYPE) {
    %n = arith.negf %x : tensor<4xf32>
    %t = OP %u, %s : TYPE
    ukernel.yield %n, %t : tensor<4xf32>, TYPE
  }
  %c = OP %b, %s : TYPE
  return %a, %c : tensor<4xf32>, TYPE
}"""


@pytest.mark.parametrize(
    ("type", "number"),
    [("f32", np.float32(3)), ("f64", np.float64(0.5)), ("i32", np.int32(7)), ("index", np.int64(5))],
)
def test_numbers(type: str, number: np.generic) -> None:
    text = TEXT.replace("TYPE", type).replace("OP", "arith.addf" if type[0] == "f" else "arith.addi")
    x = np.arange(4, dtype=np.float32)
    for engine in ("reference", "vm", "jit"):
        negated, total = mdsl.compile(text, engine=engine)(x, number)
        np.testing.assert_array_equal(negated, -x)
        assert total == number * 4
