"""Loading compiled programs, without what compiles them: a load takes no longer than it must."""

from __future__ import annotations

import os

from mdsl.bytecode.decode import load as load_bytecode
from mdsl.bytecode.module import BytecodeError, Module
from mdsl.errors import MdslError, nearest
from mdsl.runtime.executable import Executable, VmExecutable
from mdsl.support.formats import MBC, advice

ENGINES = ("vm", "jit", "reference")


def load(path: str | os.PathLike[str], *, engine: str = "vm", threads: int = 1) -> Executable:
    """The program in an `.mbc` file, verified. Raises MdslError, OSError."""
    check_engine(engine, threads)
    return ready(read_bytecode(path), path, engine, threads)


def ready(module: Module, path: str | os.PathLike[str], engine: str, threads: int) -> Executable:
    """The module that was read from the file `path`, ready to be called. Raises MdslError."""
    if engine == "reference":
        raise MdslError(
            f"{os.fspath(path)}: error: the reference runs .mir programs; this is bytecode (engines: vm, jit)"
        )
    try:
        return VmExecutable(module, engine, threads)
    except MdslError as error:
        raise MdslError(f"{os.fspath(path)}: {error}") from None


def read_bytecode(path: str | os.PathLike[str]) -> Module:
    """The module in an `.mbc` file. Raises MdslError with the byte at fault, OSError."""
    try:
        return load_bytecode(path)
    except BytecodeError as error:
        hint = f"{why}; 'mdsl compile' makes one" if (why := advice(path, MBC)) else ""
        raise MdslError(f"{os.fspath(path)}: error: {error}{hint}") from None


def check_engine(engine: str, threads: int) -> None:
    """Raises MdslError for an engine or a number of threads that there is not."""
    from mdsl.vm.runtime import MAX_THREADS

    if engine not in ENGINES:
        raise MdslError(
            f"error: unknown engine '{engine}'{nearest(engine, list(ENGINES))} (engines: {', '.join(ENGINES)})"
        )
    if not 1 <= threads <= MAX_THREADS:
        raise MdslError(f"error: threads must be from 1 to {MAX_THREADS}, got {threads}")
