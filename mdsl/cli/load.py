"""From a file that a command was given to something that can be called, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import read_bound
from mdsl.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from mdsl.bytecode.module import Module
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.executable import Executable
    from mdsl.settings import Settings

ProgramFile = Annotated[
    str,
    typer.Argument(
        help="A .mir file on any level, an .onnx or an .mbc file; - for .mir on stdin.", metavar="FILE"
    ),
]
Engine = Annotated[
    str, typer.Option(help="vm: the interpreter; jit: the whole program as native code; reference: NumPy.")
]
Threads = Annotated[int, typer.Option(help="Threads that share the loops.")]


def load_program(file: str | ModuleOp, engine: str, threads: int, settings: Settings) -> Executable:
    """The program in `file`, or the module that was read from it, ready to be called. Raises MdslError, OSError."""
    import mdsl

    with progress(f"compiling {file}" if isinstance(file, str) else "compiling"):
        if isinstance(file, str) and file.lower().endswith(".mbc"):
            settings.check_compiled(file)
            return mdsl.load(file, engine=engine, threads=threads)  # imports nothing that compiles
        from mdsl.api import build

        if isinstance(file, str):
            file, sizes = read_bound(file, settings.bind)
            settings = replace(settings, bind=sizes)
        return build(file, settings, engine, threads)


def for_inputs(executable: Executable, inputs: Sequence[np.ndarray]) -> Executable:
    """The program for inputs of these shapes, compiled now if its dimensions were open. Raises MdslError."""
    from mdsl.executable import OpenExecutable
    from mdsl.signature import sizes_of

    if not isinstance(executable, OpenExecutable):
        return executable
    with progress("compiling"):
        return executable.bound(sizes_of(executable.inputs, inputs))


def lower_program(module: ModuleOp, settings: Settings, keep: bool = False) -> Module:
    """The module's bytecode; shows the pass at work. With `keep` the cache may have it, and `module` stays as it is."""
    from mdsl.api import to_bytecode
    from mdsl.passes.base import Pass
    from mdsl.passes.pipeline import Hook
    from mdsl.programs import bytecode_of

    class Show(Hook):
        def __init__(self, show: Callable[[str], None]) -> None:
            self.show = show

        def before(self, module: ModuleOp, step: Pass) -> None:
            self.show(f"pass {step}")

    with progress("compiling") as show:
        if keep:
            return bytecode_of(module, settings, [Show(show)])
        return to_bytecode(module, settings, [Show(show)])


def default_output(file: str, suffix: str) -> Path:
    """Where a result goes without `-o`: the program's name in the current folder. Raises MdslError for stdin."""
    from mdsl.syntax.errors import MdslError

    if file == "-":
        raise MdslError("error: a program from stdin has no name: say where to write with -o")
    return Path(Path(file).stem + suffix)
