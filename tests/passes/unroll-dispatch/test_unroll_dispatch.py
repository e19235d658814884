"""unroll-dispatch: blocks of dispatches, remainders, jammed kernels; results stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsl.codegen.kernels import compile_kernels
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.scf import For, Forall
from mdsl.dialects.ukernel import Dispatch, UkernelFunc
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.vectorize import Vectorize
from mdsl.passes.kernels.unroll_dispatch import UnrollDispatch
from mdsl.reference import run
from mdsl.rewriting.unroll_vectors import unroll_vectors
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

AVX512 = Target.parse("avx512")


def matmul(m: int, n: int, k: int, rows: int, loop: str = "forall") -> str:
    """C = relu(A B) by tiles of `rows` x 16, with B in panels of 16 columns."""
    a, b = (
        f"memref<{rows}x{k}xf32, strided<[{k}, 1], offset: ?>>",
        f"memref<{k}x16xf32, strided<[16, 1], offset: ?>>",
    )
    c, acc = f"memref<{rows}x16xf32, strided<[{n}, 1], offset: ?>>", f"memref<{rows}x16xf32>"
    same = "affine_map<(d0, d1) -> (d0, d1)>"
    body = f"""
      %a_tile = memref.subview %a[%i, 0] [{rows}, {k}] [1, 1] : memref<{m}x{k}xf32> to {a}
      %p = affine.apply affine_map<(d0) -> (d0 floordiv 16)>(%j)
      %b_tile = memref.subview %b[%p, 0, 0] [1, {k}, 16] [1, 1, 1] : memref<{n // 16}x{k}x16xf32> to {b}
      %c_tile = memref.subview %c[%i, %j] [{rows}, 16] [1, 1] : memref<{m}x{n}xf32> to {c}
      ukernel.dispatch @k(%a_tile, %b_tile, %c_tile) : ({a}, {b}, {c})
    """
    nest = f"scf.forall (%i, %j) = (0, 0) to ({m}, {n}) step ({rows}, 16) {{ {body} }}"
    if loop == "for":
        nest = f"""%c0 = arith.constant 0 : index
        %m = arith.constant {m} : index
        %n = arith.constant {n} : index
        %rows = arith.constant {rows} : index
        %c16 = arith.constant 16 : index
        scf.for %i = %c0 to %m step %rows {{ scf.for %j = %c0 to %n step %c16 {{ {body} }} }}"""
    return f"""
    ukernel.func @k(%a: {a}, %b: {b}, %c: {c}) {{
      %zero = arith.constant 0.0 : f32
      %acc = memref.alloca() : {acc}
      linalg.fill ins(%zero : f32) outs(%acc : {acc})
      linalg.matmul ins(%a, %b : {a}, {b}) outs(%acc : {acc})
      linalg.generic {{indexing_maps = [{same}, {same}], iterator_types = ["parallel", "parallel"]}}
          ins(%acc : {acc}) outs(%c : {c}) {{
      ^bb0(%x: f32, %y: f32):
        %r = arith.maximumf %x, %zero : f32
        linalg.yield %r : f32
      }}
      ukernel.return
    }}
    func.func @main(%a: memref<{m}x{k}xf32>, %b: memref<{n // 16}x{k}x16xf32>, %c: memref<{m}x{n}xf32> {{mdsl.output}}) {{
      {nest}
      func.return
    }}"""


def unrolled(text: str, **options: int) -> ModuleOp:
    module = parse(text, "test.mir")
    Vectorize().run(module, Context(AVX512))
    UnrollDispatch(**options).run(module, Context(AVX512))
    verify(module)
    return module


def check(text: str, **options: int) -> ModuleOp:
    """The pass's result; it must compute what the text does."""
    module = parse(text, "test.mir")
    random = np.random.default_rng(0)
    main = module.lookup("main")
    assert main is not None
    inputs = [random.integers(-3, 4, arg.type.shape).astype(np.float32) for arg in main.body.args[:-1]]  # type: ignore[attr-defined]
    after = unrolled(text, **options)
    np.testing.assert_array_equal(run(after, inputs), run(module, inputs))
    return after


def dispatches(module: ModuleOp) -> list[tuple[str, int]]:
    return [(op.symbol, op.attr("batch")) for op in module.walk() if isinstance(op, Dispatch)]


def kernels(module: ModuleOp) -> list[str]:
    return [op.symbol for op in module.body.ops if isinstance(op, UkernelFunc)]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(2, 6),
    st.booleans(),
    st.sampled_from(["for", "forall"]),
)
def test_same_results(rows, columns, k, factor, jam, loop):
    check(matmul(2 * rows, 16 * columns, k, rows, loop), factor=factor, jam=jam)


