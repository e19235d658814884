"""From a file that a command was given to something that can be called, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import read_bound
from mdsl.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from mdsl.bytecode.module import Module
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.executable import Executable

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
Ukernels = Annotated[
    bool, typer.Option("--ukernels/--no-ukernels", help="Micro-kernels for the heavy work, or scalar loops.")
]
UnrollDispatch = Annotated[
    int | None, typer.Option(help="Micro-kernels that one instruction issues.", metavar="N")
]
Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd/--no-winograd", help="3x3 convolutions with fewer multiplications, rounded differently."
    ),
]
Tuning = Annotated[
    bool,
    typer.Option(
        "--tune", help="Measure how each contraction is best tiled, and remember it: some seconds a shape."
    ),
]
PassPipeline = Annotated[str | None, typer.Option(help="Passes to run first, as 'mdsl opt' takes them.")]
BindOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bind",
        help="The size of a '?' dimension; more than one: again, or after a comma.",
        metavar="NAME=SIZE",
    ),
]
TargetName = Annotated[str, typer.Option(help="The machine to compile for: host, avx512, avx2, neon, ...")]


def load_program(file: str | ModuleOp, engine: str = "vm", threads: int = 1, **settings: Any) -> Executable:
    """The program in `file`, or the module that was read from it, ready to be called. Raises MdslError, OSError."""
    import mdsl

    with progress(f"compiling {file}" if isinstance(file, str) else "compiling"):
        if not isinstance(file, str):
            return mdsl.compile(file, engine=engine, threads=threads, **settings)
        if not file.endswith(".mbc"):
            module, sizes = read_bound(file, settings.pop("bind", None) or {})
            return mdsl.compile(module, engine=engine, threads=threads, bind=sizes, **settings)
        if all(value is None or value is True or value == {} for value in settings.values()):
            return mdsl.load(file, engine=engine, threads=threads)  # imports nothing that compiles
        return mdsl.compile(file, engine=engine, threads=threads, **settings)


def for_inputs(executable: Executable, inputs: Sequence[np.ndarray]) -> Executable:
    """The program for inputs of these shapes, compiled now if its dimensions were open. Raises MdslError."""
    from mdsl.executable import OpenExecutable
    from mdsl.signature import sizes_of

    if not isinstance(executable, OpenExecutable):
        return executable
    with progress("compiling"):
        return executable.bound(sizes_of(executable.inputs, inputs))


def bindings(texts: Sequence[str] | None) -> dict[str, int]:
    """The sizes that `--bind` options give. Raises MdslError."""
    if not texts:
        return {}
    from mdsl.passes.pipeline import read_sizes
    from mdsl.syntax.errors import MdslError

    found: dict[str, int] = {}
    for text in texts:
        try:
            sizes = dict(read_sizes(text))
        except ValueError:
            raise MdslError(f"error: --bind {text}: expected NAME=SIZE, such as batch=8") from None
        twice = [name for name in sizes if name in found]
        if twice:
            raise MdslError(f"error: --bind {text}: dimension '{twice[0]}' was given twice")
        found.update(sizes)
    return found


def lower_program(module: ModuleOp, keep: bool = False, **settings: Any) -> Module:
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
            return bytecode_of(module, settings, hooks=[Show(show)])
        return to_bytecode(module, hooks=[Show(show)], **settings)


def default_output(file: str, suffix: str) -> Path:
    """Where a result goes without `-o`: the program's name in the current folder. Raises MdslError for stdin."""
    from mdsl.syntax.errors import MdslError

    if file == "-":
        raise MdslError("error: a program from stdin has no name: say where to write with -o")
    return Path(Path(file).stem + suffix)
