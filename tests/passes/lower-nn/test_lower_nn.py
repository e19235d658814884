"""lower-nn: the lowered program verifies, computes what the graph computes, and upstream accepts it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl
from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.nn.training import Composite
from mdsl.ir.core import VerifyError
from mdsl.ir.registry import operations
from mdsl.ir.types import dtype_of, i1, is_float
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.passes.nn.lower_nn.build import RULES
from mdsl.reference import run
from mdsl.rewriting.constants import constant_data
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target
from tests.upstream import needs_upstream, read_by_upstream

TOLERANCE = {"f64": 1e-12, "f32": 3e-6, "f16": 2e-3, "bf16": 1.6e-2}


def program(op: str, inputs: str, result: str, attributes: str = "", name: str = "main") -> str:
    """A function with one nn op; `inputs` are element-type shapes (`2x3xf32`) separated by spaces."""
    types = [f"tensor<{t}>" for t in inputs.split()]
    args = [f"%a{i}" for i in range(len(types))]
    signature = ", ".join(f"{a}: {t}" for a, t in zip(args, types, strict=True))
    body = f"%y = {op} {', '.join(args)} {attributes} : ({', '.join(types)}) -> tensor<{result}>"
    return f"func.func @{name}({signature}) -> tensor<{result}> {{\n  {body}\n  func.return %y : tensor<{result}>\n}}\n"


def arrays(module: ModuleOp, seed: int = 0, low: float = -3, high: float = 3) -> list[np.ndarray]:
    """Random inputs for `@main`."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for arg in module.body.ops[0].body.args:
        type = arg.type
        dtype = dtype_of(type.element)  # type: ignore[attr-defined]
        shape = type.shape  # type: ignore[attr-defined]
        if type.element == i1:  # type: ignore[attr-defined]
            found.append(random.random(shape) < 0.5)
        elif is_float(type):
            found.append(np.asarray(random.uniform(low, high, shape)).astype(dtype))
        else:
            found.append(random.integers(-4, 5, shape).astype(dtype))
    return found


def lowered(text: str) -> ModuleOp:
    module = parse(text, "test.mir")
    verify(module)
    LowerNn().run(module, Context(Target.host()))
    verify(module)
    assert not [op for op in module.walk() if op.name.startswith("nn.")]
    return module


def assert_close(found: np.ndarray, wanted: np.ndarray, element: str, factor: float = 1) -> None:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    if element not in TOLERANCE:
        np.testing.assert_array_equal(found, wanted)
        return
    wide, tolerance = wanted.astype(np.float64), TOLERANCE[element] * factor
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


def check(text: str, low: float = -3, high: float = 3, seed: int = 0) -> ModuleOp:
    """The lowered program computes what the graph computes."""
    graph = parse(text, "test.mir")
    inputs = arrays(graph, seed, low, high)
    (wanted,) = run(graph, inputs)
    module = lowered(text)
    (found,) = run(module, inputs)
    element = str(graph.body.ops[0].body.ops[0].result.type.element)  # type: ignore[attr-defined]
    assert_close(found, wanted, element)
    again = parse(print_module(module, data=True), "again.mir")
    assert print_module(again) == print_module(module)
    return module


FLOATS = ("f32", "f64", "f16", "bf16")
UNARY = ("relu", "leaky_relu", "clip", "sigmoid", "tanh", "gelu", "erf", "exp", "sqrt", "log", "neg", "abs")

FUNCTIONS = (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "expm1", "log1p",
    "floor", "ceil", "round",
)  # fmt: skip

