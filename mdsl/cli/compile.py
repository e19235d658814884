"""`mdsl compile`: a program as bytecode, or its micro-kernels as LLVM IR or assembly."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import read_bound, write_program, write_text
from mdsl.cli.load import (
    BindOption,
    PassPipeline,
    TargetName,
    Tuning,
    Ukernels,
    UnrollDispatch,
    Winograd,
    bindings,
    default_output,
    lower_program,
)

if TYPE_CHECKING:
    from mdsl.codegen.target import Target
    from mdsl.dialects.builtin import ModuleOp


class Emit(StrEnum):
    """What can be written."""

    mbc = "mbc"
    mir = "mir"
    llvm = "llvm"
    asm = "asm"


def compile_(
    program: Annotated[
        str,
        typer.Argument(
            help="A .mir file on any level, or an .onnx file; - for .mir on stdin.", metavar="FILE"
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write to this file (FILE's name with .mbc; text goes to stdout)."
        ),
    ] = None,
    emit: Annotated[
        Emit, typer.Option(help="mbc: bytecode; mir: the lowered program; llvm, asm: its micro-kernels.")
    ] = Emit.mbc,
    target: TargetName = "host",
    ukernels: Ukernels = True,
    unroll_dispatch: UnrollDispatch = None,
    winograd: Winograd = True,
    tune: Tuning = False,
    pass_pipeline: PassPipeline = None,
    bind: BindOption = None,
) -> None:
    """Compile a program to bytecode, or show what it is compiled to."""
    from mdsl.bytecode.encode import encode
    from mdsl.codegen.native import to_assembly, to_llvm
    from mdsl.codegen.target import Target
    from mdsl.files import replacing

    machine = Target.parse(target)
    module, sizes = read_bound(program, bindings(bind))
    place = default_output(program, ".mbc") if emit is Emit.mbc and output is None else output
    bytecode = lower_program(
        module,
        keep=emit is Emit.mbc,
        ukernels=ukernels,
        unroll_dispatch=unroll_dispatch,
        winograd=winograd,
        tune=tune,
        target=machine,
        pipeline=pass_pipeline,
        bind=sizes,
    )
    if emit is Emit.mir:
        write_program(module, place, program)
    elif emit is Emit.mbc:
        assert place is not None
        with replacing(place) as file:
            file.write(encode(bytecode))
    else:
        write_text(_kernels(module, machine, to_llvm if emit is Emit.llvm else to_assembly), place)


def _kernels(module: ModuleOp, machine: Target, translate: Callable[[str, Target], str]) -> str:
    """Every micro-kernel of the lowered module, one after another."""
    from mdsl.codegen.kernel import to_llvm_ir
    from mdsl.dialects.ukernel import UkernelFunc

    kernels = [op for op in module.body.ops if isinstance(op, UkernelFunc)]
    return "\n".join(translate(to_llvm_ir(kernel, kernel.symbol), machine) for kernel in kernels)
