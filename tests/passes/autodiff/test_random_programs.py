"""autodiff: random programs, against finite differences in f64 and, on every engine, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from differences import check
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import Programs

import mdsl
from mdsl.ir.types import Type, bf16, f16, f32
from mdsl.passes.base import functions
from mdsl.reference import run

SEED = st.integers(0, 10**9)
FEW = settings(max_examples=10, deadline=None, derandomize=True)
ENGINES = [{}, {"engine": "jit", "threads": 2}, {"ukernels": False}, {"target": "x86-64-v2"}]


@FEW
@given(SEED)
def test_first_derivatives(seed: int) -> None:
    made = Programs(seed)
    check(made.module, made.inputs)


@FEW
@given(SEED)
def test_second_derivatives(seed: int) -> None:
    made = Programs(seed, ops=4, bends=False)
    first = mdsl.grad(made.module, 0)
    (function,) = functions(first)
    attributes = function.result_attributes()[1:]
    end = function.body.terminator
    end.operands = end.operands[1:]
    function.update_type()
    function.set_result_attributes(attributes)
    check(first, made.inputs, 1e-5)


@pytest.mark.parametrize("number", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
@FEW
@given(SEED)
def test_engines_compute_what_the_reference_does(number: int, seed: int) -> None:
    made = Programs(seed, f32)
    compare(made, ENGINES[number], 2e-4)


@pytest.mark.parametrize("element", [bf16, f16], ids=str)
@settings(FEW, max_examples=6)
@given(SEED)
def test_16_bits(element: Type, seed: int) -> None:
    made = Programs(seed, element, ops=5, bends=False)
    compare(made, {}, 0.1)


def compare(made: Programs, settings: dict[str, object], tolerance: float) -> None:
    """Each gradient within the tolerance of the largest number in it."""
    gradient = mdsl.grad(made.module)
    wanted = run(gradient, made.inputs)
    found = mdsl.compile(gradient, **settings)(*made.inputs)  # type: ignore[arg-type]
    for got, other in zip(found, wanted, strict=True):
        got, other = np.asarray(got, np.float64), np.asarray(other, np.float64)
        np.testing.assert_allclose(
            got, other, rtol=0, atol=tolerance * max(1.0, float(np.abs(other).max(initial=0)))
        )


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_second_derivatives_of_a_product_with_zeros(zeros: int) -> None:
    text = """
func.func @main(%x: tensor<2x4xf64>) -> tensor<f64> {
  %p = nn.reduce %x {kind = "prod", axes = [1], keepdims = false} : (tensor<2x4xf64>) -> tensor<2xf64>
  %y = nn.reduce %p {kind = "sum", keepdims = false} : (tensor<2xf64>) -> tensor<f64>
  return %y : tensor<f64>
}"""
    x = np.array([[2.0, 3.0, -1.0, 0.5], [1.0, 2.0, 3.0, 4.0]])
    x[0, :zeros] = 0
    v = np.array([[1.0, -2.0, 0.5, 3.0], [0.25, 1.0, -1.0, 2.0]])
    second = mdsl.grad(mdsl.grad(text), 0, loss=1, seed="argument")
    (_, _, found) = run(second, [x, v])
    for row in range(2):
        for i in range(4):
            others = [j for j in range(4) if j != i]
            wanted = sum(v[row, j] * np.prod([x[row, k] for k in others if k != j]) for j in others)
            np.testing.assert_allclose(found[row, i], wanted)
