"""Gradients through scf.if: of the branch that is taken, and of nothing in the other."""

from __future__ import annotations

import numpy as np
import pytest
from differences import check

import mdsl

HEAD = """func.func @main(%x: tensor<3x4xf64>, %w: tensor<4xf64>, %t: tensor<i1>, %s: tensor<i1>) -> tensor<3x4xf64> {
  %c = tensor.extract %t[] : tensor<i1>
  %d = tensor.extract %s[] : tensor<i1>
"""
BODIES = {
    "each branch reads another value": """
  %y = scf.if %c -> (tensor<3x4xf64>) {
    %a = nn.mul %x, %w : (tensor<3x4xf64>, tensor<4xf64>) -> tensor<3x4xf64>
    %b = nn.exp %a : (tensor<3x4xf64>) -> tensor<3x4xf64>
    scf.yield %b : tensor<3x4xf64>
  } else {
    %a = nn.sin %x : (tensor<3x4xf64>) -> tensor<3x4xf64>
    scf.yield %a : tensor<3x4xf64>
  }""",
    "a value is handed on, twice": """
  %k, %l = scf.if %c -> (tensor<3x4xf64>, tensor<3x4xf64>) {
    scf.yield %x, %x : tensor<3x4xf64>, tensor<3x4xf64>
  } else {
    %a = nn.mul %x, %w : (tensor<3x4xf64>, tensor<4xf64>) -> tensor<3x4xf64>
    scf.yield %a, %x : tensor<3x4xf64>, tensor<3x4xf64>
  }
  %m = nn.mul %k, %l : (tensor<3x4xf64>, tensor<3x4xf64>) -> tensor<3x4xf64>
  %y = nn.add %m, %w : (tensor<3x4xf64>, tensor<4xf64>) -> tensor<3x4xf64>""",
    "one in the other": """
  %e = nn.exp %x : (tensor<3x4xf64>) -> tensor<3x4xf64>
  %y = scf.if %c -> (tensor<3x4xf64>) {
    %a = nn.mul %e, %w : (tensor<3x4xf64>, tensor<4xf64>) -> tensor<3x4xf64>
    %i = scf.if %d -> (tensor<3x4xf64>) {
      %b = nn.mul %a, %x : (tensor<3x4xf64>, tensor<3x4xf64>) -> tensor<3x4xf64>
      scf.yield %b : tensor<3x4xf64>
    } else {
      scf.yield %e : tensor<3x4xf64>
    }
    %b = nn.mul %i, %a : (tensor<3x4xf64>, tensor<3x4xf64>) -> tensor<3x4xf64>
    scf.yield %b : tensor<3x4xf64>
  } else {
    scf.yield %e : tensor<3x4xf64>
  }""",
}
TAIL = "\n  return %y : tensor<3x4xf64>\n}"


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
@pytest.mark.parametrize("taken", [(a, b) for a in (True, False) for b in (True, False)])
def test_against_differences_and_on_the_vm(body: str, taken: tuple[bool, bool]) -> None:
    random = np.random.default_rng(0)
    x, w = random.uniform(0.5, 2, (3, 4)), random.uniform(0.5, 2, 4)
    conditions = [np.array(t) for t in taken]
    gradient = check(HEAD + body + TAIL, [x, w, *conditions])
    inputs = [x, w, *conditions, random.standard_normal((3, 4))]
    wanted = mdsl.compile(gradient, engine="reference")(*inputs)
    for engine in ("vm", "jit"):
        for ours, theirs in zip(mdsl.compile(gradient, engine=engine)(*inputs), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_infinite_slopes_of_the_other_branch_do_not_matter() -> None:
    body = """
  %z = nn.sub %x, %x : (tensor<3x4xf64>, tensor<3x4xf64>) -> tensor<3x4xf64>
  %y = scf.if %c -> (tensor<3x4xf64>) {
    %a = nn.sqrt %z : (tensor<3x4xf64>) -> tensor<3x4xf64>
    scf.yield %a : tensor<3x4xf64>
  } else {
    scf.yield %x : tensor<3x4xf64>
  }"""
    gradient = mdsl.grad(HEAD + body + TAIL, "x", seed="ones")
    _, found = mdsl.compile(gradient)(np.ones((3, 4)), np.ones(4), np.array(False), np.array(False))
    np.testing.assert_array_equal(found, np.ones((3, 4)))


def test_losses_in_branches_and_second_derivatives() -> None:
    text = """func.func @main(%x: tensor<3x4xf64>, %t: tensor<i1>, %labels: tensor<3xi64>) -> tensor<f64> {
  %c = tensor.extract %t[] : tensor<i1>
  %y = scf.if %c -> (tensor<f64>) {
    %a = nn.cross_entropy %x, %labels : (tensor<3x4xf64>, tensor<3xi64>) -> tensor<f64>
    scf.yield %a : tensor<f64>
  } else {
    %a = nn.reduce %x {kind = "sum", keepdims = false} : (tensor<3x4xf64>) -> tensor<f64>
    scf.yield %a : tensor<f64>
  }
  return %y : tensor<f64>
}"""
    x, labels = np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 3, 1])
    check(text, [x, np.array(True), labels])
    first = mdsl.grad(text, "x")
    second = mdsl.compile(mdsl.grad(first, "x", loss=1, seed="argument"), engine="reference")
    v = np.random.default_rng(1).standard_normal((3, 4))
    slope = mdsl.compile(first, engine="reference")
    ends = [slope(x + s * 1e-5 * v, np.array(True), labels)[1] for s in (1, -1)]
    *_, product = second(x, np.array(True), labels, v)
    np.testing.assert_allclose(product, (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def test_a_loop_in_a_branch_and_a_branch_in_a_loop() -> None:
    text = """func.func @main(%x: tensor<4xf64>, %t: tensor<i1>) -> tensor<4xf64> {
  %c = tensor.extract %t[] : tensor<i1>
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %three = arith.constant 3 : index
  %y = scf.if %c -> (tensor<4xf64>) {
    %l = scf.for %i = %zero to %three step %one iter_args(%k = %x) -> (tensor<4xf64>) {
      %m = nn.mul %k, %x : (tensor<4xf64>, tensor<4xf64>) -> tensor<4xf64>
      scf.yield %m : tensor<4xf64>
    }
    scf.yield %l : tensor<4xf64>
  } else {
    %l = scf.for %i = %zero to %three step %one iter_args(%k = %x) -> (tensor<4xf64>) {
      %n = scf.if %c -> (tensor<4xf64>) {
        scf.yield %x : tensor<4xf64>
      } else {
        %m = nn.sin %k : (tensor<4xf64>) -> tensor<4xf64>
        scf.yield %m : tensor<4xf64>
      }
      scf.yield %n : tensor<4xf64>
    }
    scf.yield %l : tensor<4xf64>
  }
  return %y : tensor<4xf64>
}"""
    x = np.random.default_rng(0).uniform(0.5, 2, 4)
    for taken in (True, False):
        check(text, [x, np.array(taken)])
