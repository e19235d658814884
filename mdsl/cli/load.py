"""The options that say how a program is loaded, and loading the file a command was given as an executable."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import read_source
from mdsl.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np

    from mdsl.bytecode.module import Module
    from mdsl.compiler.entry import Spec
    from mdsl.compiler.pipeline import Hook
    from mdsl.compiler.settings import Settings
    from mdsl.compiler.source_cache import KeptSource
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.runtime.executable import Executable, VmExecutable
    from mdsl.runtime.opened import Opened

ProgramFile = Annotated[
    str,
    typer.Argument(
        help="A .mir file on any level, an .onnx or an .mbc file; - for .mir on stdin.", metavar="FILE"
    ),
]
Engine = Annotated[
    str, typer.Option(help="vm: the interpreter; jit: the whole program as native code; reference: NumPy.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Once for each input: NAME=x.npy, NAME=1x784xf32=0.5, NAME=1x784xf32=random or, where its shape is known, "
        "NAME=0.5 or NAME=random. NAME= may be left out if there is one input, and before x.npz, which has several by name.",
        metavar="INPUT",
    ),
]
Threads = Annotated[int, typer.Option(help="Threads that share the loops.")]


class Program:
    """The program in `file`, read but not yet compiled: what it takes and gives is known before the work starts.

    Sizes that `settings` leave open come from the inputs (`take`). Raises MdslError, OSError.
    """

    inputs: Sequence[Spec]
    outputs: Sequence[Spec]

    def __init__(
        self,
        file: str,
        engine: str,
        threads: int,
        settings: Settings,
        fuel: int | None = None,
        uncompiled: bool = False,
    ) -> None:
        """With `uncompiled` the program's module is asked for, which one that was compiled before is not read for."""
        from mdsl.runtime.loading import check_engine, check_fuel, read_bytecode

        check_engine(engine, threads)
        if engine != "reference":
            settings.running()  # what cannot run is not compiled
        check_fuel(fuel, engine)
        self.fuel = fuel
        self.file, self.engine, self.threads, self.settings = file, engine, threads, settings
        self.program: Opened | None = None
        self.module: ModuleOp | None = None
        self.bytecode: Module | None = None
        self.source: KeptSource | None = None
        self.found: VmExecutable | None = None
        if file.lower().endswith(".mbc"):
            settings.check_compiled(file)
            self.bytecode = read_bytecode(file)  # imports nothing that compiles
            function = self.bytecode.function()
            self.inputs, self.outputs = function.inputs, function.outputs
            return
        with progress(f"reading {file}"):
            if file == "-" or uncompiled or not self._find():
                self._read()

    def _find(self) -> bool:
        """Looks for what the file was compiled to before."""
        from mdsl.compiler.source_cache import KeptSource
        from mdsl.runtime.building import found

        self.source = KeptSource(Path(self.file), self.settings)
        self.found = found(self.source, self.engine, self.threads, self.fuel)
        if self.found is not None:
            self.inputs, self.outputs = self.found.inputs, self.found.outputs
        return self.found is not None

    def _read(self) -> None:
        from mdsl.runtime.opened import opened

        self._open(opened(read_source(self.file), self.settings.bind))
        self.settings = replace(self.settings, bind={})

    def _open(self, program: Opened) -> None:
        from mdsl.bytecode.module import DTYPES
        from mdsl.compiler.driver import bind_dims
        from mdsl.compiler.entry import check_compilable, open_signature

        self.program, self.inputs, self.outputs = program, program.inputs, program.outputs
        if program.module is None:
            return
        if not program.is_open:
            self.module = bind_dims(program.module, program.sizes)
            self.inputs, self.outputs = open_signature(self.module)
        if any(spec.dtype not in DTYPES for spec in self.inputs):
            check_compilable(program.module)

    def take(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Gives dimensions that are open the sizes that the inputs `arrays` have, and takes the numbers that decide shapes;
        returns the arrays that are inputs still. Raises MdslError."""
        while self.program is not None and self.program.is_open:
            given, arrays = self.program.given(arrays), self.program.rest(arrays)
            self._open(self.program.knowing(given))
            self.source = None  # the file and the settings do not tell what it is compiled to
        return arrays

    def executable(self) -> Executable:
        """The program, compiled. Raises MdslError."""
        with progress(f"compiling {self.file}"):
            if self.found is not None:
                return self.found
            if self.bytecode is not None:
                from mdsl.runtime.loading import ready

                return ready(self.bytecode, self.file, self.engine, self.threads, self.fuel)
            from mdsl.runtime.building import compiled
            from mdsl.runtime.executable import ReferenceExecutable

            assert self.module is not None and self.program is not None
            module = self.module.clone()
            if self.engine == "reference":
                return ReferenceExecutable(module, self.settings)
            program = replace(self.program, module=module)
            return compiled(program, self.settings, self.engine, self.threads, self.fuel, self.source)


def lower_program(module: ModuleOp, settings: Settings) -> Module:
    """The module's bytecode; shows the pass at work. The cache may have it, and `module` stays as it is."""
    from mdsl.compiler.program_cache import bytecode_of

    with showing_passes() as show:
        return bytecode_of(module, settings, [show])


@contextmanager
def showing_passes() -> Generator[Hook, None, None]:
    """A hook that shows which pass is at work while the block runs."""
    from mdsl.compiler.pipeline import Hook
    from mdsl.passes.base import Pass

    class Show(Hook):
        reads = False

        def __init__(self, show: Callable[[str], None]) -> None:
            self.show = show

        def before(self, module: ModuleOp, step: Pass) -> None:
            self.show(f"pass {step}")

    with progress("compiling") as show:
        yield Show(show)


def default_output(file: str, suffix: str) -> Path:
    """Where a result goes without `-o`: the program's name in the current folder. Raises MdslError for stdin."""
    from mdsl.errors import MdslError

    if file == "-":
        raise MdslError("error: a program from stdin has no name: say where to write with -o")
    return Path(Path(file).stem + suffix)
