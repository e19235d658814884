"""What `mdsl` offers to Python; `mdsl/__init__.py` hands it out when it is first asked for."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

from mdsl import __version__, frontends
from mdsl.bytecode.assemble import assemble
from mdsl.bytecode.module import Module
from mdsl.compiler.levels import level_of, plan, standard_passes, without_effect
from mdsl.compiler.pipeline import Hook, parse_pipeline, run_passes
from mdsl.compiler.program_cache import executable_of
from mdsl.compiler.settings import DEFAULT, Settings, SettingsError
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError, SyntaxError_
from mdsl.ir.core import VerifyError
from mdsl.passes.any.box_scalars import BoxScalars, has_scalars
from mdsl.passes.base import Pass, functions
from mdsl.passes.nn.bind import Bind, is_open
from mdsl.runtime.executable import Executable, OpenExecutable, ReferenceExecutable
from mdsl.runtime.loading import check_engine, load
from mdsl.runtime.signature import check_compilable, entry, open_dims, open_signature, signature
from mdsl.support.collector import collector_paused
from mdsl.syntax.parser import parse as parse_text
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto

Program = Union[str, os.PathLike[str], ModuleOp, "ModelProto"]
"""A path (a string that ends in `.mir`, `.onnx` or `.mbc`), a text, a module, or an `onnx.ModelProto`."""


def compile(
    program: Program,
    *,
    engine: str = "vm",
    threads: int = 1,
    ukernels: bool = True,
    unroll_dispatch: int | None = None,
    winograd: bool = True,
    tune: bool = False,
    target: str | Target | None = None,
    pipeline: str | None = None,
    bind: Mapping[str, int] | None = None,
) -> Executable:
    """Compiles a program on any level and makes it ready to be called.

    `engine`: "vm" interprets bytecode, "jit" compiles it as a whole, "reference" runs the program as written
    in NumPy. Without `ukernels` heavy work is scalar loops instead of micro-kernels; `unroll_dispatch` is
    the number of micro-kernels that one instruction issues; without `winograd` every 3x3 convolution is a
    plain sum of products; `tune` measures how each contraction is best tiled (see the passes of these names).
    `pipeline` lists passes to run first, as `mdsl opt --pass-pipeline` takes them; the standard passes finish
    the lowering. `bind` has the sizes of `?` dimensions by name; what it leaves open gets its size from the
    arguments of a call. A module is not altered. Raises MdslError.
    """
    settings = Settings(ukernels, unroll_dispatch, winograd, tune, target, pipeline, bind or {})
    return build(program, settings, engine, threads)


def build(program: Program, settings: Settings, engine: str = "vm", threads: int = 1) -> Executable:
    """As `compile` says. Raises MdslError."""
    check_engine(engine, threads)
    path = _path(program)
    if path is not None and path.suffix.lower() == ".mbc":
        settings.check_compiled(path)
        return load(path, engine=engine, threads=threads)
    module, sizes = _parse_bound(program, settings.bind)
    still_open = set(open_dims(open_signature(module)[0])) - set(sizes)
    if not still_open and engine != "reference":
        return executable_of(module, replace(settings, bind=sizes), engine, threads)
    module, settings = bind_dims(module, sizes), replace(settings, bind={})
    if still_open:
        return OpenExecutable(module, engine, threads, settings)
    return ReferenceExecutable(module, settings)


def parse(program: Program, name: str = "<text>") -> ModuleOp:
    """The verified module of a text, a `.mir` or an `.onnx` file or model; of a module, a copy. Raises MdslError."""
    return _parse_bound(program, {}, name)[0]


def _parse_bound(
    program: Program, sizes: Mapping[str, int], name: str = "<text>"
) -> tuple[ModuleOp, Mapping[str, int]]:
    """As `parse`, and those of the `sizes` that are yet to be bound."""
    if isinstance(program, ModuleOp):
        return program.clone(), sizes
    path = _path(program)
    if path is not None:
        return frontends.read(path, sizes)
    if not isinstance(program, str):
        return frontends.of_model(program, sizes), {}
    try:
        return parse_text(program, name), sizes
    except SyntaxError_:
        if program and not re.search(r"\s", program):  # no text of a program is a single word
            raise MdslError(
                f"{program}: error: neither a program's text nor the name of a program's file, which ends in "
                f"{', '.join(_SUFFIXES)}"
            ) from None
        raise


def opt(program: Program, pipeline: str, *, target: str | Target | None = None) -> ModuleOp:
    """A new module, on which the passes of `pipeline` ran: "tile{sizes=[8,32]},unroll-dispatch{factor=4}".

    A pass that needs a lower level than the program's gets it: the standard passes run first. Raises MdslError.
    """
    machine = Settings(target=target).machine()
    module = parse(program)
    steps, _ = plan(parse_pipeline(pipeline, "pipeline"), level_of(module))
    run_passes(module, [p for lowering, step in steps for p in (*lowering, step)], machine)
    return module


@collector_paused()
def to_bytecode(
    module: ModuleOp,
    settings: Settings = DEFAULT,
    hooks: Sequence[Hook] = (),
    text: str | None = None,
) -> Module:
    """Lowers `module`, in place, and assembles it; `text` is the module's, if the caller has it. Raises MdslError."""
    source = hashlib.sha256((text or print_module(module)).encode()).hexdigest()
    machine = settings.machine()
    bound = binding(module, settings.bind) + boxing(module)
    run_passes(module, bound, machine, hooks=hooks)
    check_compilable(module)
    steps = lowering(module, settings)
    # Whatever a pass left wrong, the bytecode's verifier finds; `mdsl opt` verifies after each.
    run_passes(module, steps, machine, hooks=hooks, verify_each=False)
    provenance = {
        "version": __version__,
        "pipeline": ",".join(map(str, [*bound, *steps])),
        "source": f"sha256:{source}",
        "target": f"{machine.name} ({machine.cpu})",
    }
    try:
        return assemble(module, provenance)
    except VerifyError as error:
        raise MdslError(f"error: {error}") from error


