"""scf, func, ukernel, affine: loops, branches, calls, dispatches; and what `run` takes and gives."""

from __future__ import annotations

import numpy as np
import pytest
from evaluating import body, evaluate

from mdsl.errors import MdslError
from mdsl.reference import run
from mdsl.syntax.parser import parse

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_for_carries_values() -> None:
    lines = """%lo = arith.constant 1 : index
      %st = arith.constant 3 : index
      %i0 = arith.constant 0 : index
      %s, %r = scf.for %i = %lo to %a step %st iter_args(%p = %i0, %q = %i0) -> (index, index) {
        %t = arith.addi %p, %i : index
        scf.yield %t, %p : index, index
      }"""
    assert body(lines, [np.int64(11)], ["index"], "index") == 1 + 4 + 7
    assert body(lines, [np.int64(0)], ["index"], "index") == 0


def test_for_needs_a_positive_step() -> None:
    lines = "scf.for %i = %a to %a step %a {\n}\n%r = arith.addi %a, %a : index"
    with pytest.raises(MdslError, match="'scf.for': the step must be positive, it is 0"):
        body(lines, [np.int64(0)], ["index"], "index")


def test_if() -> None:
    lines = """%r = scf.if %a -> (index) {
        %one = arith.constant 1 : index
        scf.yield %one : index
      } else {
        %two = arith.constant 2 : index
        scf.yield %two : index
      }"""
    assert [int(body(lines, [np.bool_(c)], ["i1"], "index")) for c in (True, False)] == [1, 2]


def test_forall_reads_what_was_there_before() -> None:
    lines = """%r = scf.forall (%i) in (2) shared_outs(%o = %a) -> (tensor<4xf32>) {
        %other = affine.apply affine_map<(d) -> (1 - d)>(%i)
        %from = affine.apply affine_map<(d) -> (d * 2)>(%other)
        %to = affine.apply affine_map<(d) -> (d * 2)>(%i)
        %part = tensor.extract_slice %o[%from] [2] [1] : tensor<4xf32> to tensor<2xf32>
        scf.forall.in_parallel {
          tensor.parallel_insert_slice %part into %o[%to] [2] [1] : tensor<2xf32> into tensor<4xf32>
        }
      }"""
    assert body(lines, [X[0]], ["tensor<4xf32>"], "tensor<4xf32>").tolist() == [2, 3, 0, 1]


def test_forall_on_memory() -> None:
    text = """func.func @main(%x: memref<3x4xf32>, %y: memref<3x4xf32> {mdsl.output}) {
      scf.forall (%i, %j) = (0, 0) to (3, 4) step (1, 2) {
        %v = memref.load %x[%i, %j] : memref<3x4xf32>
        memref.store %v, %y[%i, %j] : memref<3x4xf32>
      }
      func.return
    }"""
    (found,) = evaluate(text, X)
    np.testing.assert_array_equal(found[:, ::2], X[:, ::2])
    assert np.isnan(found[:, 1::2]).all(), "what nobody wrote must show"


@pytest.mark.parametrize(
    ("map", "wanted"),
    [
        ("(d0) -> (d0 * 3 + 1)", 22),
        ("(d0) -> (d0 floordiv 2)", 3),
        ("(d0) -> (d0 ceildiv 2)", 4),
        ("(d0) -> (d0 mod 4)", 3),
        ("()[s0] -> (s0 - 9)", -2),
    ],
)
def test_affine_apply(map: str, wanted: int) -> None:
    operands = "()[%a]" if "s0" in map else "(%a)"
    assert body(f"%r = affine.apply affine_map<{map}>{operands}", [np.int64(7)], ["index"], "index") == wanted