CASES: list[tuple[str, str, str, str]] = [
    # convolution: layouts, groups, depthwise, windows, bias
    ("nn.conv2d", "2x3x7x6xf32 4x3x3x2xf32", "2x4x5x5xf32", ""),
    ("nn.conv2d", "1x3x8x8xf32 4x3x3x3xf32 4xf32", "1x4x4x8xf32", "{strides = [2, 1], pads = [1, 1, 1, 1]}"),
    ("nn.conv2d", "1x2x9x9xf32 2x2x3x3xf32", "1x2x6x5xf32", "{dilations = [2, 2], pads = [1, 0, 0, 0]}"),
    ("nn.conv2d", "1x5x5x4xf32 6x4x3x3xf32 6xf32", '1x3x3x6xf32', '{layout = "nhwc"}'),
    ("nn.conv2d", "1x6x5x5xf32 4x3x3x3xf32 4xf32", "1x4x3x3xf32", "{groups = 2}"),
    ("nn.conv2d", "1x5x5x6xf32 4x3x3x3xf32 4xf32", "1x3x3x4xf32", '{groups = 2, layout = "nhwc"}'),
    ("nn.conv2d", "1x6x5x5xf32 6x1x3x3xf32 6xf32", "1x6x3x3xf32", "{groups = 6}"),
    ("nn.conv2d", "1x6x5x5xf32 12x1x3x3xf32", "1x12x3x3xf32", "{groups = 6}"),
    ("nn.conv2d", "1x5x5x6xf32 6x1x3x3xf32", "1x3x3x6xf32", '{groups = 6, layout = "nhwc"}'),
    ("nn.conv2d", "1x3x4x4xf16 4x3x3x3xf16 4xf16", "1x4x2x2xf16", ""),
    ("nn.conv2d", "1x3x4x4xi32 4x3x3x3xi32", "1x4x4x4xi32", "{pads = [1, 1, 1, 1]}"),
    # matrix products
    ("nn.matmul", "5x7xf32 7x3xf32", "5x3xf32", ""),
    ("nn.matmul", "2x5x7xf32 2x7x3xf32", "2x5x3xf32", ""),
    ("nn.matmul", "2x5x7xf32 7x3xf32", "2x5x3xf32", ""),
    ("nn.matmul", "1x5x7xf32 2x7x3xf32", "2x5x3xf32", ""),
    ("nn.matmul", "4x1x5x7xf32 3x7x2xf32", "4x3x5x2xf32", ""),
    ("nn.matmul", "7xf32 7x3xf32", "3xf32", ""),
    ("nn.matmul", "2x5x7xf32 7xf32", "2x5xf32", ""),
    ("nn.matmul", "7xf32 7xf32", "f32", ""),
    ("nn.matmul", "5x7xbf16 7x3xbf16", "5x3xbf16", ""),
    ("nn.matmul", "5x7xi8 7x3xi8", "5x3xi8", ""),
    ("nn.linear", "5x7xf32 3x7xf32 3xf32", "5x3xf32", ""),
    ("nn.linear", "2x5x7xf32 3x7xf32", "2x5x3xf32", ""),
    ("nn.linear", "7xf16 3x7xf16 3xf16", "3xf16", ""),
    # normalisation
    ("nn.batch_norm", "2x3x4x5xf16 3xf16 3xf16 3xf16 3xf16", "2x3x4x5xf16", "{epsilon = 4.0}"),
    ("nn.batch_norm", "2x4x3xf32 3xf32 3xf32 3xf32 3xf32", "2x4x3xf32", '{epsilon = 4.0, layout = "nhwc"}'),
    ("nn.layer_norm", "4x9xf32 9xf32 9xf32", "4x9xf32", ""),
    ("nn.layer_norm", "2x3x4xf32 3x4xf32", "2x3x4xf32", "{axis = 1, epsilon = 0.1}"),
    ("nn.layer_norm", "4x9xbf16 9xbf16 9xbf16", "4x9xbf16", ""),
    ("nn.softmax", "3x17xf32", "3x17xf32", "{axis = 1}"),
    ("nn.softmax", "2x3x4xf64", "2x3x4xf64", "{axis = 0}"),
    ("nn.softmax", "3x17xf16", "3x17xf16", ""),
    ("nn.log_softmax", "3x17xf32", "3x17xf32", ""),
    ("nn.log_softmax", "3x4x5xbf16", "3x4x5xbf16", "{axis = -2}"),
    # random numbers
    ("nn.random_uniform", "2xi32", "5x3xf32", "{stream = 2}"),
    ("nn.random_uniform", "2xi32", "f32", ""),
    ("nn.random_uniform", "3xi32", "5x3xf32", "{stream = 2}"),
    # pooling
    ("nn.max_pool2d", "1x2x6x6xf32", "1x2x3x3xf32", "{kernel = [2, 2], strides = [2, 2]}"),
    ("nn.max_pool2d", "1x2x6x7xf32", "1x2x4x4xf32", "{kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = true}"),
    ("nn.max_pool2d", "1x6x7x2xf32", "1x4x3x2xf32", '{kernel = [2, 3], dilations = [2, 2], layout = "nhwc"}'),
    ("nn.max_pool2d", "1x2x6x6xi8", "1x2x5x5xi8", "{kernel = [2, 2]}"),
    ("nn.argmax_pool2d", "1x2x6x6xf32", "1x2x3x3xi32", "{kernel = [2, 2], strides = [2, 2]}"),
    ("nn.argmax_pool2d", "1x2x6x7xf16", "1x2x4x4xi32", "{kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = true}"),
    ("nn.argmax_pool2d", "1x6x7x2xi8", "1x4x3x2xi32", '{kernel = [2, 3], dilations = [2, 2], layout = "nhwc"}'),
    ("nn.max_pool2d_grad", "1x2x3x3xi32 1x2x3x3xf32", "1x2x6x6xf32", "{kernel = [2, 2], strides = [2, 2]}"),
    ("nn.max_pool2d_grad", "1x2x4x4xi64 1x2x4x4xf32", "1x2x6x7xf32", "{kernel = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], ceil_mode = true}"),
    ("nn.max_pool2d_grad", "1x4x3x2xi8 1x4x3x2xf16", "1x6x7x2xf16", '{kernel = [2, 3], dilations = [2, 2], layout = "nhwc"}'),
    ("nn.avg_pool2d", "1x2x6x6xf32", "1x2x3x3xf32", "{kernel = [2, 2], strides = [2, 2]}"),
    ("nn.avg_pool2d", "1x2x6x6xf32", "1x2x6x6xf32", "{kernel = [3, 3], pads = [1, 1, 1, 1]}"),
    ("nn.avg_pool2d", "1x2x6x6xf32", "1x2x6x6xf32", "{kernel = [3, 3], pads = [1, 1, 1, 1], count_include_pad = true}"),
    ("nn.avg_pool2d", "1x6x6x2xf16", "1x4x4x2xf16", '{kernel = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0], ceil_mode = true, layout = "nhwc"}'),
    ("nn.global_avg_pool", "2x3x4x5xf32", "2x3x1x1xf32", ""),
    ("nn.global_avg_pool", "2x4x5x3xf16", "2x1x1x3xf16", '{layout = "nhwc"}'),
    # reductions
    *[("nn.reduce", "2x3x4xf32", "2x1x4xf32", f'{{kind = "{k}", axes = [1]}}') for k in ("sum", "mean", "max", "min")],
    ("nn.reduce", "2x3x4xf32", "3xf32", '{kind = "mean", axes = [-1, 0], keepdims = false}'),
    ("nn.reduce", "2x3x4xf32", "f32", '{kind = "sum", keepdims = false}'),
    ("nn.reduce", "2x3x4xf32", "1x1x1xf32", '{kind = "max"}'),
    ("nn.reduce", "2x3x4xf16", "2x1x4xf16", '{kind = "sum", axes = [1]}'),
    ("nn.reduce", "2x3x4xi8", "2x4xi8", '{kind = "max", axes = [1], keepdims = false}'),
    ("nn.reduce", "2x3x4xi64", "2x3xi64", '{kind = "sum", axes = [2], keepdims = false}'),
    ("nn.reduce", "2x3xf32", "2x3xf32", '{kind = "sum", axes = []}'),
    *[("nn.reduce", f"2x3x4x{e}", f"2x1x4x{e}", '{kind = "prod", axes = [1]}') for e in ("f32", "f16", "i8")],
    ("nn.argmax", "2x3x4xf32", "2x3x1xi64", ""),
    ("nn.argmax", "2x3x4xi32", "2x4xi64", "{axis = 1, keepdims = false}"),
    ("nn.argmax", "5xf16", "i64", "{keepdims = false}"),
    # order and places
    ("nn.argsort", "3x17xf32", "3x17xi64", ""),
    ("nn.argsort", "17x2xf16", "5x2xi64", "{axis = 0, descending = true, count = 5}"),
    ("nn.argsort", "2x30x2xi8", "2x30x2xi64", "{axis = 1}"),
    ("nn.argsort", "2x30xi8", "2x7xi64", "{descending = true, count = 7}"),
    ("nn.argsort", "2x300xi8", "2x3xi64", "{descending = true, count = 3}"),
    ("nn.argsort", "700x2xf32", "2x2xi64", "{axis = 0, count = 2}"),
    ("nn.argsort", "300xf32", "0xi64", "{count = 0}"),
    *[("nn.scatter", f"2x5x3x{e} 2x9x3xi64 2x9x3x{e}", f"2x5x3x{e}", f'{{axis = 1, kind = "{k}"}}') for e in ("f32", "i8") for k in ("set", "add", "mul", "max", "min")],
    ("nn.scatter", "5x3xf32 4x1xi32 4x3xf32", "5x3xf32", ""),
    ("nn.scatter", "5x3xi1 4xindex 5x4xi1", "5x3xi1", "{axis = -1}"),
    # more places than are compared with each update
    *[("nn.scatter", f"2x70x3x{e} 9x1xi64 2x9x3x{e}", f"2x70x3x{e}", f'{{axis = 1, kind = "{k}"}}') for e in ("f32", "i8") for k in ("set", "add", "mul", "max", "min")],
    *[("nn.scatter", f"2x70x{e} 2x9xi64 2x9x{e}", f"2x70x{e}", f'{{axis = 1, kind = "{k}"}}') for e in ("f16", "i32") for k in ("set", "add", "max")],
    ("nn.scatter", "70x3xi1 4x3xi32 4x3xi1", "70x3xi1", ""),
    ("nn.scatter", "70xf64 9xi32 9xf64", "70xf64", '{kind = "add"}'),
    # shapes
    ("nn.reshape", "2x3x4xf32", "6x4xf32", ""),
    ("nn.reshape", "2x3x4xf32", "2x3x2x2xf32", ""),
    ("nn.reshape", "2x3x4xf32", "4x6xf32", ""),
    ("nn.reshape", "2x6x1xf32", "1x4x1x3xf32", ""),
    ("nn.reshape", "1x1xf32", "f32", ""),
    ("nn.reshape", "f32", "1x1xf32", ""),
    ("nn.reshape", "2x3xf32", "2x3xf32", ""),
    ("nn.flatten", "2x3x4xf32", "2x12xf32", "{axis = 1}"),
    ("nn.flatten", "2x3x4xf32", "1x24xf32", "{axis = 0}"),
    ("nn.flatten", "2x3x4xf32", "24x1xf32", "{axis = 3}"),
    ("nn.transpose", "2x3x4xf32", "4x3x2xf32", ""),
    ("nn.transpose", "2x3x4xi8", "3x4x2xi8", "{perm = [1, 2, 0]}"),
    ("nn.transpose", "2x3xf32", "2x3xf32", "{perm = [0, 1]}"),
    ("nn.concat", "2x3xf32 2x4xf32 2x1xf32", "2x8xf32", "{axis = -1}"),
    ("nn.concat", "2x3xi1", "2x3xi1", "{axis = 0}"),
    ("nn.slice", "5x6xf32", "2x3xf32", "{starts = [1, 0], ends = [3, 6], steps = [1, 2]}"),
    ("nn.slice", "5x6xf32", "5x2xf32", "{starts = [-3], ends = [-1], axes = [1]}"),
    ("nn.slice", "5x6xf32", "3x6xf32", "{starts = [-1], ends = [-100], axes = [0], steps = [-2]}"),
    ("nn.slice", "5x6xf32", "5x6xf32", "{starts = [0], ends = [100]}"),
    ("nn.slice", "5x6xf32", "1x6xf32", "{starts = [2], ends = [1], steps = [-1]}"),
    ("nn.pad", "2x3xf32", "4x4xf32", "{pads = [1, 0, 1, 1], value = 7.5}"),
    ("nn.pad", "2x3xi32", "2x4xi32", "{pads = [0, 1, 0, 0], value = -2.0}"),
    ("nn.pad", "2x3xi1", "2x4xi1", "{pads = [0, 1, 0, 0]}"),
    ("nn.gather", "4x5xf32 3xi64", "3x5xf32", ""),
    ("nn.gather", "4x5xf32 2x3xi32", "4x2x3xf32", "{axis = 1}"),
    ("nn.gather", "4x5x2xf32 i64", "4x2xf32", "{axis = -2}"),
    ("nn.broadcast", "3x1xf32", "2x3x4xf32", ""),
    ("nn.broadcast", "f32", "2x3xf32", ""),
    ("nn.select", "2x1xi1 3xf32 2x3xf32", "2x3xf32", ""),
    ("nn.select", "3xi1 3xi1 3xi1", "3xi1", ""),
    # elementwise
    *[(f"nn.{name}", f"3x5x{e}", f"3x5x{e}", "") for name in UNARY for e in FLOATS],
    *[(f"nn.{name}", "3x5xi32", "3x5xi32", "") for name in ("relu", "neg", "abs")],
    *[(f"nn.{name}", f"3x5x{e}", f"3x5x{e}", "") for name in FUNCTIONS for e in FLOATS],
    *[("nn.sign", f"3x5x{e}", f"3x5x{e}", "") for e in (*FLOATS, "i8", "i64")],
    *[("nn.mod", f"3x1x{e} 5x{e}", f"3x5x{e}", f"{{fmod = {f}}}") for e in ("f32", "f64", "i8", "i64") for f in ("true", "false")],
    *[(f"nn.{name}", f"3x1x{e} 5x{e}", f"3x5x{e}", "") for name in ("and", "or", "xor") for e in ("i1", "i8", "i64")],
    *[(f"nn.{name}", f"3x1x{e} 5x{e}", f"3x5x{e}", "") for name in ("shift_left", "shift_right") for e in ("i8", "i64")],
    ("nn.shift_right", "3x1xi8 5xi8", "3x5xi8", "{logical = true}"),
    ("nn.gelu", "3x5xf32", "3x5xf32", '{approximate = "tanh"}'),
    ("nn.clip", "3x5xf32", "3x5xf32", "{min = 0.0, max = 1.5}"),
    ("nn.clip", "3x5xi8", "3x5xi8", "{min = -2, max = 1}"),
    *[(f"nn.{n}", f"3x1x{e} 5x{e}", f"3x5x{e}", "") for n in ("add", "sub", "mul", "div", "maximum", "minimum") for e in (*FLOATS, "i8", "i64")],
    *[("nn.pow", f"3x5x{e} 1x{e}", f"3x5x{e}", "") for e in FLOATS],
    ("nn.add", "f32 f32", "f32", ""),
    *[("nn.compare", f"3x1x{e} 5x{e}", "3x5xi1", f'{{kind = "{k}"}}') for k in ("eq", "ne", "lt", "le", "gt", "ge") for e in ("f32", "i8")],
    ("nn.compare", "3xi1 3xi1", "3xi1", '{kind = "eq"}'),
    ("nn.shape", "2x3xf32", "2xi64", ""),
    *[("nn.cast", f"7x{a}", f"7x{b}", "") for a in (*FLOATS, "i1", "i8", "i32", "i64", "index") for b in (*FLOATS, "i1", "i8", "i32", "i64", "index")],
]  # fmt: skip


