"""The compiler's driver: from a module on any level to bytecode."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import mdsl
from mdsl.bytecode.module import Module
from mdsl.compiler.entry import check_compilable, entry, signature
from mdsl.compiler.levels import level_of, plan, standard_passes, without_effect
from mdsl.compiler.measuring import measurer
from mdsl.compiler.pipeline import Hook, parse_pipeline, run_passes
from mdsl.compiler.settings import DEFAULT, Settings, SettingsError
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import MdslError
from mdsl.ir.core import VerifyError
from mdsl.passes.any.box_scalars import BoxScalars, has_scalars
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.nn.bind import Bind, is_open
from mdsl.support.collector import collector_paused
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target


def context_of(machine: Target) -> Context:
    """What passes are given that compile for `machine`."""

    def lower(module: ModuleOp, pipeline: str) -> Module:
        return to_bytecode(module, Settings(target=machine, pipeline=pipeline), consumed=True)

    return Context(machine, measure=measurer(lower, machine))


@collector_paused()
def to_bytecode(
    module: ModuleOp,
    settings: Settings = DEFAULT,
    hooks: Sequence[Hook] = (),
    text: str | None = None,
    start: str | None = None,
    consumed: bool = False,
) -> Module:
    """Lowers `module`, in place, and assembles it; `text` is the module's, if the caller has it. It is on the level
    `start`, or on the one that its ops show. A module that is `consumed` nobody reads afterwards. Raises MdslError."""
    # A command that only rewrites IR needs neither LLVM nor the bytecode.
    from mdsl.bytecode.assemble import assemble
    from mdsl.codegen.llvm_target import cpu_of

    source = hashlib.sha256((text or print_module(module)).encode()).hexdigest()
    machine = settings.machine()
    steps = lower_to(module, settings, hooks=hooks, start=start, consumed=consumed)
    provenance = {
        "version": mdsl.__version__,
        "pipeline": ",".join(map(str, steps)),
        "source": f"sha256:{source}",
        "target": f"{machine.name} ({cpu_of(machine)})",
    }
    try:
        return assemble(module, provenance)
    except VerifyError as error:
        raise MdslError(*error.lines()) from error


def lower_to(
    module: ModuleOp,
    settings: Settings = DEFAULT,
    stop: str = "vm",
    hooks: Sequence[Hook] = (),
    start: str | None = None,
    consumed: bool = False,
) -> list[Pass]:
    """Lowers `module`, in place, from the level `start`, or from the one that its ops show, to the level `stop`; returns
    the passes that ran. A module that is `consumed` nobody reads afterwards. Raises MdslError."""
    context = context_of(settings.machine())
    bound = binding(module, settings.bind) + boxing(module)
    run_passes(module, bound, context, hooks=hooks, consumed=consumed)
    check_compilable(module)
    steps = lowering(module, settings, start, stop)
    # Whatever a pass left wrong, the bytecode's verifier finds; `mdsl opt` verifies after each.
    run_passes(module, steps, context, hooks=hooks, verify_each=False, consumed=consumed)
    return [*bound, *steps]


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


def lowering(module: ModuleOp, settings: Settings, start: str | None = None, stop: str = "vm") -> list[Pass]:
    """The passes that take `module` from the level `start`, or from the one that its ops show, to the level `stop`.
    Raises MdslError."""
    signature(module)  # tells of what cannot be compiled before any pass does
    late = without_effect(settings, module)
    if late:
        raise SettingsError(
            late, f"cannot be chosen any more: the program is on the {level_of(module)} level"
        )
    asked = parse_pipeline(settings.pipeline, "pipeline") if settings.pipeline else []
    planned, level = plan(asked, start or level_of(module), settings)
    return [
        *(p for before, step in planned for p in (*before, step)),
        *standard_passes(settings, level, stop),
    ]
