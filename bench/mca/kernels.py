"""The main kernels, `kernels.mir`, as machine code for any target."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from bench.mca.loops import Loop, innermost
from mdsl import api
from mdsl.codegen.kernel import to_llvm_ir
from mdsl.codegen.native import to_assembly
from mdsl.compiler.driver import context_of, lowering
from mdsl.compiler.pipeline import run_passes
from mdsl.compiler.settings import Settings
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.support.collector import collector_paused
from mdsl.target.target import Target

_FILE = Path(__file__).with_name("kernels.mir")

CONTRACTIONS = ("matmul", "conv_3x3", "conv_1x1", "winograd_3x3")
"""The programs whose time is that of their multiply-adds."""


@cache
def programs() -> dict[str, str]:
    """The text of each program by its name."""
    found = re.finditer(r"^func\.func @(\w+)\(.*?^}\n", _FILE.read_text(), re.DOTALL | re.MULTILINE)
    return {match[1]: match[0] for match in found}


@collector_paused()
def assembly(name: str, target: Target) -> list[str]:
    """The machine code of each micro-kernel of a program."""
    module = api.parse(programs()[name])
    steps = lowering(module, Settings(target=target, winograd=name.startswith("winograd")))
    run_passes(module, steps, context_of(target), verify_each=False)
    kernels = [op for op in module.body.ops if isinstance(op, UkernelFunc)]
    return [to_assembly(to_llvm_ir(kernel, kernel.symbol, target=target), target) for kernel in kernels]


def loops(name: str, target: Target) -> list[Loop]:
    """The innermost loops of a program's micro-kernels."""
    return [loop for listing in assembly(name, target) for loop in innermost(listing, target.architecture)]
