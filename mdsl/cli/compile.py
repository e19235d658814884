"""`mdsl compile`: a program as bytecode, or its micro-kernels as LLVM IR or assembly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, read_bound, write_program, write_text, writing
from mdsl.cli.load import default_output, lower_program, showing_passes
from mdsl.cli.opt_watch import Watch, watching
from mdsl.cli.options import takes
from mdsl.cli.settings import takes_settings
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.support.collector import collector_paused

if TYPE_CHECKING:
    from mdsl.bytecode.module import Module
    from mdsl.compiler.pipeline import Hook
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.target.target import Target


class Emit(StrEnum):
    """What can be written."""

    mbc = "mbc"
    mir = "mir"
    llvm = "llvm"
    asm = "asm"


@takes("watch", watching)
@takes_settings
@collector_paused()
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
    *,
    watch: Watch,
) -> None:
    """Compile a program to bytecode, or show what it is compiled to."""
    from mdsl.bytecode.encode import pieces
    from mdsl.codegen.native import to_assembly, to_llvm
    from mdsl.compiler.driver import lower_to, to_bytecode

    machine = settings.machine()
    if watch.compile_to is not None:
        emit = _as_text(emit)
    module, sizes = read_bound(program, settings.bind)
    place = default_output(program, ".mbc") if emit is Emit.mbc and output is None else output
    check_output(place, program, text=emit is Emit.mir)
    settings = replace(settings, bind=sizes)
    hooks = watch.hooks(program, machine)
    if emit is Emit.mbc:
        assert place is not None
        parts = pieces(_bytecode(module, settings, hooks, watch.compile_from))
        with writing(place) as file:
            file.writelines(parts)
        watch.finish()
        return
    with showing_passes() as show:
        if watch.compile_to is None:
            to_bytecode(module, settings, [show, *hooks], start=watch.compile_from)
        else:
            lower_to(module, settings, watch.compile_to, [show, *hooks], watch.compile_from)
    watch.finish()
    if emit is Emit.mir:
        write_program(module, place, program)
    else:
        write_text(_kernels(module, machine, to_llvm if emit is Emit.llvm else to_assembly), place)


def _as_text(emit: Emit) -> Emit:
    """What can be written of a program on its way. Raises MdslError."""
    from mdsl.errors import MdslError

    if emit in (Emit.llvm, Emit.asm):
        raise MdslError(f"error: --emit={emit} shows what all passes lead to: leave out --compile-to")
    return Emit.mir


def _bytecode(module: ModuleOp, settings: Settings, hooks: list[Hook], start: str | None) -> Module:
    """The module's bytecode, from the cache where nothing watches the passes."""
    from mdsl.compiler.driver import to_bytecode

    if not hooks and start is None:
        return lower_program(module, settings)
    with showing_passes() as show:
        return to_bytecode(module, settings, [show, *hooks], start=start)


def _kernels(module: ModuleOp, machine: Target, translate: Callable[[str, Target], str]) -> str:
    """Every micro-kernel of the lowered module, one after another."""
    from mdsl.codegen.kernel import to_llvm_ir
    from mdsl.dialects.ukernel import UkernelFunc

    kernels = [op for op in module.body.ops if isinstance(op, UkernelFunc)]
    return "\n".join(
        translate(to_llvm_ir(kernel, kernel.symbol, target=machine), machine) for kernel in kernels
    )
