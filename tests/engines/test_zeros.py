"""The sign of a zero, NaN and infinity, of what takes a maximum or minimum: every engine gives what IEEE 754-2019 says."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mdsl
from mdsl.ir.types import bf16, dtype_of

SETTINGS = ({"engine": "reference"}, {}, {"engine": "jit"}, {"ukernels": False})
NUMBERS = (0.0, -0.0, 1.0, np.inf, -np.inf, np.nan)
EXTREMA = {
    "maximumf": (max, True), "minimumf": (min, True), "maxnumf": (max, False), "minnumf": (min, False)
}  # fmt: skip
DTYPES = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": dtype_of(bf16)}

settings = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def expected(op: str, a: float, b: float) -> float:
    choose, is_strict = EXTREMA[op]
    numbers = [x for x in (a, b) if not np.isnan(x)]
    if not numbers or (is_strict and len(numbers) < 2):
        return np.nan
    return choose(numbers, key=lambda x: (x, not np.signbit(x)))


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal numbers, zeros of equal sign, NaN where NaN is wanted."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    signs = np.signbit(found) == np.signbit(wanted)
    return bool(np.where(np.isnan(wanted), np.isnan(found), (found == wanted) & signs).all())


@settings
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", EXTREMA)
def test_two_vectors(op: str, dtype: str, setting: dict) -> None:
    pairs = np.array([(a, b) for a in NUMBERS for b in NUMBERS], DTYPES[dtype])
    type = f"tensor<{len(pairs)}x{dtype}>"
    program = f"func.func @main(%a: {type}, %b: {type}) -> {type} {{\n  %c = arith.{op} %a, %b : {type}\n  return %c : {type}\n}}"
    found = mdsl.compile(program, **setting)(*np.ascontiguousarray(pairs.T))
    assert same(found, np.array([expected(op, *pair) for pair in pairs.astype(np.float64)]))


@pytest.mark.parametrize("op", EXTREMA)
def test_folding(op: str) -> None:
    for a, b in ((0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0)):
        program = (
            f"func.func @main() -> f32 {{\n  %a = arith.constant {a} : f32\n  %b = arith.constant {b} : f32\n"
            f"  %c = arith.{op} %a, %b : f32\n  return %c : f32\n}}"
        )
        folded = str(mdsl.opt(program, "canonicalize"))
        assert re.findall("arith.constant (.*) :", folded) == [str(expected(op, a, b))]


REDUCTION = """
func.func @main(%x: tensor<{rows}x{n}xf32>, %start: tensor<{rows}xf32>) -> tensor<{rows}xf32> {{
  %y = linalg.generic {{indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i)>],
      iterator_types = ["parallel", "reduction"]}}
      ins(%x : tensor<{rows}x{n}xf32>) outs(%start : tensor<{rows}xf32>) {{
  ^bb0(%in: f32, %out: f32):
    %c = arith.{op} %out, %in : f32
    linalg.yield %c : f32
  }} -> tensor<{rows}xf32>
  return %y : tensor<{rows}xf32>
}}"""


@settings
@pytest.mark.parametrize("op", [*EXTREMA, "addf"])
def test_reductions_over_vectors_and_what_remains(op: str, setting: dict) -> None:
    """The accumulators of parts of a row start with what changes nothing, also not the sign of a zero."""
    random, rows, n = np.random.default_rng(0), 8, 37
    x = random.choice(np.array([-0.0, -0.0, 0.0] if op != "addf" else [-0.0], np.float32), (rows, n))
    x[1], x[2], x[3, 36], x[4, 0] = -np.inf, np.nan, np.nan, np.inf
    x[5] = -0.0
    start = np.where(np.arange(rows) % 2, -0.0, x[:, 0]).astype(np.float32)
    wanted = start.astype(np.float64)
    for column in x.T.astype(np.float64):
        wanted = np.array(
            [a + b if op == "addf" else expected(op, a, b) for a, b in zip(wanted, column, strict=True)]
        )
    found = mdsl.compile(REDUCTION.format(op=op, rows=rows, n=n), **setting)(x, start)
    assert same(found, wanted)


ONE_OPERAND = [
    ("relu", "", (6, 6, 6)), ("clip", "{min = 0.0, max = 1.0}", (6, 6, 6)), ("clip", "{min = -1.0, max = -0.0}", (6, 6, 6)),
    ("sign", "", (6, 6, 6)), ("reduce", '{kind = "max", axes = [1], keepdims = false}', (6, 6)),
    ("reduce", '{kind = "min", axes = [0, 2], keepdims = false}', (6,)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "attributes", "shape"), ONE_OPERAND)
def test_nn_ops(op: str, attributes: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).choice(np.array(NUMBERS, np.float32), (6, 6, 6))
    result = f"tensor<{'x'.join(map(str, shape))}xf32>"
    program = f"func.func @main(%x: tensor<6x6x6xf32>) -> {result} {{\n  %y = nn.{op} %x {attributes} : (tensor<6x6x6xf32>) -> {result}\n  return %y : {result}\n}}"
    wanted, *others = (mdsl.compile(program, **setting)(x) for setting in SETTINGS)
    for found in others:
        assert same(found, wanted)


def test_max_pools() -> None:
    x = np.random.default_rng(2).choice(
        np.array([-0.0, 0.0, -np.inf, np.nan], np.float32), (1, 20, 9, 9), p=[0.6, 0.2, 0.15, 0.05]
    )
    program = "func.func @main(%x: tensor<1x20x9x9xf32>) -> tensor<1x20x5x5xf32> {\n  %y = nn.max_pool2d %x {kernel = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]} : (tensor<1x20x9x9xf32>) -> tensor<1x20x5x5xf32>\n  return %y : tensor<1x20x5x5xf32>\n}"
    wanted, *others = (mdsl.compile(program, **setting)(x) for setting in SETTINGS)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), (2, 3))[:, :, ::2, ::2]
    has_positive = ((windows == 0) & ~np.signbit(windows)).any((4, 5))
    assert (np.signbit(wanted) == ~has_positive)[wanted == 0].all()
    for found in others:
        assert same(found, wanted)
