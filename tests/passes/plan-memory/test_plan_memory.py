"""plan-memory: buffers share memory exactly where they are never in use together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdsl.dialects import memref
from mdsl.dialects.arith import constant_of
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType, f32
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.plan_memory import Buffer, PlanMemory, place
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

CHAIN = """
func.func @main(%x: memref<64xf32>, %y: memref<64xf32> {mdsl.output}) {
  %a = memref.alloc() : memref<64xf32>
  memref.copy %x, %a : memref<64xf32> to memref<64xf32>
  %b = memref.alloc() : memref<64xf32>
  memref.copy %a, %b : memref<64xf32> to memref<64xf32>
  %c = memref.alloc() : memref<64xf32>
  memref.copy %b, %c : memref<64xf32> to memref<64xf32>
  memref.copy %c, %y : memref<64xf32> to memref<64xf32>
  func.return
}
"""


def planned(text: str, reuse: bool = True) -> tuple[ModuleOp, dict[str, int], int]:
    """The module, each buffer's offset and the arena's size, in bytes."""
    module = parse(text, "test.mir")
    verify(module)
    PlanMemory(reuse=reuse).run(module, Context(Target.host()))
    verify(module)
    views = [op for op in module.walk() if isinstance(op, memref.View)]
    offsets = {str(v.result.name): int(constant_of(v.operands[1]) or 0) for v in views}
    arenas = [op for op in module.walk() if isinstance(op, memref.Alloc)]
    assert len(arenas) == 1
    return module, offsets, memref_of(arenas[0].result).size


def test_a_buffer_takes_the_place_of_a_dead_one() -> None:
    module, offsets, size = planned(CHAIN)
    assert offsets["a"] == offsets["c"] != offsets["b"] and size == 512
    x = np.arange(64, dtype=np.float32)
    np.testing.assert_array_equal(run(module, [x])[0], x)


def test_without_reuse_each_has_its_own_place() -> None:
    _, offsets, size = planned(CHAIN, reuse=False)
    assert sorted(offsets.values()) == [0, 256, 512] and size == 768


def test_planning_again_changes_nothing() -> None:
    module, _, _ = planned(CHAIN)
    text = print_module(module)
    PlanMemory().run(module, Context(Target.host()))
    assert print_module(module) == text


def test_a_view_keeps_its_buffer_alive() -> None:
    _, offsets, _ = planned("""
    func.func @main(%x: memref<64xf32>, %y: memref<8xf32> {mdsl.output}) {
      %a = memref.alloc() : memref<64xf32>
      memref.copy %x, %a : memref<64xf32> to memref<64xf32>
      %part = memref.subview %a[8] [8] [1] : memref<64xf32> to memref<8xf32, strided<[1], offset: 8>>
      %b = memref.alloc() : memref<64xf32>
      memref.copy %x, %b : memref<64xf32> to memref<64xf32>
      memref.copy %part, %y : memref<8xf32, strided<[1], offset: 8>> to memref<8xf32>
      func.return
    }""")
    assert offsets["a"] != offsets["b"]


def test_a_buffer_in_a_loop_is_hoisted_and_lives_through_it() -> None:
    module, offsets, _ = planned("""
    func.func @main(%x: memref<64xf32>, %y: memref<64xf32> {mdsl.output}) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c3 = arith.constant 3 : index
      scf.for %i = %c0 to %c3 step %c1 {
        %a = memref.alloc() : memref<64xf32>
        memref.copy %x, %a : memref<64xf32> to memref<64xf32>
        %b = memref.alloc() : memref<64xf32>
        memref.copy %a, %b : memref<64xf32> to memref<64xf32>
        memref.copy %b, %y : memref<64xf32> to memref<64xf32>
      }
      func.return
    }""")
    assert offsets["a"] != offsets["b"]
    x = np.arange(64, dtype=np.float32)
    np.testing.assert_array_equal(run(module, [x])[0], x)


def test_a_forall_with_a_buffer_becomes_sequential() -> None:
    module, _, _ = planned("""
    func.func @main(%x: memref<8x8xf32>, %y: memref<8x8xf32> {mdsl.output}) {
      scf.forall (%i, %j) = (0, 0) to (8, 8) step (4, 2) {
        %p = memref.subview %x[%i, %j] [4, 2] [1, 1] : memref<8x8xf32> to memref<4x2xf32, strided<[8, 1], offset: ?>>
        %q = memref.subview %y[%i, %j] [4, 2] [1, 1] : memref<8x8xf32> to memref<4x2xf32, strided<[8, 1], offset: ?>>
        %a = memref.alloc() : memref<4x2xf32>
        memref.copy %p, %a : memref<4x2xf32, strided<[8, 1], offset: ?>> to memref<4x2xf32>
        memref.copy %a, %q : memref<4x2xf32> to memref<4x2xf32, strided<[8, 1], offset: ?>>
        scf.forall.in_parallel
      }
      func.return
    }""")
    assert not any(op.name == "scf.forall" for op in module.walk())
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(module, [x])[0], x)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=25))
def test_places_never_overlap_in_space_and_time(ranges: list[tuple[int, int, int]]) -> None:
    op = memref.Alloc.of(MemRefType((1,), f32))
    buffers = [Buffer(op.clone(), size, min(a, b), max(a, b)) for size, a, b in ranges]
    offsets = place(buffers)
    for one in buffers:
        assert offsets[one] % 64 == 0
        for other in buffers:
            if (
                one is not other
                and one.first <= other.last
                and other.first <= one.last
                and one.size
                and other.size
            ):
                assert (
                    offsets[one] + one.size <= offsets[other] or offsets[other] + other.size <= offsets[one]
                )