def _identity(case: tuple[str, str, str, str]) -> str:
    return " ".join(case)


@pytest.mark.parametrize("case", CASES, ids=_identity)
def test_computes_the_same(case: tuple[str, str, str, str]) -> None:
    op, inputs, result, attributes = case
    positive = op in ("nn.sqrt", "nn.log", "nn.pow", "nn.batch_norm")
    check(program(op, inputs, result, attributes), 0.1 if positive else -3, 3)


def test_every_op_has_a_rule_and_a_case() -> None:
    lowered = {n: kind for n, kind in operations().items() if not issubclass(kind, Dynamic | Composite)}
    declared = {name for name in lowered if name.startswith("nn.")}
    assert set(RULES) == declared
    assert {case[0] for case in CASES} == declared


@needs_upstream
def test_upstream_accepts_every_lowering() -> None:
    module = parse("".join(program(*case, name=f"f{i}") for i, case in enumerate(CASES)), "all.mir")
    LowerNn().run(module, Context(Target.host()))
    done = read_by_upstream([print_module(module, generic=True)])
    assert done.returncode == 0, done.stderr[:2000]


# Numbers at the edges -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("element", ["f32", "f16"])
@pytest.mark.parametrize("op", ["linear", "matmul"])
def test_weights_have_no_subnormals(op: str, element: str) -> None:
    """But those of 16 bits, which are added up in f32 and are no smaller than others are there."""
    weight = np.array([[1.5, 1e-40], [-1e-38, 2e-38], [-3, 0]], np.float32)
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
    wanted = weight if element == "f16" else np.array([[1.5, 0], [0, 2e-38], [-3, 0]], np.float32)
    np.testing.assert_array_equal(kept, wanted)


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