def test_calls() -> None:
    text = """func.func @double(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
      %y = arith.addf %x, %x : tensor<4xf32>
      func.return %y, %x : tensor<4xf32>, tensor<4xf32>
    }
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %a, %b = func.call @double(%x) : (tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
      %c, %d = func.call @double(%a) : (tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
      %r = arith.subf %c, %b : tensor<4xf32>
      func.return %r : tensor<4xf32>
    }"""
    assert evaluate(text, X[0])[0].tolist() == [0, 3, 6, 9]


KERNEL = """ukernel.func @double(%x: tensor<4xf32>, %o: tensor<4xf32>) -> tensor<4xf32> {
  %y = arith.addf %x, %x : tensor<4xf32>
  ukernel.return %y : tensor<4xf32>
}
"""


def test_region_and_dispatch_on_tensors() -> None:
    text = (
        KERNEL
        + """func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
      %r = ukernel.region -> tensor<4xf32> {
        %z = arith.mulf %x, %x : tensor<4xf32>
        ukernel.yield %z : tensor<4xf32>
      }
      %s, %t = ukernel.dispatch @double(%r, %r), (%x, %x) : (tensor<4xf32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
      func.return %s, %t : tensor<4xf32>, tensor<4xf32>
    }"""
    )
    assert [r.tolist() for r in evaluate(text, X[0])] == [[0, 2, 8, 18], [0, 2, 4, 6]]


def test_dispatch_on_memory() -> None:
    text = """ukernel.func @copy(%x: memref<4xf32>, %o: memref<4xf32>) {
      memref.copy %x, %o : memref<4xf32> to memref<4xf32>
      ukernel.return
    }
    func.func @main(%x: memref<4xf32>, %y: memref<4xf32> {mdsl.output}) {
      %t = memref.alloc() : memref<4xf32>
      ukernel.dispatch @copy(%x, %t), (%t, %y) : (memref<4xf32>, memref<4xf32>)
      func.return
    }"""
    assert evaluate(text, X[0])[0].tolist() == [0, 1, 2, 3]


def test_a_kernel_runs_alone() -> None:
    assert run(parse(KERNEL), [X[0], X[1]], "double")[0].tolist() == [0, 2, 4, 6]


ADD = parse("""func.func @main(%left: tensor<4xf32>, %right: tensor<4xf32>, %n: index) -> tensor<4xf32> {
  %r = arith.addf %left, %right : tensor<4xf32>
  func.return %r : tensor<4xf32>
}""")


def test_inputs_by_name() -> None:
    found = run(ADD, {"right": X[0], "n": np.int64(1), "left": X[1]})
    assert found[0].tolist() == [4, 6, 8, 10]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([X[0]], "@main takes 3 inputs, got 1"),
        ({"left": X[0], "rihgt": X[0], "n": 1}, "no input 'rihgt'; did you mean 'right'?"),
        ({"left": X[0], "right": X[0]}, "input 'n' of @main is missing"),
        (
            [X[0], X, 1],
            r"input 'right' must be a tensor<4xf32>, got an array of shape \[3, 4\] and dtype float32",
        ),
        ([X[0], X[0].astype(np.float64), 1], "input 'right' must be a tensor<4xf32>, got .* dtype float64"),
        ([X[0], X[0], 1.5], "input 'n' must be a number of type index"),
    ],
)
def test_inputs_that_do_not_fit(inputs: object, message: str) -> None:
    with pytest.raises(MdslError, match=message):
        run(ADD, inputs)  # type: ignore[arg-type]


def test_which_function_runs() -> None:
    two = KERNEL + "func.func @a() {\n func.return\n}\nfunc.func @b() {\n func.return\n}"
    with pytest.raises(MdslError, match="no function @main, and 2 others"):
        run(parse(two), [])
    with pytest.raises(MdslError, match="no function @dubble; did you mean 'double'?"):
        run(parse(two), [], "dubble")


def test_results_do_not_alias_inputs() -> None:
    text = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n func.return %x : tensor<4xf32>\n}"
    x = X[0].copy()
    evaluate(text, x)[0][...] = -1
    assert x.tolist() == [0, 1, 2, 3]
