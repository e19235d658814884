"""From a file that a command was given to something that can be called, with progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import read_program
from mdsl.cli.progress import progress

if TYPE_CHECKING:
    from mdsl.bytecode.module import Module
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.executable import Executable

ProgramFile = Annotated[
    str,
    typer.Argument(help="A .mir file on any level, or an .mbc file; - for .mir on stdin.", metavar="FILE"),
]
Engine = Annotated[
    str, typer.Option(help="vm: the interpreter; jit: the whole program as native code; reference: NumPy.")
]
Threads = Annotated[int, typer.Option(help="Threads that share the loops.")]
Ukernels = Annotated[
    bool, typer.Option("--ukernels/--no-ukernels", help="Micro-kernels for the heavy work, or scalar loops.")
]
UnrollDispatch = Annotated[
    int | None, typer.Option(help="Micro-kernels that one instruction issues.", metavar="N")
]
PassPipeline = Annotated[str | None, typer.Option(help="Passes to run first, as 'mdsl opt' takes them.")]
TargetName = Annotated[str, typer.Option(help="The machine to compile for: host, avx512, avx2, neon, ...")]


def load_program(file: str, engine: str = "vm", threads: int = 1, **settings: Any) -> Executable:
    """The program in `file`, ready to be called. Raises MdslError, OSError."""
    import mdsl

    with progress(f"compiling {file}"):
        program = file if file.endswith(".mbc") else read_program(file)
        return mdsl.compile(program, engine=engine, threads=threads, **settings)


def lower_program(module: ModuleOp, **settings: Any) -> Module:
    """The module's bytecode; shows the pass at work."""
    from mdsl.api import to_bytecode
    from mdsl.passes.base import Pass
    from mdsl.passes.pipeline import Hook

    class Show(Hook):
        def __init__(self, show: Callable[[str], None]) -> None:
            self.show = show

        def before(self, module: ModuleOp, step: Pass) -> None:
            self.show(f"pass {step}")

    with progress("compiling") as show:
        return to_bytecode(module, hooks=[Show(show)], **settings)


def default_output(file: str, suffix: str) -> Path:
    """Where a result goes without `-o`: the program's name in the current folder. Raises MdslError for stdin."""
    from mdsl.syntax.errors import MdslError

    if file == "-":
        raise MdslError("error: a program from stdin has no name: say where to write with -o")
    return Path(Path(file).stem + suffix)