def test_jammed_kernel_shares_what_its_calls_share():
    module = check(matmul(8, 64, 6, 4), factor=4)
    assert kernels(module) == ["k_x4"] and dispatches(module) == [("k_x4", 1)]
    kernel = module.lookup("k_x4")
    assert isinstance(kernel, UkernelFunc)
    assert [a.name for a in kernel.args] == [
        "a",
        *(f"b_x{i}" for i in range(4)),
        *(f"c_x{i}" for i in range(4)),
    ]
    loops = [op for op in unroll_vectors(kernel, AVX512).walk() if isinstance(op, For)]
    assert len(loops) == 1 and len(loops[0].carried) == 16
    names = [op.name for op in loops[0].body.ops]
    assert (
        names.count("memref.load") == 4
        and names.count("vector.load") == 4
        and names.count("vector.fma") == 16
    )
    compile_kernels([kernel])


def test_remainder_keeps_the_single_kernel():
    module = check(matmul(4, 16 * 7, 3, 4), factor=4)
    assert dispatches(module) == [("k_x4", 1), ("k", 1)] and kernels(module) == ["k", "k_x4"]
    uppers = [loop.attr("staticUpperBound") for loop in module.walk() if isinstance(loop, Forall)]
    assert uppers == [[4, 64], [4, 112]]


def test_without_jamming_the_block_is_a_batch():
    module = check(matmul(4, 64, 3, 4), factor=4, jam=False)
    assert dispatches(module) == [("k", 4)] and kernels(module) == ["k"]


def test_a_loop_with_an_order_is_not_jammed():
    assert dispatches(check(matmul(4, 64, 3, 4, "for"), factor=4)) == [("k", 4)]


def test_kernels_that_fill_the_registers_are_not_jammed():
    assert dispatches(check(matmul(28, 64, 2, 28), factor=4)) == [("k", 4)]


def test_part_of_a_block_is_jammed_where_the_whole_does_not_fit():
    assert dispatches(check(matmul(7, 64, 2, 7), factor=4)) == [("k_x2", 2)]


def test_kernels_with_accumulators_enough_are_not_jammed():
    assert dispatches(check(matmul(12, 64, 2, 12), factor=4)) == [("k", 4)]


def test_the_loop_whose_calls_share_most_is_unrolled():
    """Along the columns four calls share 4 loads of the rows, along the rows they would share 1 of a column."""
    module = check(matmul(16, 64, 3, 4), factor=4)
    assert dispatches(module) == [("k_x4", 1)]
    assert [loop.attr("staticStep") for loop in module.walk() if isinstance(loop, Forall)] == [[4, 64]]


def test_short_innermost_dimension():
    """Fewer iterations than the factor: all of them are one block; a single one leaves it to the next dimension."""
    assert dispatches(check(matmul(8, 32, 2, 4), factor=4)) == [("k_x2", 1)]
    module = check(matmul(16, 16, 2, 4), factor=2)
    (loop,) = [op for op in module.walk() if isinstance(op, Forall)]
    assert loop.attr("staticStep") == [8, 16] and dispatches(module) == [("k_x2", 1)]


def test_elementwise_kernels_become_a_batch():
    t = "memref<16xf32, strided<[1], offset: ?>>"
    text = f"""
    ukernel.func @k(%x: {t}, %y: {t}) {{
      linalg.copy ins(%x : {t}) outs(%y : {t})
      ukernel.return
    }}
    func.func @main(%x: memref<80xf32>, %y: memref<80xf32> {{mdsl.output}}) {{
      scf.forall (%i) = (0) to (80) step (16) {{
        %x_tile = memref.subview %x[%i] [16] [1] : memref<80xf32> to {t}
        %y_tile = memref.subview %y[%i] [16] [1] : memref<80xf32> to {t}
        ukernel.dispatch @k(%x_tile, %y_tile) : ({t}, {t})
      }}
      func.return
    }}"""
    module = check(text, factor=2)
    assert dispatches(module) == [("k", 2), ("k", 1)]
    assert "scf.forall (%i) = (0) to (64) step (32)" in print_module(module)
    assert "scf.forall (%i) = (64) to (80) step (16)" in print_module(module)


@pytest.mark.parametrize("factor", [1])
def test_factor_of_one_changes_nothing(factor):
    text = matmul(4, 64, 3, 4)
    module = parse(text, "test.mir")
    Vectorize().run(module, Context(AVX512))
    assert print_module(unrolled(text, factor=factor)) == print_module(module)


def test_loops_with_other_effects_stay():
    text = matmul(4, 64, 3, 4).replace(
        "ukernel.dispatch", "memref.store %c_0, %c[%i, %j] : memref<4x64xf32>\nukernel.dispatch"
    )
    text = text.replace("scf.forall", "%c_0 = arith.constant 0.0 : f32\nscf.forall")
    assert dispatches(unrolled(text)) == [("k", 1)]


def test_a_factor_below_one_is_refused():
    with pytest.raises(ValueError, match="must be at least 1"):
        UnrollDispatch(factor=0)
