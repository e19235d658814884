"""unroll: what loops become, and that they compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.scf import For
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.kernels.unroll import Unroll
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

SUM = """func.func @main(%x: memref<100xf64>, %out: memref<2xf64> {{mdsl.output}}) {{
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %lower = arith.constant {lower} : index
  %upper = arith.constant {upper} : index
  %step = arith.constant {step} : index
  %zero = arith.constant 0.0 : f64
  scf.for %o = %c0 to %c1 step %c1 {{
    %sum, %swap = scf.for %i = %lower to %upper step %step iter_args(%s = %zero, %t = %zero) -> (f64, f64) {{
      %x_i = memref.load %x[%i] : memref<100xf64>
      %next = arith.addf %t, %x_i : f64
      scf.yield %next, %s : f64, f64
    }}
    memref.store %sum, %out[%c0] : memref<2xf64>
    memref.store %swap, %out[%c1] : memref<2xf64>
  }}
  func.return
}}"""


def unrolled(text: str, **options: int) -> ModuleOp:
    module = parse(text, "test.mir")
    Unroll(**options).run(module, Context(Target.parse("avx512")))
    verify(module)
    return module


def trips(module: ModuleOp) -> list[tuple[str, str, str]]:
    return [tuple(v.name or "" for v in op.operands[:3]) for op in module.walk() if isinstance(op, For)]  # type: ignore[misc]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 60), st.integers(1, 5), st.integers(1, 6), st.integers(0, 8))
def test_same_results(lower, upper, step, factor, full):
    text = SUM.format(lower=lower, upper=upper, step=step)
    x = np.arange(100.0) ** 2
    wanted = run(parse(text, "test.mir"), [x])
    np.testing.assert_array_equal(run(unrolled(text, factor=factor, full=full), [x]), wanted)


def test_remainder_is_a_loop_of_its_own():
    module = unrolled(SUM.format(lower=0, upper=11, step=1), factor=4)
    assert trips(module)[1:] == [("c0", "c8", "c4"), ("c8", "upper", "c1")]


def test_full_unrolling_leaves_no_loop():
    module = unrolled(SUM.format(lower=0, upper=6, step=2), factor=4, full=3)
    assert len(trips(module)) == 1
    assert print_module(module).count("arith.addf") == 3


def test_only_innermost_loops():
    module = unrolled(SUM.format(lower=0, upper=3, step=1), factor=2, full=1)
    assert trips(module)[0] == ("c0", "c1", "c1")


@pytest.mark.parametrize("factor", [1])
def test_factor_of_one_changes_nothing(factor):
    text = SUM.format(lower=0, upper=9, step=1)
    assert print_module(unrolled(text, factor=factor)) == print_module(parse(text, "test.mir"))


def test_bounds_that_are_not_known_stay():
    text = """func.func @f(%n: index, %x: memref<8xf32>) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %v = arith.constant 1.0 : f32
      scf.for %i = %c0 to %n step %c1 {
        memref.store %v, %x[%i] : memref<8xf32>
      }
      func.return
    }"""
    assert print_module(unrolled(text)) == print_module(parse(text, "test.mir"))


def test_docstring_example():
    before, after = _example(Unroll)
    head = (
        "".join(f"%c{n} = arith.constant {n} : index\n" for n in (0, 1, 2, 4))
        + "%zero = arith.constant 0.0 : f32\n"
    )
    wrap = "func.func @f(%x: memref<4xf32>) -> f32 {{\n{}{}\nfunc.return %sum : f32\n}}".format
    module = unrolled(wrap(head, before), factor=2)
    assert print_module(module) == print_module(parse(wrap(head, after), "after"))


def _example(pass_class: type) -> tuple[str, str]:
    """The IR before and after in a pass's docstring."""
    text = (pass_class.__doc__ or "").split("After:")
    before = text[0].split("\n\n", 2)[2]
    return before, text[1]


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="must be at least 1"):
        Unroll(factor=0)
