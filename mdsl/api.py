"""What `mdsl` offers to Python; `mdsl/__init__.py` hands it out when it is first asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdsl import __version__
from mdsl.bytecode.assemble import assemble
from mdsl.bytecode.decode import load as load_bytecode
from mdsl.bytecode.module import BytecodeError, Module
from mdsl.codegen.target import Target, TargetError
from mdsl.dialects.builtin import ModuleOp
from mdsl.executable import Executable, ReferenceExecutable, VmExecutable
from mdsl.ir.core import VerifyError
from mdsl.passes.base import Pass
from mdsl.passes.levels import level_of, loop_stages, passes_from, plan, ukernel_stages
from mdsl.passes.pipeline import Hook, parse_pipeline, run_passes
from mdsl.signature import check_compilable, signature
from mdsl.syntax.errors import MdslError, nearest
from mdsl.syntax.parser import parse as parse_text
from mdsl.syntax.parser import parse_file
from mdsl.syntax.printer import print_module

Program = str | os.PathLike[str] | ModuleOp
"""A path (a string that ends in `.mir` or `.mbc`), a text, or a module."""

ENGINES = ("vm", "jit", "reference")


def compile(
    program: Program,
    *,
    engine: str = "vm",
    threads: int = 1,
    ukernels: bool = True,
    unroll_dispatch: int | None = None,
    target: str | Target | None = None,
    pipeline: str | None = None,
) -> Executable:
    """Compiles a program on any level and makes it ready to be called.

    `engine`: "vm" interprets bytecode, "jit" compiles it as a whole, "reference" runs the program as written
    in NumPy. Without `ukernels` heavy work is scalar loops instead of micro-kernels; `unroll_dispatch` is
    the number of micro-kernels that one instruction issues. `pipeline` lists passes to run first, as
    `mdsl opt --pass-pipeline` takes them; the standard passes finish the lowering. A module is not altered.
    Raises MdslError.
    """
    _check_engine(engine, threads)
    settings: dict[str, Any] = {
        "ukernels": ukernels,
        "unroll_dispatch": unroll_dispatch,
        "target": target,
        "pipeline": pipeline,
    }
    path = None if isinstance(program, ModuleOp) else _path(program)
    if path is not None and path.suffix == ".mbc":
        late = [name for name, value in settings.items() if value not in (None, True)]
        if late:
            raise MdslError(
                f"{path}: error: {', '.join(late)} cannot be chosen any more: the program is compiled"
            )
        return load(path, engine=engine, threads=threads)
    module = parse(program)
    if engine == "reference":
        return ReferenceExecutable(module, settings)
    return VmExecutable(to_bytecode(module, **settings), engine, threads)


def load(path: str | os.PathLike[str], *, engine: str = "vm", threads: int = 1) -> Executable:
    """The program in an `.mbc` file, verified. Raises MdslError, OSError."""
    _check_engine(engine, threads)
    if engine == "reference":
        raise MdslError(
            f"{os.fspath(path)}: error: the reference runs .mir programs; this is bytecode (engines: vm, jit)"
        )
    module = read_bytecode(path)
    try:
        return VmExecutable(module, engine, threads)
    except MdslError as error:
        raise MdslError(f"{os.fspath(path)}: {error}") from None


def parse(program: Program, name: str = "<text>") -> ModuleOp:
    """The verified module of a text or a `.mir` file; of a module, a copy. Raises MdslError."""
    if isinstance(program, ModuleOp):
        return program.clone()
    path = _path(program)
    return parse_text(str(program), name) if path is None else parse_file(path)


def opt(program: Program, pipeline: str, *, target: str | Target | None = None) -> ModuleOp:
    """A new module, on which the passes of `pipeline` ran: "tile{sizes=[8,32]},unroll-dispatch{factor=4}".

    A pass that needs a lower level than the program's gets it: the standard passes run first. Raises MdslError.
    """
    module = parse(program)
    steps, _ = plan(parse_pipeline(pipeline, "pipeline"), level_of(module))
    run_passes(module, [p for lowering, step in steps for p in (*lowering, step)], _target(target))
    return module


def to_bytecode(
    module: ModuleOp,
    *,
    ukernels: bool = True,
    unroll_dispatch: int | None = None,
    target: str | Target | None = None,
    pipeline: str | None = None,
    hooks: Sequence[Hook] = (),
) -> Module:
    """Lowers `module`, in place, as `compile` says. Raises MdslError."""
    source = hashlib.sha256(print_module(module).encode()).hexdigest()
    machine = _target(target)
    check_compilable(module)
    steps = lowering(module, ukernels, unroll_dispatch, pipeline)
    # Whatever a pass left wrong, the bytecode's verifier finds; `mdsl opt` verifies after each.
    run_passes(module, steps, machine, hooks=hooks, verify_each=False)
    provenance = {
        "version": __version__,
        "pipeline": ",".join(map(str, steps)),
        "source": f"sha256:{source}",
        "target": f"{machine.name} ({machine.cpu})",
    }
    try:
        return assemble(module, provenance)
    except VerifyError as error:
        raise MdslError(f"error: {error}") from error


def lowering(
    module: ModuleOp, ukernels: bool, unroll_dispatch: int | None, pipeline: str | None
) -> list[Pass]:
    """The passes that take `module` to the VM's level. Raises MdslError."""
    if unroll_dispatch is not None and unroll_dispatch < 1:
        raise MdslError(f"error: unroll_dispatch must be at least 1, got {unroll_dispatch}")
    signature(module)  # tells of what cannot be compiled before any pass does
    asked = parse_pipeline(pipeline, "pipeline") if pipeline else []
    planned, level = plan(asked, level_of(module))
    stages = ukernel_stages(unroll_dispatch) if ukernels else loop_stages()
    return [*(p for before, step in planned for p in (*before, step)), *passes_from(stages, level)]


def read_bytecode(path: str | os.PathLike[str]) -> Module:
    """The module in an `.mbc` file. Raises MdslError with the byte at fault, OSError."""
    try:
        return load_bytecode(path)
    except BytecodeError as error:
        raise MdslError(f"{os.fspath(path)}: error: {error}") from None


def _check_engine(engine: str, threads: int) -> None:
    from mdsl.vm.runtime import MAX_THREADS

    if engine not in ENGINES:
        raise MdslError(
            f"error: unknown engine '{engine}'{nearest(engine, list(ENGINES))} (engines: {', '.join(ENGINES)})"
        )
    if not 1 <= threads <= MAX_THREADS:
        raise MdslError(f"error: threads must be from 1 to {MAX_THREADS}, got {threads}")


def _target(target: str | Target | None) -> Target:
    if isinstance(target, Target):
        return target
    try:
        return Target.parse(target or "host")
    except TargetError as error:
        raise MdslError(f"error: {error}") from None


def _path(program: str | os.PathLike[str]) -> Path | None:
    """The path that a program's source is, None for a text."""
    if isinstance(program, str) and ("\n" in program or not program.endswith((".mir", ".mbc"))):
        return None
    return Path(program)
