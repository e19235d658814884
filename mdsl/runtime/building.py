"""Making an executable: compiling a program that was read, or finding it compiled, for the engine that was asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mdsl.errors import MdslError
from mdsl.runtime.executable import Executable, OpenExecutable, ReferenceExecutable, VmExecutable

if TYPE_CHECKING:  # a program that is found is not compiled
    from mdsl.compiler.settings import Settings
    from mdsl.compiler.source_cache import KeptSource
    from mdsl.runtime.opened import Opened


def found(source: KeptSource, engine: str, threads: int, fuel: int | None = None) -> VmExecutable | None:
    """What the program's file was compiled to before, if the cache has that."""
    program = None if engine == "reference" else source.found()
    if program is None:
        return None
    target = source.settings.running()
    with suppress(MdslError):
        return VmExecutable(program, engine, threads, fuel, target)
    source.discard()  # the VM's verifier refuses it
    return None


def ready(
    program: Opened, settings: Settings, engine: str, threads: int, source: KeptSource | None = None
) -> Executable:
    """The program compiled, or as one that the first call compiles. What it is bound to, it knows; `source` is the file
    that it was read from. Raises MdslError."""
    settings = replace(settings, bind=program.sizes)
    if engine != "reference":
        settings.running()  # what cannot run is not compiled
    if program.is_open or program.module is None:
        return OpenExecutable(program, engine, threads, replace(settings, bind={}), ready)
    if engine != "reference":
        return compiled(program, settings, engine, threads, source=source)
    from mdsl.compiler.driver import bind_dims

    return ReferenceExecutable(bind_dims(program.module, program.sizes), replace(settings, bind={}))


def compiled(
    program: Opened,
    settings: Settings,
    engine: str,
    threads: int,
    fuel: int | None = None,
    source: KeptSource | None = None,
) -> VmExecutable:
    """The bytecode of the program's module, which is altered, made now or before, ready to be called. Raises MdslError."""
    from mdsl.compiler.program_cache import KeptProgram
    from mdsl.vm.program import begin

    assert program.module is not None
    target = settings.running()
    files = [] if source is None else program.files(source.path)
    kept = KeptProgram(program.module, settings)
    executable = None
    if (bytecode := kept.found()) is not None:
        with suppress(MdslError):
            executable = VmExecutable(bytecode, engine, threads, fuel, target)
        if executable is None:
            kept.discard()  # the VM's verifier refuses it
    if executable is None:
        begin(engine, fuel)
        executable = VmExecutable(kept.compiled(), engine, threads, fuel, target)
    if source is not None and kept.key is not None and kept.is_kept:
        source.remember(kept.key, files)
    return executable
