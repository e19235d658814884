"""unroll-vectors: vectors of several dimensions as vectors of one register each, as machine code has them."""

from __future__ import annotations

from dataclasses import dataclass

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.rewrites import rewriting
from mdsl.passes.base import Context, Pass
from mdsl.passes.buffers.vectorize import vectorize_transforms
from mdsl.rewriting.unroll_vectors import unroll_vectors


@dataclass(frozen=True)
class UnrollVectors(Pass):
    """Take vectors of several dimensions apart into vectors of one register of the target.

    `vectorize` writes a block of accumulators as one vector, and leaves Winograd's transforms as they are. Right before a
    micro-kernel becomes machine code, the transforms become their arithmetic and vectors are unrolled. No pipeline needs
    this pass, which shows what happens there. Before:

        %a_0 = vector.transfer_read %a[%c0, %k], %zero {permutation_map = affine_map<(d0, d1) -> (d0, 0)>,
            in_bounds = [true, true]} : memref<2x512xf32>, vector<2x8xf32>
        %b_0 = vector.transfer_read %b[%k, %c0], %zero {permutation_map = affine_map<(d0, d1) -> (0, d1)>,
            in_bounds = [true, true]} : memref<512x8xf32>, vector<2x8xf32>
        %sum = vector.fma %a_0, %b_0, %acc : vector<2x8xf32>

    After:

        %a_0 = memref.load %a[%c0, %k] : memref<2x512xf32>
        %a_0_1 = vector.broadcast %a_0 : f32 to vector<8xf32>
        %b_0 = vector.load %b[%k, %c0] : memref<512x8xf32>, vector<8xf32>
        %sum = vector.fma %a_0_1, %b_0, %acc : vector<8xf32>
        %a_0_2 = memref.load %a[%c1, %k] : memref<2x512xf32>
        %a_0_3 = vector.broadcast %a_0_2 : f32 to vector<8xf32>
        %sum_1 = vector.fma %a_0_3, %b_0, %acc_1 : vector<8xf32>
    """

    name = "unroll-vectors"
    level = "kernels"
    subject = "micro-kernel with vectors larger than a register"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in module.body.ops:
            if isinstance(func, UkernelFunc) and not func.type.results:
                unrolled = unroll_vectors(vectorize_transforms(func, context.target), context.target)
                if unrolled is not func:
                    with rewriting(func, "unroll"):
                        _take_over(func, unrolled)


def _take_over(func: UkernelFunc, unrolled: UkernelFunc) -> None:
    """The body of `unrolled` becomes that of `func`."""
    for op in reversed(func.body.ops):
        op.erase()
    for argument, new in zip(func.args, unrolled.args, strict=True):
        new.replace_by(argument)
    for op in unrolled.body.ops:
        func.body.append(op.detach())