def bind_dims(module: ModuleOp, sizes: Mapping[str, int]) -> ModuleOp:
    """Gives `?` dimensions of `module`, which it alters, their sizes. Raises MdslError."""
    run_passes(module, binding(module, sizes))
    return module


def binding(module: ModuleOp, sizes: Mapping[str, int]) -> list[Pass]:
    """The pass that gives dimensions their sizes and computes shapes, if there is something for it to do."""
    if not sizes and not any(map(is_open, functions(module))):
        return []
    try:
        return [Bind.of(sizes)]
    except ValueError as error:
        raise MdslError(f"error: bind: {error}") from None


def boxing(module: ModuleOp) -> list[Pass]:
    """The pass that makes tensors of the numbers that the program takes and gives, if there are any."""
    function = entry(module)
    return [BoxScalars()] if isinstance(function, FuncOp) and has_scalars(function) else []


def lowering(module: ModuleOp, settings: Settings) -> list[Pass]:
    """The passes that take `module` to the VM's level. Raises MdslError."""
    signature(module)  # tells of what cannot be compiled before any pass does
    late = without_effect(settings, module)
    if late:
        raise SettingsError(
            late, f"cannot be chosen any more: the program is on the {level_of(module)} level"
        )
    asked = parse_pipeline(settings.pipeline, "pipeline") if settings.pipeline else []
    planned, level = plan(asked, level_of(module), settings)
    return [*(p for before, step in planned for p in (*before, step)), *standard_passes(settings, level)]


_SUFFIXES = (".mir", ".mbc", *frontends.SUFFIXES)


def _path(program: Program) -> Path | None:
    """The path that a program's source is, None for anything else."""
    if isinstance(program, str):
        return Path(program) if "\n" not in program and program.lower().endswith(_SUFFIXES) else None
    return Path(program) if isinstance(program, os.PathLike) else None
