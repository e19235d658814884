"""autodiff: every op's vector-Jacobian product against finite differences, what the pass says and refuses."""

from __future__ import annotations

from importlib import import_module

import pytest
from differences import check
from lowering import arrays, program

import mdsl
from mdsl.compiler.pipeline import parse_pipeline, run_passes
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.dialects.nn.training import Composite
from mdsl.ir.declare import fields_of
from mdsl.ir.registry import operations
from mdsl.ir.types import TensorType, f64
from mdsl.passes.nn.autodiff.build import VJPS
from mdsl.report.check import Check
from mdsl.syntax.parser import parse

lower_nn = import_module("tests.passes.lower-nn.test_lower_nn")

POSITIVE = ("nn.sqrt", "nn.log", "nn.pow", "nn.batch_norm", "nn.log1p")
RANGES = {
    **dict.fromkeys(POSITIVE, (0.3, 3)),
    **dict.fromkeys(("nn.asin", "nn.acos", "nn.atanh"), (-0.9, 0.9)),
    "nn.acosh": (1.2, 3),
}
"""Where an op has slopes, unless they are everywhere."""

CASES = sorted(
    {
        tuple(part.replace("f32", "f64") for part in case)
        for case in lower_nn.CASES
        if case[0] in VJPS and case[2].endswith("f32") and "f32" in case[1]
    }
)
"""The programs of one op that its lowering is tested on, in f64."""


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_vector_jacobian_product(case: tuple[str, str, str, str]) -> None:
    op, inputs, result, attributes = case
    text = program(op, inputs, result, attributes)
    check(text, arrays(parse(text, "test.mir"), 0, *RANGES.get(op, (-3, 3))))


WITHOUT = {
    "nn.argmax": "positions",
    "nn.argmax_pool2d": "positions",
    "nn.argsort": "positions",
    "nn.shape": "sizes",
    "nn.compare": "truth values",
    "nn.random_uniform": "numbers that depend on no float",
    **dict.fromkeys(("nn.and", "nn.or", "nn.xor", "nn.shift_left", "nn.shift_right"), "integers"),
}
"""Ops of which there is no gradient, and what their results are."""


def test_every_op_has_a_vjp_or_a_reason() -> None:
    declared = {n: kind for n, kind in operations().items() if n.startswith("nn.")}
    static = {
        n for n, kind in declared.items() if not issubclass(kind, Dynamic | Composite)
    }  # others become these
    assert set(VJPS) | set(WITHOUT) == static
    assert not set(VJPS) & set(WITHOUT)
    for name in VJPS:
        (result,) = fields_of(declared[name], "result")
        assert result.constraint.accepts(TensorType((), f64)), f"the result of {name} holds no floats"
    assert {case[0] for case in CASES} == set(VJPS)


LOSS = """
func.func @main(%x: tensor<4x5xf64>, %w: tensor<3x5xf64>, %b: tensor<3xf64>) -> tensor<f64> {
  %h = nn.linear %x, %w, %b : (tensor<4x5xf64>, tensor<3x5xf64>, tensor<3xf64>) -> tensor<4x3xf64>
  %p = nn.log_softmax %h : (tensor<4x3xf64>) -> tensor<4x3xf64>
  %q = nn.mul %p, %h : (tensor<4x3xf64>, tensor<4x3xf64>) -> tensor<4x3xf64>
  %loss = nn.reduce %q {kind = "mean", keepdims = false} : (tensor<4x3xf64>) -> tensor<f64>
  return %loss : tensor<f64>
}"""


def test_what_several_ops_read_gets_the_sum() -> None:
    check(LOSS, arrays(parse(LOSS, "test.mir")))


def test_check_each_compares_what_the_program_had_before() -> None:
    run_passes(mdsl.parse(LOSS), parse_pipeline("autodiff{wrt=[w,b]},canonicalize"), hooks=[Check()])
