"""Loading compiled programs (`.mbc`). The compiler is not imported, so that a load is fast."""

from __future__ import annotations

import os

from mdsl.bytecode.decode import load as load_bytecode
from mdsl.bytecode.module import BytecodeError, Module
from mdsl.errors import MdslError, nearest
from mdsl.runtime.executable import Executable, VmExecutable
from mdsl.support.formats import MBC, advice

ENGINES = ("vm", "jit", "reference")


def load(
    path: str | os.PathLike[str], *, engine: str = "vm", threads: int = 1, fuel: int | None = None
) -> Executable:
    """The program in an `.mbc` file, verified. Raises MdslError, OSError.

    Every program ends, but one from elsewhere may take 2^60 steps to do so. With `fuel` a call raises MdslError once it
    is known to take more steps than that: a step is a trip of a loop, in the bytecode or in a micro-kernel, the call of
    a micro-kernel, or an element that the bytecode copies or fills. The trips of a loop are counted as it begins, and
    those of all `threads` together. Without it nothing is counted, and nothing takes time.
    """
    check_engine(engine, threads)
    check_fuel(fuel, engine)
    return ready(read_bytecode(path, code=False), path, engine, threads, fuel)


def ready(
    module: Module, path: str | os.PathLike[str], engine: str, threads: int, fuel: int | None = None
) -> Executable:
    """The module that was read from the file `path`, ready to be called. Raises MdslError."""
    if engine == "reference":
        raise MdslError(
            f"{os.fspath(path)}: error: the reference runs .mir programs; this is bytecode (engines: vm, jit)"
        )
    try:
        return VmExecutable(module, engine, threads, fuel)
    except MdslError as error:
        first, *rest = str(error).split("\n")
        raise MdslError(f"{os.fspath(path)}: {first}", *rest) from None


def read_bytecode(path: str | os.PathLike[str], code: bool = True) -> Module:
    """The module in an `.mbc` file, `code` as for `decode`. Raises MdslError with the byte at fault, OSError."""
    try:
        return load_bytecode(path, code)
    except BytecodeError as error:
        hint = f"{why}; 'mdsl compile' makes one" if (why := advice(path, MBC)) else ""
        raise MdslError(f"{os.fspath(path)}: error: {error}{hint}") from None


def check_engine(engine: str, threads: int) -> None:
    """Raises MdslError for an engine or a number of threads that there is not."""
    from mdsl.vm.calls import MAX_THREADS

    if engine not in ENGINES:
        raise MdslError(
            f"error: unknown engine '{engine}'{nearest(engine, list(ENGINES))} (engines: {', '.join(ENGINES)})"
        )
    if not 1 <= threads <= MAX_THREADS:
        raise MdslError(f"error: threads must be from 1 to {MAX_THREADS}, got {threads}")


def check_fuel(fuel: object, engine: str) -> None:
    """Raises MdslError for what is no number of steps, and for the engine that does not count them."""
    if fuel is not None and not (isinstance(fuel, int) and 0 <= fuel < 1 << 62):
        raise MdslError(f"error: fuel must be a number of steps, from 0 to 2^62 - 1, got {fuel!r}")
    if fuel is not None and engine == "reference":
        raise MdslError("error: the reference counts no steps: fuel needs the engine vm or jit")