# Random programs ------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> str:
    groups, per_group, outs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    strides, dilations = ([draw(st.integers(1, 2)) for _ in range(2)] for _ in range(2))
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    size = [draw(st.integers(5, 7)) for _ in range(2)]
    spatial = [
        (size[d] + pads[d] + pads[d + 2] - (kernel[d] - 1) * dilations[d] - 1) // strides[d] + 1
        for d in range(2)
    ]
    last = draw(st.booleans())
    c, o = groups * per_group, groups * outs
    image = [*size, c] if last else [c, *size]
    result = [*spatial, o] if last else [o, *spatial]
    bias = f" {o}xf32" if draw(st.booleans()) else ""
    attributes = f"strides = {strides}, pads = {pads}, dilations = {dilations}, groups = {groups}"
    return program(
        "nn.conv2d",
        f"2x{'x'.join(map(str, image))}xf32 {o}x{per_group}x{kernel[0]}x{kernel[1]}xf32{bias}",
        f"2x{'x'.join(map(str, result))}xf32",
        f'{{{attributes}, layout = "{"nhwc" if last else "nchw"}"}}',
    )


@settings(max_examples=30, deadline=None)
@given(convolutions())
def test_random_convolutions(text: str) -> None:
    check(text)


@st.composite
def poolings(draw: st.DrawFn) -> str:
    kernel, strides, dilations = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    window = [(kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    pads = [draw(st.integers(0, window[d % 2] - 1)) for d in range(4)]
    size = [draw(st.integers(7, 9)) for _ in range(2)]
    ceil, last = draw(st.booleans()), draw(st.booleans())
    name = draw(st.sampled_from(["max_pool2d", "avg_pool2d"]))
    extra = ", count_include_pad = true" if name == "avg_pool2d" and draw(st.booleans()) else ""
    image = [*size, 2] if last else [2, *size]
    attributes = (
        f"{{kernel = {kernel}, strides = {strides}, pads = {pads}, dilations = {dilations}, "
        f'ceil_mode = {str(ceil).lower()}, layout = "{"nhwc" if last else "nchw"}"{extra}}}'
    )
    source = f"1x{'x'.join(map(str, image))}xf32"
    # The result's shape is the op's own affair here: inference is tested elsewhere.
    probe = parse(program(f"nn.{name}", source, "?x?x?x?xf32", attributes), "probe.mir")
    result = nn.MaxPool2d.infer(probe.body.ops[0].body.ops[0])[0]  # type: ignore[arg-type]
    return program(f"nn.{name}", source, str(result).removeprefix("tensor<").removesuffix(">"), attributes)


@settings(max_examples=40, deadline=None)
@given(poolings())
def test_random_poolings(text: str) -> None:
    check(text)


@settings(max_examples=40, deadline=None)
@given(st.permutations([2, 3, 2, 1, 4]), st.permutations([2, 3, 2, 1, 4]), st.data())
def test_random_reshapes(a: list[int], b: list[int], data: st.DataObject) -> None:
    def merged(shape: list[int]) -> str:
        at = data.draw(st.integers(0, len(shape) - 2))
        return "x".join(map(str, [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]))

    check(program("nn.reshape", f"{merged(a)}xf32", f"{merged(b)}xf32"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), *[st.booleans()] * 4), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_random_broadcasts(dims: list[tuple[int, bool, bool, bool, bool]], drop_a: int, drop_b: int) -> None:
    shapes = [[1 if d[which] else d[0] for d in dims] for which in (1, 2)]
    shapes = [s[min(drop, len(s)) :] for s, drop in zip(shapes, (drop_a, drop_b), strict=True)]
    result = np.broadcast_shapes(*map(tuple, shapes))
    a, b, y = ("".join(f"{d}x" for d in s) + "f32" for s in (*shapes, result))
    check(program("nn.sub", f"{a} {b}", y))


# Shape of the output --------------------------------------------------------------------------------------


def test_names_and_splats() -> None:
    module = lowered("""
func.func @main(%x: tensor<2x8xf32>) -> tensor<2x8xf32> {
  %half = arith.constant dense<0.5> : tensor<2x8xf32>
  %scaled = nn.mul %x, %half : (tensor<2x8xf32>, tensor<2x8xf32>) -> tensor<2x8xf32>
  %y = nn.relu %scaled : (tensor<2x8xf32>) -> tensor<2x8xf32>
  func.return %y : tensor<2x8xf32>
}""")
    text = print_module(module)
    assert "%half = arith.constant 0.5 : f32" in text and "dense" not in text
    assert "func.return %y" in text and "%scaled = linalg.generic" in text and "%init = tensor.empty" in text


def test_results_of_one_type_share_a_destination() -> None:
    """All but what one op needs itself: a sum starts in a tensor of its own."""
    module = lowered("""
func.func @main(%x: tensor<2x8xf32>, %b: tensor<8xf32>, %w: tensor<8x8xf32>) -> tensor<2x8xf32> {
  %y = nn.linear %x, %w, %b : (tensor<2x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  %z = nn.relu %y : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %r = nn.linear %z, %w, %b : (tensor<2x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  func.return %r : tensor<2x8xf32>
}""")
    assert [op.name for op in module.walk()].count("tensor.empty") == 2


def test_docstring_example() -> None:
    before, after = (LowerNn.__doc__ or "").split("Before:")[1].split("After:")
    call = before.strip()
    text = f"func.func @main(%x: tensor<2x8xf32>) -> tensor<2x8xf32> {{\n{call}\nfunc.return %y : tensor<2x8xf32>\n}}"
    printed = print_module(lowered(text))
    for line in after.split("\n\n")[1].splitlines():
        assert all(part in printed for part in line.strip().split("{...}"))


def test_open_shapes_are_not_lowered() -> None:
    module = parse(program("nn.relu", "?x3xf32", "?x3xf32"), "test.mir")
    with pytest.raises(VerifyError, match=r"tensor<\?x3xf32> has a dimension of unknown size"):
        LowerNn().run(module, Context(Target.host()))


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
@pytest.mark.parametrize("case", EMPTY, ids=_identity)
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
