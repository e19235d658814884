"""A pass that is stopped after some of its rewrites leaves a valid program that computes what it did before."""

from __future__ import annotations

import numpy as np
import pytest

from mdsl.compiler.driver import context_of
from mdsl.compiler.entry import closed, open_signature, random_arrays
from mdsl.compiler.levels import passes_from, ukernel_stages
from mdsl.compiler.pipeline import run_pass
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Builder, Op
from mdsl.ir.rewrites import LimitReached, Rewrites, counting, may_rewrite, rewriting
from mdsl.ir.verifier import verify
from mdsl.passes.any.canonicalize import Canonicalize
from mdsl.reference import run
from mdsl.report.check import first_difference
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

NET = """func.func @main(%x: tensor<1x16x8x8xf32>) -> tensor<1x10xf32> {
  %k = arith.constant dense<0.1> : tensor<16x16x3x3xf32>
  %b = arith.constant dense<0.2> : tensor<16xf32>
  %c = nn.conv2d %x, %k, %b {pads = array<i64: 1, 1, 1, 1>} : (tensor<1x16x8x8xf32>, tensor<16x16x3x3xf32>, tensor<16xf32>) -> tensor<1x16x8x8xf32>
  %r = nn.relu %c : (tensor<1x16x8x8xf32>) -> tensor<1x16x8x8xf32>
  %p = nn.max_pool2d %r {kernel = array<i64: 2, 2>, strides = array<i64: 2, 2>} : (tensor<1x16x8x8xf32>) -> tensor<1x16x4x4xf32>
  %f = nn.flatten %p : (tensor<1x16x4x4xf32>) -> tensor<1x256xf32>
  %w = arith.constant dense<0.01> : tensor<256x10xf32>
  %m = nn.matmul %f, %w : (tensor<1x256xf32>, tensor<256x10xf32>) -> tensor<1x10xf32>
  %s = nn.softmax %m : (tensor<1x10xf32>) -> tensor<1x10xf32>
  func.return %s : tensor<1x10xf32>
}
"""


def test_every_first_part_of_a_pass_is_right() -> None:
    module = parse(NET)
    context = context_of(Target.parse("avx2"))
    inputs, outputs = open_signature(module)
    arrays = random_arrays(closed(inputs))
    wanted = run(module, arrays)
    counted: dict[str, int] = {}
    for step in passes_from(ukernel_stages(), "nn"):
        before = module.clone()
        with counting(Rewrites()) as done:
            step.run(module, context)
        counted[step.name] = counted.get(step.name, 0) + done.count
        for limit in sorted({0, 1, done.count // 2, done.count - 1} & {*range(done.count)}):
            part = before.clone()
            with counting(Rewrites(limit)) as partly:
                run_pass(step, part, context)
            assert partly.count == limit
            verify(part)
            assert not first_difference(wanted, run(part, arrays), outputs), f"{step}: {limit} rewrites"
    silent = {name for name, count in counted.items() if not count}
    assert silent == {
        "block-sums",
        "inline",
        "trim-filters",
        "decompose",
        "donate",
        "fold-batchnorm",
        "fuse-gelu",
        "widen",
        "fold-shapes",
        "fuse-attention",
    }


def test_no_rewrite_is_the_program_as_it_was() -> None:
    module = parse("func.func @f(%x: f32) -> f32 {\n  %y = arith.negf %x : f32\n  func.return %x : f32\n}\n")
    text = print_module(module)
    with counting(Rewrites(0)):
        run_pass(Canonicalize(), module, context_of(Target.parse("avx2")))
    assert print_module(module) == text


def _ops(module: ModuleOp) -> list[Op]:
    return module.body.ops[0].body.ops


def test_what_belongs_together_is_one_rewrite() -> None:
    module = parse(
        "func.func @f(%x: f32) -> f32 {\n  %y = arith.negf %x : f32\n  %z = arith.negf %y : f32\n  func.return %z : f32\n}\n"
    )
    with counting(Rewrites()) as outer, counting(Rewrites(2)) as done, pytest.raises(LimitReached):
        first, second, _ = _ops(module)
        with rewriting(second, "both"):
            first.replace_by(Builder.before(first).value(first.clone()))
            assert may_rewrite(second, "more")
            assert not may_rewrite(second, "too much")
        second.replace_by(second.operands[0])
    assert done.kinds == outer.kinds == {"both": 1, "more": 1}
    assert done.place is not None and done.place.line == 3
    assert len(_ops(module)) == 3
    assert np.array(run(module, [np.float32(2)])) == 2
