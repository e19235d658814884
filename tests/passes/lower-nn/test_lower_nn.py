"""lower-nn: the lowered program verifies, computes what the graph computes, and upstream accepts it."""

from __future__ import annotations

import pytest
from lowering import check, identity, lowered, program

from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.nn.training import Composite
from mdsl.ir.core import VerifyError
from mdsl.ir.registry import operations
from mdsl.passes.base import Context
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.passes.nn.lower_nn.build import RULES
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target
from tests.upstream import needs_upstream, read_by_upstream

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
    # sums over processes
    ("nn.all_reduce", "2x3xf32", "2x3xf32", ""),
    ("nn.all_reduce", "1x3x1x1xf32", "1x3x1x1xf32", '{kind = "mean"}'),
    ("nn.all_reduce", "bf16", "bf16", ""),
    ("nn.all_reduce", "5xf64", "5xf64", ""),
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
    ("nn.argsort", "2x130xf32", "2x130xi64", "{descending = true}"),
    ("nn.argsort", "300x2xbf16", "150x2xi64", "{axis = 0, count = 150}"),
    ("nn.argsort", "70xi64", "70xi64", "{descending = true}"),
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
    ("nn.reshape", "3x1xf32", "1x1x3xf32", ""),
    ("nn.reshape", "1x1x3xf32", "3x1xf32", ""),
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


@pytest.mark.parametrize("case", CASES, ids=identity)
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
