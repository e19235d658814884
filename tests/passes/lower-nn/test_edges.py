"""lower-nn: numbers at the edges, tensors without elements, order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowering import check, identity, lowered, program

import mdsl
from mdsl.dialects.arith import Constant
from mdsl.dialects.linalg import LinalgOp
from mdsl.ir.types import SCALARS, dtype_of
from mdsl.reference import run
from mdsl.rewriting.constants import constant_data
from mdsl.syntax.parser import parse


def outcome(text: str, *inputs: np.ndarray) -> np.ndarray:
    """The result of the lowered program, which must be exactly the reference's."""
    (wanted,) = run(parse(text, "test.mir"), list(inputs))
    (found,) = run(lowered(text), list(inputs))
    np.testing.assert_array_equal(found, wanted)
    return found


def test_argmax_takes_the_first_maximum_and_nan() -> None:
    rows = np.array(
        [[1, 5, 5, 2], [np.nan, 9, np.nan, 0], [-np.inf] * 4, [0, np.nan, np.inf, np.nan]], np.float32
    )
    assert outcome(program("nn.argmax", "4x4xf32", "4x1xi64"), rows).ravel().tolist() == [1, 0, 0, 1]


def test_a_pooling_and_its_places_are_found_at_once() -> None:
    """As a network and its gradient want them; a pooling with other windows stands alone."""
    same = "{kernel = [2, 2], strides = [2, 2]}"
    types = "(tensor<1x2x4x6xf32>) -> tensor<1x2x2x3x"
    text = f"""
func.func @main(%x: tensor<1x2x4x6xf32>) -> (tensor<1x2x2x3xf32>, tensor<1x2x2x3xi32>, tensor<1x2x3x5xi32>) {{
  %y = nn.max_pool2d %x {same} : {types}f32>
  %p = nn.argmax_pool2d %x {same} : {types}i32>
  %q = nn.argmax_pool2d %x {{kernel = [2, 2], strides = [1, 1]}} : (tensor<1x2x4x6xf32>) -> tensor<1x2x3x5xi32>
  return %y, %p, %q : tensor<1x2x2x3xf32>, tensor<1x2x2x3xi32>, tensor<1x2x3x5xi32>
}}
"""
    swapped = text.split("\n")
    swapped[2], swapped[3] = swapped[3], swapped[2]
    x = np.random.default_rng(0).integers(-2, 3, (1, 2, 4, 6)).astype(np.float32)
    x[0, 0, 0, 0], x[0, 1, 2, 3], x[0, 1, 3, 3] = np.nan, np.inf, np.inf
    for program_text in (text, "\n".join(swapped)):
        wanted = run(parse(program_text, "test.mir"), [x])
        module = lowered(program_text)
        assert sum(isinstance(op, LinalgOp) and bool(op.reduction_dims) for op in module.walk()) == 2
        for results in (run(module, [x]), mdsl.compile(program_text)(x)):
            for found, exact in zip(results, wanted, strict=True):
                np.testing.assert_array_equal(found, exact)


def test_gather_wraps_and_clamps() -> None:
    x, indices = np.arange(4, dtype=np.float32), np.array([0, 3, -1, -4, -5, -100, 4, 100], np.int64)
    found = outcome(program("nn.gather", "4xf32 8xi64", "8xf32"), x, indices)
    assert found.tolist() == [0, 3, 3, 0, 0, 0, 3, 3]


def test_cast_saturates() -> None:
    x = np.array([1e10, -1e10, np.nan, np.inf, -np.inf, 1.9, -1.9], np.float32)
    found = outcome(program("nn.cast", "7xf32", "7xi8"), x)
    assert found.tolist() == [127, -128, 0, 127, -128, 1, -1]
    found = outcome(program("nn.cast", "7xf32", "7xi64"), x)
    assert found.tolist() == [10**10, -(10**10), 0, 2**63 - 1, -(2**63), 1, -1]


def test_integer_division_rounds_towards_zero() -> None:
    a, b = np.array([7, -7, 7, -7, 5], np.int32), np.array([2, 2, -2, -2, 0], np.int32)
    assert outcome(program("nn.div", "5xi32 5xi32", "5xi32"), a, b).tolist() == [3, -3, -3, 3, 0]


