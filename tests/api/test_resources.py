"""Modules that are built in Python name their data themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import mdsl
from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseResourceAttr, Resource
from mdsl.ir.core import Builder
from mdsl.ir.types import TensorType, f32

TYPE = TensorType((4,), f32)
EMPTY = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
"""


def _sum(*arrays: np.ndarray) -> ModuleOp:
    """x + each of the arrays, all in resources called `w`."""
    module = mdsl.parse(EMPTY)
    (end,) = (op for op in module.walk() if op.name == "func.return")
    builder = Builder.before(end)
    total = end.operands[0]
    for array in arrays:
        data = DenseResourceAttr("w", TYPE, Resource(array))
        total = builder.value(nn.Add(total, builder.value(Constant(value=data, results=[TYPE]))))
    end.operands = [total]
    return module


@pytest.mark.parametrize(
    "use", [mdsl.compile, mdsl.parse, lambda module: mdsl.opt(module, "cse")], ids=["compile", "parse", "opt"]
)
def test_one_name_for_different_data_is_refused(use: Callable[[ModuleOp], object]) -> None:
    one = np.arange(4, dtype=np.float32)
    for other in (one + 1, np.where(one == 0, np.float32(-0.0), one)):
        with pytest.raises(MdslError, match="dense_resource<w> is the name of other data, too"):
            use(_sum(one, other))


def test_one_name_for_equal_data_is_one_resource() -> None:
    one = np.arange(4, dtype=np.float32)
    found = mdsl.compile(_sum(one, one.copy()))(np.zeros(4, np.float32))
    assert np.array_equal(found, 2 * one)
