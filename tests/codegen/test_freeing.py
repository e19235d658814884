"""What a kernel's LLVM IR is printed from is freed at once, also while the collector is paused."""

import gc

from llvmlite import ir

from mdsl.codegen.kernel import to_llvm_ir
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.support.collector import collector_paused
from mdsl.syntax.parser import parse
from tests.codegen.test_kernel import matmul_text


def test_no_instruction_outlives_its_text():
    gc.collect()
    (kernel,) = parse(matmul_text(2, 5, 16)).body.ops
    assert isinstance(kernel, UkernelFunc)
    with collector_paused():
        assert "phi" in to_llvm_ir(kernel)
        assert not any(isinstance(o, ir.Instruction) for o in gc.get_objects())
