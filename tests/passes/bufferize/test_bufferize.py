"""bufferize: the same results, no copies in the standard tiled program, copies where tensors must live on."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_tensor_programs import Program

from mdsl.analysis.alias import accesses, writes
from mdsl.dialects import memref
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.ir.core import Op, VerifyError
from mdsl.ir.types import TensorType
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.lower_linalg_to_loops import LowerLinalgToLoops
from mdsl.passes.buffers.plan_memory import PlanMemory
from mdsl.passes.dispatch.bufferize import Bufferize
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target


def bufferized(text: str) -> ModuleOp:
    module = parse(text, "test.mir")
    verify(module)
    Bufferize().run(module, Context(Target.host()))
    verify(module)
    for op in module.walk():
        assert not any(isinstance(v.type, TensorType) for v in (*op.operands, *op.results))
    return module


def main_of(module: ModuleOp) -> FunctionLike:
    found = module.lookup("main")
    assert isinstance(found, FunctionLike)
    return found


def find(module: Op, name: str) -> list[Op]:
    return [op for op in module.walk() if op.name == name]


def check(text: str) -> ModuleOp:
    """Bufferizes `text`, which must compute the same and write nothing that it may only read."""
    before = parse(text, "test.mir")
    random = np.random.default_rng(0)
    inputs = [random.integers(-4, 5, a.type.shape).astype(np.float32) for a in main_of(before).args]  # type: ignore[attr-defined]
    module = bufferized(text)
    for expected, found in zip(run(before, inputs), run(module, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert_inputs_kept(module)
    return module


def assert_inputs_kept(module: ModuleOp) -> None:
    function = main_of(module)
    marks = zip(function.args, function.arg_attributes(), strict=True)
    inputs = [a for a, attrs in marks if "mdsl.output" not in attrs]
    constants = [op.result for op in find(function, "memref.get_global")]
    assert not any(writes(op, view) for value in (*inputs, *constants) for op, view in accesses(value))


TILED = """
ukernel.func @mm(%a: tensor<4x8xf32>, %b: tensor<8x16xf32>, %o: tensor<4x16xf32>) -> tensor<4x16xf32> {
  %zero = arith.constant 0.0 : f32
  %f = linalg.fill ins(%zero : f32) outs(%o : tensor<4x16xf32>) -> tensor<4x16xf32>
  %r = linalg.matmul ins(%a, %b : tensor<4x8xf32>, tensor<8x16xf32>) outs(%f : tensor<4x16xf32>) -> tensor<4x16xf32>
  ukernel.return %r : tensor<4x16xf32>
}
func.func @main(%a: tensor<8x8xf32>, %w: tensor<8x32xf32>) -> tensor<8x32xf32> {
  %init = tensor.empty() : tensor<8x32xf32>
  %c = scf.forall (%i, %j) = (0, 0) to (8, 32) step (4, 16) shared_outs(%o = %init) -> (tensor<8x32xf32>) {
    %at = tensor.extract_slice %a[%i, 0] [4, 8] [1, 1] : tensor<8x8xf32> to tensor<4x8xf32>
    %wt = tensor.extract_slice %w[0, %j] [8, 16] [1, 1] : tensor<8x32xf32> to tensor<8x16xf32>
    %ot = tensor.extract_slice %o[%i, %j] [4, 16] [1, 1] : tensor<8x32xf32> to tensor<4x16xf32>
    %t = ukernel.dispatch @mm(%at, %wt, %ot) {outs = 1}
      : (tensor<4x8xf32>, tensor<8x16xf32>, tensor<4x16xf32>) -> tensor<4x16xf32>
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %t into %o[%i, %j] [4, 16] [1, 1] : tensor<4x16xf32> into tensor<8x32xf32>
    }
  }
  func.return %c : tensor<8x32xf32>
}
"""


def test_tiled_program_is_computed_in_the_output() -> None:
    module = check(TILED)
    assert (
        not find(module, "memref.copy")
        and not find(module, "memref.alloc")
        and not find(module, "memref.alloca")
    )
    function = main_of(module)
    assert [a.name for a in function.args] == ["a", "w", "c"]
    assert [list(d) for d in function.arg_attributes()] == [[], [], ["mdsl.output"]]
    kernel = module.lookup("mm")
    assert isinstance(kernel, FunctionLike)
    assert str(kernel.args[1].type) == "memref<8x16xf32, strided<[32, 1], offset: ?>>"
    assert parse(print_module(module), "again.mir") is not None


def test_running_it_again_changes_nothing() -> None:
    module = bufferized(TILED)
    text = print_module(module)
    Bufferize().run(module, Context(Target.host()))
    assert print_module(module) == text


def test_a_loop_carries_its_accumulator_in_place() -> None:
    module = check("""
    func.func @main(%a: tensor<4x8xf32>, %b: tensor<8x4xf32>) -> tensor<4x4xf32> {
      %c0 = arith.constant 0 : index
      %c2 = arith.constant 2 : index
      %c8 = arith.constant 8 : index
      %zero = arith.constant 0.0 : f32
      %e = tensor.empty() : tensor<4x4xf32>
      %init = linalg.fill ins(%zero : f32) outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
      %c = scf.for %k = %c0 to %c8 step %c2 iter_args(%acc = %init) -> (tensor<4x4xf32>) {
        %at = tensor.extract_slice %a[0, %k] [4, 2] [1, 1] : tensor<4x8xf32> to tensor<4x2xf32>
        %bt = tensor.extract_slice %b[%k, 0] [2, 4] [1, 1] : tensor<8x4xf32> to tensor<2x4xf32>
        %t = linalg.matmul ins(%at, %bt : tensor<4x2xf32>, tensor<2x4xf32>) outs(%acc : tensor<4x4xf32>) -> tensor<4x4xf32>
        scf.yield %t : tensor<4x4xf32>
      }
      func.return %c : tensor<4x4xf32>
    }""")
    assert not find(module, "memref.copy") and not find(module, "memref.alloc")


def test_the_old_value_of_a_destination_lives_on() -> None:
    module = check("""
    func.func @main(%x: tensor<4x4xf32>) -> (tensor<4x4xf32>, tensor<4x4xf32>) {
      %zero = arith.constant 0.0 : f32
      %one = arith.constant 1.0 : f32
      %e = tensor.empty() : tensor<4x4xf32>
      %f = linalg.fill ins(%one : f32) outs(%e : tensor<4x4xf32>) -> tensor<4x4xf32>
      %p = tensor.extract_slice %f[0, 0] [2, 2] [1, 1] : tensor<4x4xf32> to tensor<2x2xf32>
      %z = linalg.fill ins(%zero : f32) outs(%p : tensor<2x2xf32>) -> tensor<2x2xf32>
      %g = tensor.insert_slice %z into %f[0, 0] [2, 2] [1, 1] : tensor<2x2xf32> into tensor<4x4xf32>
      %h = linalg.matmul ins(%f, %f : tensor<4x4xf32>, tensor<4x4xf32>) outs(%g : tensor<4x4xf32>) -> tensor<4x4xf32>
      func.return %h, %f : tensor<4x4xf32>, tensor<4x4xf32>
    }""")
    assert find(module, "memref.copy")


def test_inputs_constants_and_equal_results_are_copied() -> None:
    module = check("""
    func.func @main(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) {
      %k = arith.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
      %same = arith.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
      %y = arith.addf %x, %k : tensor<3xf32>
      func.return %x, %y, %y, %same : tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>
    }""")
    assert [a.name for a in main_of(module).args] == ["x", "x_1", "y", "y_1", "same"]
    assert len(find(module, "memref.global")) == 1 and len(find(module, "memref.copy")) == 3


def test_a_border_and_a_concatenation_are_written_in_place() -> None:
    module = check("""
    func.func @main(%x: tensor<2x3xf32>) -> tensor<8x5xf32> {
      %zero = arith.constant 0.0 : f32
      %a = arith.addf %x, %x : tensor<2x3xf32>
      %b = arith.mulf %x, %x : tensor<2x3xf32>
      %p = tensor.pad %a low[1, 1] high[1, 1] {
      ^bb0(%i: index, %j: index):
        tensor.yield %zero : f32
      } : tensor<2x3xf32> to tensor<4x5xf32>
      %q = tensor.pad %b low[1, 1] high[1, 1] {
      ^bb0(%i: index, %j: index):
        tensor.yield %zero : f32
      } : tensor<2x3xf32> to tensor<4x5xf32>
      %c = tensor.concat dim(0) %p, %q : (tensor<4x5xf32>, tensor<4x5xf32>) -> tensor<8x5xf32>
      func.return %c : tensor<8x5xf32>
    }""")
    assert not find(module, "memref.copy") and not find(module, "memref.alloc")


@pytest.mark.parametrize(("place", "copies"), [(0, 0), (4, 1)])
def test_a_part_is_written_in_place_if_it_goes_back_to_where_it_was(place: int, copies: int) -> None:
    """Elsewhere it is a part of the result, as it was."""
    module = check(f"""
    func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {{
      %y = arith.addf %x, %x : tensor<8xf32>
      %part = tensor.extract_slice %y[0] [2] [1] : tensor<8xf32> to tensor<2xf32>
      %twice = linalg.generic {{indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}}
        outs(%part : tensor<2xf32>) {{
      ^bb0(%old: f32):
        %new = arith.addf %old, %old : f32
        linalg.yield %new : f32
      }} -> tensor<2xf32>
      %r = tensor.insert_slice %twice into %y[{place}] [2] [1] : tensor<2xf32> into tensor<8xf32>
      func.return %r : tensor<8xf32>
    }}""")
    assert len(find(module, "memref.copy")) == copies


def test_an_iteration_that_reads_anothers_tile_sees_the_old_content() -> None:
    module = check("""
    func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
      %y = arith.addf %x, %x : tensor<8xf32>
      %r = scf.forall (%i) = (0) to (8) step (2) shared_outs(%o = %y) -> (tensor<8xf32>) {
        %first = tensor.extract_slice %o[0] [2] [1] : tensor<8xf32> to tensor<2xf32>
        %own = tensor.extract_slice %o[%i] [2] [1] : tensor<8xf32> to tensor<2xf32>
        %t = arith.addf %first, %own : tensor<2xf32>
        scf.forall.in_parallel {
          tensor.parallel_insert_slice %t into %o[%i] [2] [1] : tensor<2xf32> into tensor<8xf32>
        }
      }
      func.return %r : tensor<8xf32>
    }""")
    assert find(module, "memref.copy")


def test_carried_values_that_change_places() -> None:
    check("""
    func.func @main(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c3 = arith.constant 3 : index
      %a, %b = scf.for %i = %c0 to %c3 step %c1 iter_args(%p = %x, %q = %y) -> (tensor<4xf32>, tensor<4xf32>) {
        %s = arith.addf %p, %q : tensor<4xf32>
        scf.yield %q, %s : tensor<4xf32>, tensor<4xf32>
      }
      func.return %a, %b : tensor<4xf32>, tensor<4xf32>
    }""")


def test_a_kernel_is_cloned_for_each_layout() -> None:
    module = check("""
    ukernel.func @fill(%x: tensor<2x2xf32>, %o: tensor<2x2xf32>) -> tensor<2x2xf32> {
      %t = arith.addf %x, %x : tensor<2x2xf32>
      ukernel.return %t : tensor<2x2xf32>
    }
    func.func @main(%x: tensor<4x4xf32>) -> tensor<2x2xf32> {
      %p = tensor.extract_slice %x[1, 1] [2, 2] [1, 1] : tensor<4x4xf32> to tensor<2x2xf32>
      %e = tensor.empty() : tensor<2x2xf32>
      %a = ukernel.dispatch @fill(%p, %e) {outs = 1} : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
      %b = ukernel.dispatch @fill(%a, %e) {outs = 1} : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
      func.return %b : tensor<2x2xf32>
    }""")
    kernels = [op for op in module.body.ops if op.name == "ukernel.func"]
    assert [k.attr("sym_name") for k in kernels] == ["fill", "fill_1"]
    assert not find(module, "memref.copy") and not find(module, "memref.alloca")


def test_reshapes_are_views_and_copies_where_rows_have_gaps() -> None:
    module = check("""
    func.func @main(%x: tensor<4x6xf32>) -> (tensor<24xf32>, tensor<6xf32>) {
      %y = arith.addf %x, %x : tensor<4x6xf32>
      %flat = tensor.collapse_shape %y [[0, 1]] : tensor<4x6xf32> into tensor<24xf32>
      %p = tensor.extract_slice %x[1, 1] [2, 3] [1, 1] : tensor<4x6xf32> to tensor<2x3xf32>
      %q = tensor.collapse_shape %p [[0, 1]] : tensor<2x3xf32> into tensor<6xf32>
      func.return %flat, %q : tensor<24xf32>, tensor<6xf32>
    }""")
    assert len(find(module, "memref.copy")) == 1


def test_pack_and_unpack_that_reach_it() -> None:
    check("""
    func.func @main(%x: tensor<1x20x3x3xf32>) -> tensor<1x20x3x3xf32> {
      %zero = arith.constant 0.0 : f32
      %d = tensor.empty() : tensor<1x2x3x3x16xf32>
      %p = linalg.pack %x padding_value(%zero : f32) inner_dims_pos = [1] inner_tiles = [16] into %d
        : tensor<1x20x3x3xf32> -> tensor<1x2x3x3x16xf32>
      %y = arith.addf %p, %p : tensor<1x2x3x3x16xf32>
      %e = tensor.empty() : tensor<1x20x3x3xf32>
      %u = linalg.unpack %y inner_dims_pos = [1] inner_tiles = [16] into %e : tensor<1x2x3x3x16xf32> -> tensor<1x20x3x3xf32>
      func.return %u : tensor<1x20x3x3xf32>
    }""")


def test_a_gather_reads_memory_in_the_body() -> None:
    module = bufferized("""
    func.func @main(%x: tensor<5xf32>, %at: tensor<3xi64>) -> tensor<3xf32> {
      %e = tensor.empty() : tensor<3xf32>
      %y = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]}
        ins(%at : tensor<3xi64>) outs(%e : tensor<3xf32>) {
      ^bb0(%in: i64, %out: f32):
        %i = arith.index_cast %in : i64 to index
        %v = tensor.extract %x[%i] : tensor<5xf32>
        linalg.yield %v : f32
      } -> tensor<3xf32>
      func.return %y : tensor<3xf32>
    }""")
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(run(module, [x, np.array([4, 0, 2])])[0], [4, 0, 2])


def test_calls_pass_their_results_as_outputs() -> None:
    check("""
    func.func @twice(%v: tensor<4xf32>) -> tensor<4xf32> {
      %r = arith.addf %v, %v : tensor<4xf32>
      func.return %r : tensor<4xf32>
    }
    func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
      %a = func.call @twice(%x) : (tensor<4xf32>) -> tensor<4xf32>
      %b = func.call @twice(%a) : (tensor<4xf32>) -> tensor<4xf32>
      func.return %b : tensor<4xf32>
    }""")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("%y = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32>", "lower it to linalg first"),
        ("%y = tensor.cast %x : tensor<4xf32> to tensor<?xf32>", "bind the dimensions"),
    ],
)
def test_what_cannot_be_bufferized_is_an_error(body: str, message: str) -> None:
    type = "tensor<?xf32>" if "?" in body else "tensor<4xf32>"
    module = parse(
        f"func.func @main(%x: tensor<4xf32>) -> {type} {{\n{body}\nfunc.return %y : {type}\n}}", "test.mir"
    )
    with pytest.raises(VerifyError, match=message):
        Bufferize().run(module, Context(Target.host()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), length=st.integers(1, 12))
def test_random_programs_keep_their_results(seed: int, length: int) -> None:
    """Through bufferize, plan-memory and lower-linalg-to-loops."""
    text = Program(Random(seed)).text(length)
    module = parse(text, "test.mir")
    verify(module)
    random = np.random.default_rng(0)
    inputs = [random.integers(-3, 4, a.type.shape).astype(np.float32) for a in main_of(module).args]  # type: ignore[attr-defined]
    expected = run(module, inputs)
    for step in (Bufferize(), PlanMemory(), LowerLinalgToLoops()):
        step.run(module, Context(Target.host()))
        verify(module)
        if isinstance(step, Bufferize):
            assert_inputs_kept(module)
        for before, after in zip(expected, run(module, inputs), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-3)
    assert not any(isinstance(op, memref.Copy) for op in module.walk())
