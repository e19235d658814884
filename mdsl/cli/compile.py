"""`mdsl compile`: a program as bytecode, or its micro-kernels as LLVM IR or assembly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, read_bound, write_program, write_text
from mdsl.cli.load import default_output, lower_program
from mdsl.cli.settings import takes_settings
from mdsl.compiler.settings import DEFAULT, Settings

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.target.target import Target


class Emit(StrEnum):
    """What can be written."""

    mbc = "mbc"
    mir = "mir"
    llvm = "llvm"
    asm = "asm"


@takes_settings
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
            "-o",
            "--output",
            help="Write to this file (FILE's name with .mbc, in the current folder; text goes to stdout).",
        ),
    ] = None,
    emit: Annotated[
        Emit, typer.Option(help="mbc: bytecode; mir: the lowered program; llvm, asm: its micro-kernels.")
    ] = Emit.mbc,
    settings: Settings = DEFAULT,
) -> None:
    """Compile a program to bytecode, or show what it is compiled to."""
    from mdsl.bytecode.encode import save
    from mdsl.codegen.native import to_assembly, to_llvm

    machine = settings.machine()
    module, sizes = read_bound(program, settings.bind)
    place = default_output(program, ".mbc") if emit is Emit.mbc and output is None else output
    check_output(place, program, text=emit is Emit.mir)
    bytecode = lower_program(module, replace(settings, bind=sizes), keep=emit is Emit.mbc)
    if emit is Emit.mir:
        write_program(module, place, program)
    elif emit is Emit.mbc:
        assert place is not None
        save(bytecode, place)
    else:
        write_text(_kernels(module, machine, to_llvm if emit is Emit.llvm else to_assembly), place)


def _kernels(module: ModuleOp, machine: Target, translate: Callable[[str, Target], str]) -> str:
    """Every micro-kernel of the lowered module, one after another."""
    from mdsl.codegen.kernel import to_llvm_ir
    from mdsl.dialects.ukernel import UkernelFunc

    kernels = [op for op in module.body.ops if isinstance(op, UkernelFunc)]
    return "\n".join(translate(to_llvm_ir(kernel, kernel.symbol), machine) for kernel in kernels)
