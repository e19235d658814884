"""lower-linalg-to-loops: loops that compute what the structured op means, with accumulators in registers."""

from __future__ import annotations

import numpy as np
import pytest

from mdsl.dialects import scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.lower_linalg_to_loops import LowerLinalgToLoops
from mdsl.reference import run
from mdsl.syntax.parser import parse
from mdsl.target.target import Target

MAPS = """
#all = affine_map<(d0, d1) -> (d0, d1)>
#rows = affine_map<(d0, d1) -> (d0)>
"""


def lowered(text: str, *inputs: np.ndarray) -> ModuleOp:
    """Lowers `text`, which must compute the same on `inputs`."""
    module = parse(MAPS + text, "test.mir")
    verify(module)
    expected = run(module, inputs)
    LowerLinalgToLoops().run(module, Context(Target.host()))
    verify(module)
    for before, after in zip(expected, run(module, inputs), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert not any(op.name.startswith("linalg.") or op.name == "memref.copy" for op in module.walk())
    return module


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def innermost(module: ModuleOp) -> Op:
    return next(
        op
        for op in module.walk()
        if isinstance(op, scf.For) and not any(isinstance(i, scf.For) for i in op.body.ops)
    )


def test_a_matmul_is_two_loads_and_a_multiply_add_an_iteration() -> None:
    module = lowered(
        """
        func.func @main(%a: memref<4x8xf32>, %b: memref<8x5xf32>, %c: memref<4x5xf32> {mdsl.output}) {
          %zero = arith.constant 0.0 : f32
          linalg.fill ins(%zero : f32) outs(%c : memref<4x5xf32>)
          linalg.matmul ins(%a, %b : memref<4x8xf32>, memref<8x5xf32>) outs(%c : memref<4x5xf32>)
          func.return
        }""",
        array(4, 8),
        array(8, 5),
    )
    bodies = [[op.name for op in f.body.ops] for f in module.walk() if isinstance(f, scf.For) and f.carried]
    assert bodies == [["memref.load", "memref.load", "math.fma", "scf.yield"]]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolutions_window_is_worked_out_outside_the_inner_loop(stride: int, dilation: int) -> None:
    size = (3 - 1) * stride + (2 - 1) * dilation + 1
    module = lowered(
        f"""
        func.func @main(%x: memref<1x2x{size}x{size}xf32>, %k: memref<4x2x2x2xf32>, %y: memref<1x4x3x3xf32> {{mdsl.output}}) {{
          %zero = arith.constant 0.0 : f32
          linalg.fill ins(%zero : f32) outs(%y : memref<1x4x3x3xf32>)
          linalg.conv_2d_nchw_fchw {{strides = dense<{stride}> : tensor<2xi64>, dilations = dense<{dilation}> : tensor<2xi64>}}
            ins(%x, %k : memref<1x2x{size}x{size}xf32>, memref<4x2x2x2xf32>) outs(%y : memref<1x4x3x3xf32>)
          func.return
        }}""",
        array(1, 2, size, size),
        array(4, 2, 2, 2),
    )
    loops = [op for op in module.walk() if isinstance(op, scf.For) and op.carried]
    inner = [op.name for op in loops[-1].body.ops]
    assert inner.count("memref.load") == 2 and inner.count("arith.addi") == 1
    assert inner.count("arith.muli") == (1 if dilation > 1 else 0)


def test_what_a_broadcast_gives_is_loaded_and_transformed_outside() -> None:
    module = lowered(
        """
        func.func @main(%x: memref<3x4xf32>, %bias: memref<3xf32>, %y: memref<3x4xf32> {mdsl.output}) {
          linalg.generic {indexing_maps = [#all, #rows, #all], iterator_types = ["parallel", "parallel"]}
            ins(%x, %bias : memref<3x4xf32>, memref<3xf32>) outs(%y : memref<3x4xf32>) {
          ^bb0(%in: f32, %b: f32, %out: f32):
            %two = arith.constant 2.0 : f32
            %half = arith.divf %b, %two : f32
            %r = arith.addf %in, %half : f32
            linalg.yield %r : f32
          }
          func.return
        }""",
        array(3, 4),
        array(3),
    )
    assert [op.name for op in innermost(module).body.ops] == [
        "memref.load",
        "arith.addf",
        "memref.store",
        "scf.yield",
    ]


@pytest.mark.parametrize(
    ("map", "shape", "divisions"),
    [
        ("(d0 floordiv 3, d0 mod 3)", (4, 3), ["arith.divsi", "arith.remsi"]),
        ("((d0 - 4) floordiv 3 + 2, 0)", (5, 1), ["arith.floordivsi"]),
        ("(0, (d0 - 4) mod 3)", (1, 3), ["arith.floordivsi"]),
    ],
)
def test_indices_are_divided_by_one_instruction_if_none_is_negative(
    map: str, shape: tuple[int, int], divisions: list[str]
) -> None:
    """An instruction rounds towards zero, a map downwards."""
    module = lowered(
        f"""
        func.func @main(%x: memref<{shape[0]}x{shape[1]}xf32>, %y: memref<12xf32> {{mdsl.output}}) {{
          linalg.generic {{indexing_maps = [affine_map<(d0) -> {map}>, affine_map<(d0) -> (d0)>],
            iterator_types = ["parallel"]}} ins(%x : memref<{shape[0]}x{shape[1]}xf32>) outs(%y : memref<12xf32>) {{
          ^bb0(%in: f32, %out: f32):
            linalg.yield %in : f32
          }}
          func.return
        }}""",
        array(*shape),
    )
    found = [op.name for op in innermost(module).body.ops]
    assert [name for name in found if "div" in name or "rem" in name] == divisions


def test_an_output_that_is_also_an_input_is_read_in_each_iteration() -> None:
    lowered(
        """
        func.func @main(%x: memref<3x4xf32>, %y: memref<3x4xf32> {mdsl.output}) {
          memref.copy %x, %y : memref<3x4xf32> to memref<3x4xf32>
          linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>],
            iterator_types = ["parallel", "parallel"]} ins(%y : memref<3x4xf32>) outs(%y : memref<3x4xf32>) {
          ^bb0(%in: f32, %out: f32):
            %r = arith.addf %in, %out : f32
            linalg.yield %r : f32
          }
          func.return
        }""",
        array(3, 4),
    )


def test_counters_two_outputs_and_a_gather() -> None:
    lowered(
        """
        func.func @main(%x: memref<3x4xf32>, %best: memref<3xf32> {mdsl.output}, %at: memref<3xi64> {mdsl.output}) {
          %low = arith.constant -1.0e30 : f32
          %none = arith.constant 0 : i64
          linalg.fill ins(%low : f32) outs(%best : memref<3xf32>)
          linalg.fill ins(%none : i64) outs(%at : memref<3xi64>)
          linalg.generic {indexing_maps = [#all, #rows, #rows], iterator_types = ["parallel", "reduction"]}
            ins(%x : memref<3x4xf32>) outs(%best, %at : memref<3xf32>, memref<3xi64>) {
          ^bb0(%same: f32, %top: f32, %where: i64):
            %i = linalg.index 0 : index
            %j = linalg.index 1 : index
            %v = memref.load %x[%i, %j] : memref<3x4xf32>
            %greater = arith.cmpf ogt, %v, %top : f32
            %n = arith.index_cast %j : index to i64
            %value = arith.select %greater, %v, %top : f32
            %place = arith.select %greater, %n, %where : i64
            linalg.yield %value, %place : f32, i64
          }
          func.return
        }""",
        array(3, 4),
    )


def test_loops_of_one_iteration_vanish() -> None:
    module = lowered(
        """
        func.func @main(%x: memref<1x1x1xf32>, %y: memref<1xf32> {mdsl.output}) {
          %zero = arith.constant 0.0 : f32
          linalg.fill ins(%zero : f32) outs(%y : memref<1xf32>)
          linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0)>],
            iterator_types = ["parallel", "reduction", "reduction"]} ins(%x : memref<1x1x1xf32>) outs(%y : memref<1xf32>) {
          ^bb0(%in: f32, %out: f32):
            %r = arith.addf %in, %out : f32
            linalg.yield %r : f32
          }
          func.return
        }""",
        array(1, 1, 1),
    )
    assert not any(isinstance(op, scf.For) for op in module.walk())


def test_a_transposed_copy_and_rank_zero() -> None:
    lowered(
        """
        func.func @main(%x: memref<3x4xf32>, %y: memref<4x3xf32> {mdsl.output}, %s: memref<f32> {mdsl.output}) {
          linalg.transpose ins(%x : memref<3x4xf32>) outs(%y : memref<4x3xf32>) permutation = [1, 0]
          %one = arith.constant 1.0 : f32
          linalg.fill ins(%one : f32) outs(%s : memref<f32>)
          func.return
        }""",
        array(3, 4),
    )