@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_nan_wins(op: str) -> None:
    a, b = np.array([1, np.nan, 2], np.float32), np.array([np.nan, 1, 3], np.float32)
    assert np.isnan(outcome(program(f"nn.{op}", "3xf32 3xf32", "3xf32"), a, b)).tolist() == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("element", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("op", ["linear", "matmul"])
def test_weights_have_no_subnormals(op: str, element: str) -> None:
    """But those of f16, which are multiplied as f32 and are normal there."""
    weight = np.array([[1.5, 1e-40], [-1e-38, 2e-38], [-3, 0]], dtype_of(SCALARS[element]))
    if element == "f64":
        weight = np.array([[1.5, 1.5e-310], [-2.1e-308, 3.5e-308], [-3, 0]])
    if element == "f16":
        weight = np.array([[1.5, 6e-6], [-6e-8, 7e-5], [-3, 0]], np.float16)
    n = 2 if op == "linear" else 3  # a linear layer's weight has a row for each output
    text = f"""func.func @main(%x: tensor<1x{n}x{element}>) -> tensor<1x{5 - n}x{element}> {{
      %w = arith.constant dense<{weight.tolist()}> : tensor<3x2x{element}>
      %y = nn.{op} %x, %w : (tensor<1x{n}x{element}>, tensor<3x2x{element}>) -> tensor<1x{5 - n}x{element}>
      func.return %y : tensor<1x{5 - n}x{element}>
    }}"""
    constants = (constant_data(op.result) for op in lowered(text).walk() if isinstance(op, Constant))
    (kept,) = (data for data in constants if np.size(data) == 6)
    wanted = weight.copy()
    if element != "f16":
        wanted[0, 1] = wanted[1, 0] = 0
    np.testing.assert_array_equal(kept, wanted)


def test_a_weight_of_several_products_stays_one() -> None:
    """And a bias, which nothing is multiplied by, stays as it is."""
    text = """func.func @main(%x: tensor<1x3xf32>) -> tensor<1x3xf32> {
      %w = arith.constant dense<[[1.5, 1.0e-40, 0.0], [-1.0e-38, 2.0e-38, 1.0], [-3.0, 0.0, 2.0]]> : tensor<3x3xf32>
      %b = arith.constant dense<[1.0e-40, -1.0e-40, 0.0]> : tensor<3xf32>
      %h = nn.matmul %x, %w : (tensor<1x3xf32>, tensor<3x3xf32>) -> tensor<1x3xf32>
      %y = nn.linear %h, %w, %b : (tensor<1x3xf32>, tensor<3x3xf32>, tensor<3xf32>) -> tensor<1x3xf32>
      func.return %y : tensor<1x3xf32>
    }"""
    module = lowered(text)
    constants = [op.result for op in module.walk() if isinstance(op, Constant)]
    assert sum(np.size(constant_data(value)) == 9 for value in constants) == 1
    (found,) = run(module, [np.zeros((1, 3), np.float32)])
    np.testing.assert_array_equal(found, np.array([[1e-40, -1e-40, 0]], np.float32))


def test_sixteen_bit_sums_do_not_stagnate() -> None:
    ones = np.ones((1, 5000), np.float16)  # added up in f16, the sum would stop at 2048
    found = outcome(program("nn.reduce", "1x5000xf16", "1x1xf16", '{kind = "sum", axes = [1]}'), ones)
    assert found.item() == 5000
    (product,) = run(lowered(program("nn.matmul", "1x5000xf16 5000x1xf16", "1x1xf16")), [ones, ones.T])
    assert product.item() == 5000


def test_long_sums_keep_their_digits_on_every_engine() -> None:
    """Those of a batch's statistics: one number added after the other, 25,088 of them would lose three more digits."""
    x = np.random.default_rng(0).uniform(0.9, 1.1, (32, 3, 28, 28)).astype(np.float32)
    text = program("nn.reduce", "32x3x28x28xf32", "1x3x1x1xf32", '{kind = "mean", axes = [0, 2, 3]}')
    wanted = x.astype(np.float64).mean((0, 2, 3), keepdims=True)
    for how in ({}, {"ukernels": False}, {"engine": "jit", "threads": 2}):
        np.testing.assert_allclose(mdsl.compile(text, **how)(x), wanted, rtol=2e-6, err_msg=str(how))


def test_softmax_does_not_overflow() -> None:
    x = np.array([[1000, 1001, 999]], np.float32)
    (found,) = run(lowered(program("nn.softmax", "1x3xf32", "1x3xf32")), [x])
    assert np.isfinite(found).all() and abs(found.sum() - 1) < 1e-6


EMPTY = [
    ("nn.relu", "0x3xf32", "0x3xf32", ""),
    ("nn.slice", "4x3xf32", "0x3xf32", "{starts = [2], ends = [1]}"),
    ("nn.transpose", "2x0x3xi8", "3x0x2xi8", ""),
    ("nn.concat", "2x0xf32 2x3xf32 2x0xf32", "2x3xf32", "{axis = 1}"),
    ("nn.concat", "0xf32 0xf32", "0xf32", "{axis = 0}"),
    ("nn.pad", "0x2xf32", "3x2xf32", "{pads = [1, 0, 2, 0], value = 2.5}"),
    ("nn.matmul", "2x0xf32 0x3xf32", "2x3xf32", ""),
    ("nn.linear", "2x0xf32 3x0xf32 3xf32", "2x3xf32", ""),
    ("nn.scatter", "4xf32 0xi64 0xf32", "4xf32", ""),
    ("nn.gather", "4xf32 0xi64", "0xf32", ""),
    ("nn.reduce", "2x0xf32", "2x1xf32", '{kind = "sum", axes = [1]}'),
    ("nn.reduce", "2x0xf32", "2xf32", '{kind = "prod", axes = [1], keepdims = false}'),
    ("nn.reduce", "0x2xf32", "2xf32", '{kind = "mean", axes = [0], keepdims = false}'),
]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("case", EMPTY, ids=identity)
def test_tensors_without_elements(case: tuple[str, str, str, str]) -> None:
    check(program(*case))


def test_extremes_of_nothing() -> None:
    """NumPy has none: the lowered program says what leaves every other number as it is."""
    for kind, wanted in (("max", -np.inf), ("min", np.inf)):
        module = lowered(
            program("nn.reduce", "0x2xf32", "2xf32", f'{{kind = "{kind}", axes = [0], keepdims = false}}')
        )
        assert run(module, [np.zeros((0, 2), np.float32)])[0].tolist() == [wanted] * 2


def test_scatter_ignores_what_is_outside_and_keeps_order() -> None:
    x, places = np.zeros(4, np.float32), np.array([1, 1, -1, 7, -9, 1], np.int64)
    text = program("nn.scatter", "4xf32 6xi64 6xf32", "4xf32")
    assert outcome(text, x, places, np.arange(1, 7, dtype=np.float32)).tolist() == [0, 6, 0, 3]
    many, far = np.zeros(100, np.float32), np.array([1, 1, -1, 100, -101, 1], np.int64)
    for indices, updates in (("6xi64", "6xf32"), ("6x1xi64", "6x2xf32"), ("6x2xi64", "6x2xf32")):
        shape = "100xf32" if updates == "6xf32" else "100x2xf32"
        text = program("nn.scatter", f"{shape} {indices} {updates}", shape)
        wide = updates.endswith("x2xf32")
        x = np.stack([many, many], 1) if wide else many
        places = (
            np.broadcast_to(far[:, None], (6, int(indices[2])))
            if "x1x" in indices or "x2x" in indices
            else far
        )
        rows = np.arange(1, 7, dtype=np.float32)
        found = outcome(text, x, np.array(places), np.stack([rows, rows], 1) if wide else rows)
        wanted = np.where(np.arange(100) == 1, 6, np.where(np.arange(100) == 99, 3, 0))
        np.testing.assert_array_equal(found.T, np.stack([wanted, wanted]) if wide else wanted)


@pytest.mark.parametrize(
    "settings",
    [{}, {"threads": 2}, {"unroll_dispatch": 4}, {"ukernels": False}, {"engine": "jit"}],
    ids=["vm", "threads", "unrolled", "loops", "jit"],
)
@pytest.mark.parametrize(("count", "descending"), [(9, True), (9, False), (700, True), (1300, False)])
def test_long_rows_are_sorted_as_short_ones(settings: dict[str, Any], count: int, descending: bool) -> None:
    """Ties within parts and runs and across them, NaN and infinities among them, which what fills up the last run is equal to."""
    random = np.random.default_rng(count)
    x = (random.integers(-40, 40, (2, 1300)) / 4).astype(np.float32)
    for special in (np.nan, np.inf, -np.inf, -0.0):
        x[random.random(x.shape) < 0.05] = special
    x[1] = np.nan if descending else -np.inf
    attributes = f"{{count = {count}, descending = {str(descending).lower()}}}"
    text = program("nn.argsort", "2x1300xf32", f"2x{count}xi64", attributes)
    (wanted,) = run(parse(text), [x])
    np.testing.assert_array_equal(mdsl.compile(text, **settings)(x), wanted)


def test_argsort_is_stable_and_has_nan_last() -> None:
    x = np.array([2, np.nan, 1, 2, -np.inf, 1, np.nan], np.float32)
    assert outcome(program("nn.argsort", "7xf32", "7xi64"), x).tolist() == [4, 2, 5, 0, 3, 1, 6]
    text = program("nn.argsort", "7xf32", "7xi64", "{descending = true}")
    assert outcome(text, x).tolist() == [1, 6, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("descending", [False, True])
def test_the_first_few_of_many(descending: bool) -> None:
    """Found part by part, with ties between parts, and in the rest of the last one what stands at either end."""
    x = np.random.default_rng(3).integers(0, 9, (2, 1000)).astype(np.float32)
    x[0, 990:] = np.nan
    x[1, ::7] = -np.inf
    text = program(
        "nn.argsort", "2x1000xf32", "2x20xi64", f"{{count = 20, descending = {str(descending).lower()}}}"
    )
    key = np.where(np.isnan(x), np.inf, x) * (-1 if descending else 1)
    np.testing.assert_array_equal(outcome(text, x), np.argsort(key, 1, kind="stable")[:, :20])
    x[...] = np.nan if not descending else -np.inf
    np.testing.assert_array_equal(outcome(text, x), [range(20)] * 2)


def test_signs_of_remainders() -> None:
    a, b = np.array([7, -7, 7, -7, 5, -6], np.int32), np.array([3, 3, -3, -3, 0, 3], np.int32)
    text = program("nn.mod", "6xi32 6xi32", "6xi32")
    assert outcome(text, a, b).tolist() == [1, 2, -2, -1, 0, 0]
    text = program("nn.mod", "6xi32 6xi32", "6xi32", "{fmod = true}")
    assert outcome(text, a, b).tolist() == [1, -1, 1, -1, 0, 0]


@pytest.mark.parametrize("name", ["sinh", "cosh", "asinh", "acosh", "atanh", "asin", "acos", "tan"])
def test_functions_keep_their_precision(name: str) -> None:
    """Near zero, near the ends of their domain, and where the obvious formula overflows."""
    x = np.array([1e-30, -1e-6, 3e-3, 0.5, 0.9999999, 1, 1.0000001, 2, -5, 30, 89, 1e10, 3e38], np.float32)
    known = {
        "asinh": np.arcsinh,
        "acosh": np.arccosh,
        "atanh": np.arctanh,
        "asin": np.arcsin,
        "acos": np.arccos,
    }
    with np.errstate(all="ignore"):
        wanted = known.get(name, getattr(np, name, None))(x.astype(np.float64)).astype(np.float32)
        (found,) = run(lowered(program(f"nn.{name}", "13xf32", "13xf32")), [x])
    np.testing.assert_allclose(found, wanted, rtol=2e-6)


@pytest.mark.parametrize("element, dtype", [("f32", np.float32), ("f64", np.float64), ("f16", np.float16)])
def test_acosh_is_nan_below_its_domain(element: str, dtype: type) -> None:
    largest = np.finfo(dtype).max
    x = np.array([-largest, -6e4, -300, -1, 0, 0.5, 1, largest], dtype)
    (found,) = run(lowered(program("nn.acosh", f"8x{element}", f"8x{element}")), [x])
    with np.errstate(invalid="ignore"):
        wanted = np.arccosh(x.astype(np.float64)).astype(dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
