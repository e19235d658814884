"""The form of a micro-kernel that machine code is made of: Winograd's transforms as arithmetic, vectors of one register."""

from __future__ import annotations

from mdsl.analysis.code_size import MAX_CODE, code_size
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.types import MemRefType
from mdsl.passes.buffers.vectorize import vectorize_transforms
from mdsl.rewriting.unroll_vectors import unroll_vectors
from mdsl.target.target import Target


def with_arithmetic(func: UkernelFunc, target: Target) -> UkernelFunc:
    """A copy of the kernel with the arithmetic of its transforms; the kernel itself if it has none. Nothing is trusted: the
    proof is of the result. Raises VerifyError."""
    transforms = [op for op in func.walk() if isinstance(op, WinogradTransform)]
    if sum(map(code_size, transforms)) > MAX_CODE:
        raise func.error("the kernel is too large to be compiled: its transforms are too many")
    for op in transforms:
        if not all(isinstance(v.type, MemRefType) and v.type.is_static for v in op.operands):
            raise op.error(
                "cannot stand in a compiled micro-kernel: it must work on memory of a static shape"
            )
    return vectorize_transforms(func, target)


def machine_form(func: UkernelFunc, target: Target) -> UkernelFunc:
    """A copy of the kernel as machine code is made of it; the kernel itself if it is in that form."""
    return unroll_vectors(with_arithmetic(func, target), target)
