"""autodiff: loops and slices against finite differences; recurrent cells as they are imported."""

from __future__ import annotations

import numpy as np
import pytest
from differences import check

import mdsl
from mdsl.passes.base import functions
from mdsl.syntax.parser import parse

LOOP = """
func.func @main(%x: tensor<5x3xf64>, %w: tensor<3x3xf64>, %start: tensor<3xf64>) -> tensor<5x3xf64> {
  %first = arith.constant FIRST : index
  %end = arith.constant END : index
  %step = arith.constant STEP : index
  %empty = nn.mul %x, %x : (tensor<5x3xf64>, tensor<5x3xf64>) -> tensor<5x3xf64>
  %all, %last = scf.for %t = %first to %end step %step iter_args(%so_far = %empty, %state = %start) -> (tensor<5x3xf64>, tensor<3xf64>) {
    %now = tensor.extract_slice %x[%t, 0] [1, 3] [1, 1] : tensor<5x3xf64> to tensor<3xf64>
    %turned = nn.matmul %state, %w : (tensor<3xf64>, tensor<3x3xf64>) -> tensor<3xf64>
    %sum = nn.add %turned, %now : (tensor<3xf64>, tensor<3xf64>) -> tensor<3xf64>
    %new = nn.tanh %sum : (tensor<3xf64>) -> tensor<3xf64>
    %with = tensor.insert_slice %new into %so_far[%t, 0] [1, 3] [1, 1] : tensor<3xf64> into tensor<5x3xf64>
    scf.yield %with, %new : tensor<5x3xf64>, tensor<3xf64>
  }
  %y = nn.mul %all, %last : (tensor<5x3xf64>, tensor<3xf64>) -> tensor<5x3xf64>
  return %y : tensor<5x3xf64>
}"""


def inputs(text: str) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=a.type.shape) for a in functions(parse(text, "t.mir"))[0].args]  # type: ignore[attr-defined]


@pytest.mark.parametrize("bounds", [(0, 5, 1), (1, 5, 2), (3, 4, 1), (2, 2, 1)])
def test_loops_and_slices(bounds: tuple[int, int, int]) -> None:
    text = LOOP
    for name, number in zip(("FIRST", "END", "STEP"), bounds, strict=True):
        text = text.replace(name, str(number))
    gradient = check(text, inputs(text))
    stored = [op for op in gradient.walk() if op.name == "tensor.empty"]
    assert len(stored) == (bounds[0] < bounds[1]), "only the state is stored: the whole is not read"


def test_a_loop_in_a_loop_and_a_value_that_is_handed_on_unchanged() -> None:
    text = """
func.func @main(%x: tensor<3xf64>, %y: tensor<3xf64>) -> tensor<3xf64> {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c3 = arith.constant 3 : index
  %r, %kept = scf.for %i = %c0 to %c3 step %c1 iter_args(%a = %x, %b = %y) -> (tensor<3xf64>, tensor<3xf64>) {
    %s = scf.for %j = %c0 to %c3 step %c1 iter_args(%c = %a) -> (tensor<3xf64>) {
      %p = nn.mul %c, %b : (tensor<3xf64>, tensor<3xf64>) -> tensor<3xf64>
      %q = nn.sin %p : (tensor<3xf64>) -> tensor<3xf64>
      scf.yield %q : tensor<3xf64>
    }
    %t = nn.add %s, %x : (tensor<3xf64>, tensor<3xf64>) -> tensor<3xf64>
    scf.yield %t, %b : tensor<3xf64>, tensor<3xf64>
  }
  %z = nn.mul %r, %kept : (tensor<3xf64>, tensor<3xf64>) -> tensor<3xf64>
  return %z : tensor<3xf64>
}"""
    check(text, inputs(text))


def test_second_derivatives_of_a_loop() -> None:
    text = LOOP.replace("FIRST", "0").replace("END", "5").replace("STEP", "1")
    first = mdsl.grad(text, "w", seed="ones")
    (function,) = functions(first)
    end = function.body.terminator
    end.operands = end.operands[1:]
    function.update_type()
    check(str(first), inputs(text))
