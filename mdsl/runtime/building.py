"""Making an executable: compiling a program that was read for the engine that was asked for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from mdsl.compiler.driver import bind_dims
from mdsl.compiler.program_cache import KeptProgram
from mdsl.compiler.settings import Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.runtime.executable import Executable, OpenExecutable, ReferenceExecutable, VmExecutable
from mdsl.runtime.opened import Opened


def ready(program: Opened, settings: Settings, engine: str, threads: int) -> Executable:
    """The program compiled, or as one that the first call compiles. What it is bound to, it knows. Raises MdslError."""
    settings = replace(settings, bind=program.sizes)
    if program.is_open or program.module is None:
        return OpenExecutable(program, engine, threads, replace(settings, bind={}), ready)
    if engine != "reference":
        return _compiled(program.module, settings, engine, threads)
    return ReferenceExecutable(bind_dims(program.module, program.sizes), replace(settings, bind={}))


def _compiled(module: ModuleOp, settings: Settings, engine: str, threads: int) -> VmExecutable:
    """The module's bytecode, made now or before, ready to be called. Raises MdslError."""
    program = KeptProgram(module, settings)
    found = program.found()
    if found is not None:
        with suppress(MdslError):
            return VmExecutable(found, engine, threads)
        program.discard()  # the VM's verifier refuses it
    return VmExecutable(program.compiled(), engine, threads)
