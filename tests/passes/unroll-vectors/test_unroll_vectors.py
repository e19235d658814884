"""unroll-vectors: what becomes of vectors, and that they compute the same. Random kernels: test_vectorize.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mdsl.codegen.kernels import compile_kernels
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.errors import VerifyError
from mdsl.ir.types import VectorType
from mdsl.ir.verifier import verify
from mdsl.passes.base import Context
from mdsl.passes.buffers.vectorize import Vectorize
from mdsl.passes.kernels.unroll_vectors import UnrollVectors
from mdsl.reference import run
from mdsl.rewriting.unroll_vectors import unroll_vectors
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import print_module, print_op
from mdsl.target.target import TARGETS, Target

EDGES = Path(__file__).with_name("edges.mir").read_text()


@pytest.mark.parametrize("target", ["avx512", "avx2", "x86-64-v2", "neon"])
@pytest.mark.parametrize("flag", [False, True])
def test_computes_the_same(target: str, flag: bool) -> None:
    random = np.random.default_rng(0)
    shapes = ((3, 12), (12, 3), (3, 12), (1,))
    inputs = [*(random.random(shape).astype(np.float32) for shape in shapes), np.bool_(flag)]
    module = parse(EDGES, "edges.mir")
    wanted = run(module, inputs, "edges")
    UnrollVectors().run(module, Context(TARGETS[target]))
    verify(module)
    for left, right in zip(wanted[:4], run(module, inputs, "edges")[:4], strict=True):
        np.testing.assert_array_equal(left, right)
    lanes = TARGETS[target].lanes("f32")
    vectors = {v.type for op in module.walk() for v in op.results if isinstance(v.type, VectorType)}
    assert {v.shape for v in vectors} == {(min(lanes, 12),), (12 % lanes or lanes,), (12,)}


def test_the_proof_holds_for_both_forms() -> None:
    whole = parse(EDGES, "edges.mir")
    (func,) = whole.body.ops
    assert isinstance(func, UkernelFunc)
    unrolled = unroll_vectors(func, TARGETS["avx2"])
    assert unrolled is not func and "transfer" not in print_op(unrolled) and "transfer" in print_op(func)
    signatures = [compile_kernels([form], Target.host()).signatures["edges"] for form in (func, unrolled)]
    assert signatures[0] == signatures[1]


def test_registers_stay() -> None:
    """What fits registers is left as it is."""
    text = """ukernel.func @k(%x: memref<16xf32>) {
  %c0 = arith.constant 0 : index
  %v = vector.load %x[%c0] : memref<16xf32>, vector<16xf32>
  %w = arith.addf %v, %v : vector<16xf32>
  vector.store %w, %x[%c0] : memref<16xf32>, vector<16xf32>
  ukernel.return
}
"""
    module = parse(text, "test.mir")
    UnrollVectors().run(module, Context(TARGETS["avx512"]))
    assert print_module(module) == text


def test_reads_come_before_writes() -> None:
    """A vector that is read, but used only after something was written, is read before."""
    text = """ukernel.func @k(%x: memref<2x4xf32>) {
  %c0 = arith.constant 0 : index
  %pad = arith.constant 0.0 : f32
  %ones = arith.constant dense<1.0> : vector<2x4xf32>
  %v = vector.transfer_read %x[%c0, %c0], %pad {permutation_map = affine_map<(d0, d1) -> (d0, d1)>, in_bounds = [true, true]} : memref<2x4xf32>, vector<2x4xf32>
  vector.transfer_write %ones, %x[%c0, %c0] {permutation_map = affine_map<(d0, d1) -> (d0, d1)>, in_bounds = [true, true]} : vector<2x4xf32>, memref<2x4xf32>
  %w = arith.addf %v, %v : vector<2x4xf32>
  vector.transfer_write %w, %x[%c0, %c0] {permutation_map = affine_map<(d0, d1) -> (d0, d1)>, in_bounds = [true, true]} : vector<2x4xf32>, memref<2x4xf32>
  ukernel.return
}
"""
    module = parse(text, "test.mir")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    UnrollVectors().run(module, Context(TARGETS["avx2"]))
    (found,) = run(module, [x.copy()], "k")
    np.testing.assert_array_equal(found, 2 * x)


IMAGE, FACTORS = "memref<1x10x6x20xf32>", "memref<6x6x1x2x1x20xf32>"
TRANSFORM = f"""ukernel.func @k(%x: {IMAGE}, %out: {FACTORS}) {{
  linalg_ext.winograd_input_transform {{fmr = "F_4_3", image_dimensions = array<i64: 1, 2>}} ins(%x : {IMAGE}) outs(%out : {FACTORS})
  ukernel.return
}}
"""


def test_transforms_become_arithmetic() -> None:
    module = parse(TRANSFORM, "test.mir")
    Vectorize().run(module, Context(TARGETS["avx2"]))
    assert print_module(module) == print_module(parse(TRANSFORM, "test.mir"))
    inputs = [
        np.random.default_rng(0).random(shape).astype(np.float32)
        for shape in ((1, 10, 6, 20), (6, 6, 1, 2, 1, 20))
    ]
    _, wanted = run(module, inputs, "k")
    UnrollVectors().run(module, Context(TARGETS["avx2"]))
    verify(module)
    names = {op.name for op in module.walk()}
    assert "math.fma" in names and not any(name.startswith("linalg") for name in names)
    _, found = run(module, inputs, "k")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_transform_that_may_overwrite_its_image_does_not_wait() -> None:
    """Kernels say nothing of what they are called with."""
    text = f"""func.func @main(%bytes: memref<16000xi8>) {{
  %c0 = arith.constant 0 : index
  %x = memref.view %bytes[%c0][] : memref<16000xi8> to {IMAGE}
  %out = memref.view %bytes[%c0][] : memref<16000xi8> to {FACTORS}
  ukernel.dispatch @k(%x, %out) : ({IMAGE}, {FACTORS})
  return
}}
{TRANSFORM}"""
    module = parse(text, "test.mir")
    Vectorize().run(module, Context(TARGETS["avx2"]))
    assert not any(op.name.startswith("linalg") for op in module.walk())


def test_the_proof_is_of_the_arithmetic() -> None:
    signature = compile_kernels([_kernel(TRANSFORM)], Target.host()).signatures["k"]
    assert [(use.kind, use.span) for use in signature] == [("read", 4800), ("write", 5760)]


def test_what_cannot_be_spelt_out_is_an_error() -> None:
    line = TRANSFORM.splitlines()[1]
    many = TRANSFORM.replace(line, "\n".join([line] * 20))
    with pytest.raises(VerifyError, match="too large to be compiled: its transforms are too many"):
        compile_kernels([_kernel(many)], Target.host())


def _kernel(text: str) -> UkernelFunc:
    (func,) = parse(text, "test.mir").body.ops
    assert isinstance(func, UkernelFunc)
    return func
