"""math and math_ext: against Python's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluating import array, body, elementwise

nan, inf = float("nan"), float("inf")

VALUES = [0.1, 0.5, 1.0, 2.5, 7.25]
FUNCTIONS = {
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "expm1": math.expm1,
    "log": math.log,
    "log2": math.log2,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "tanh": math.tanh,
    "erf": math.erf,
    "erfc": math.erfc,
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "sin": math.sin,
    "cos": math.cos,
    "atan": math.atan,
    "absf": abs,
    "floor": math.floor,
    "ceil": math.ceil,
}


@pytest.mark.parametrize("element", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unary(name: str, element: str) -> None:
    exact = [FUNCTIONS[name](float(x)) for x in array(VALUES, element)]
    dialect = "math_ext" if name == "gelu" else "math"
    found = np.array(elementwise(f"{dialect}.{name}", element, VALUES), float)
    tolerance = {"f32": 1e-6, "f64": 1e-14, "f16": 2e-3, "bf16": 2e-2}[element]
    smallest = {"f16": 2.0**-24}.get(element, 0)
    np.testing.assert_allclose(found, exact, rtol=tolerance, atol=smallest)


@pytest.mark.parametrize(
    ("op", "values", "wanted"),
    [
        ("round", [0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997], [1.0, -1.0, 2.0, 3.0, -3.0, 0.0]),
        ("roundeven", [0.5, -0.5, 1.5, 2.5, -2.5], [0.0, 0.0, 2.0, 2.0, -2.0]),
        ("floor", [-0.5, -1.0, inf], [-1.0, -1.0, inf]),
        ("log", [0.0, -1.0], [-inf, nan]),
        ("sqrt", [-1.0, inf], [nan, inf]),
        ("erf", [inf, -inf, 0.0], [1.0, -1.0, 0.0]),
        ("expm1", [1e-8], [np.float32(1e-8)]),
    ],
)
def test_edges(op: str, values: list[float], wanted: list[float]) -> None:
    np.testing.assert_array_equal(elementwise(f"math.{op}", "f32", values), wanted)


def test_absi_wraps() -> None:
    assert elementwise("math.absi", "i8", [-3, 3, -128]) == [3, 3, -128]
    assert elementwise("math.absi", "i1", [True, False]) == [True, False]


def test_two_operands() -> None:
    assert elementwise("math.powf", "f32", [2.0, 9.0, 0.0], [10.0, 0.5, 0.0]) == [1024.0, 3.0, 1.0]
    assert elementwise("math.copysign", "f32", [2.0, -3.0], [-0.0, 1.0]) == [-2.0, 3.0]


def test_fma_rounds_once() -> None:
    x = np.float32(1 + 2**-12)
    found = body("%r = math.fma %a, %a, %b : f32", [x, np.float32(-1.0)], ["f32", "f32"], "f32")
    assert float(found) == 2**-11 + 2**-24  # x*x rounded to f32 would have lost 2**-24
