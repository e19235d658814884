"""`mdsl report`: a page about how a program was compiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import check_output, note, read_sized, write_text
from mdsl.cli.load import ProgramFile, Threads, default_output
from mdsl.cli.progress import progress, stoppable
from mdsl.cli.settings import takes_settings
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.errors import MdslError

if TYPE_CHECKING:
    from mdsl.bytecode.module import Module
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.report.page.collect import Times
    from mdsl.target.target import Target


@takes_settings
def report(
    program: ProgramFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write to this file (FILE's name with .html, in the current folder)."
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Run the program and show what each layer takes.")
    ] = True,
    savings: Annotated[
        bool,
        typer.Option(
            "--savings",
            help="Show what each pass saves: the program is compiled and timed without each of them.",
        ),
    ] = False,
    threads: Threads = 1,
    settings: Settings = DEFAULT,
) -> None:
    """Write a page, which needs no network, that shows each pass of the pipeline: what it changed, why, and what that is worth.

    Of an .mbc file it shows the bytecode, its kernels with their assembly, and what each layer takes: it keeps no passes.
    """
    from mdsl.compiler.entry import signature
    from mdsl.report.page import page
    from mdsl.report.page.collect import collected

    place = default_output(program, ".html") if output is None else output
    check_output(place, program)
    if program.lower().endswith(".mbc"):
        if savings:
            raise MdslError(
                f"{program}: error: --savings compiles the program without each pass: it needs what it was compiled from"
            )
        settings.check_compiled(program)
        data, assembly = _compiled(program, threads, measure)
        write_text(page(Path(program).name, _subtitle(settings.machine(), threads), data, assembly), place)
        return
    module, settings = read_sized(program, settings)
    signature(module)  # tells of dimensions without a size
    machine = settings.machine()
    if (measure or savings) and not machine.runs_here:
        note(f"code for {machine.name} does not run here: nothing is measured")
        measure = savings = False
    with progress("compiling") as show, stoppable():
        measured = partial(_times, module, settings, threads) if measure else None
        saved = _saved(module, settings, threads) if savings else {}
        data, assembly = collected(module, settings, measured, saved)
        show("writing")
    write_text(page(Path(program).name, _subtitle(machine, threads), data, assembly), place)


def _subtitle(machine: Target, threads: int) -> str:
    return f"for {machine.name} ({machine.core.name}), {threads} thread{'s' if threads > 1 else ''}"


def _compiled(file: str, threads: int, measure: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """What there is to show of a compiled program."""
    from mdsl.benchmarking.profile import profile_layers
    from mdsl.compiler.entry import closed, random_arrays
    from mdsl.report.page.compiled import compiled
    from mdsl.runtime.executable import VmExecutable
    from mdsl.runtime.loading import read_bytecode, ready
    from mdsl.target.target import Target

    with progress("measuring" if measure else "reading"), stoppable():
        executable = ready(read_bytecode(file), file, "vm", threads)
        assert isinstance(executable, VmExecutable)
        profile = profile_layers(executable, random_arrays(closed(executable.inputs), 0)) if measure else None
        return compiled(executable.module, Target.host(), profile)


def _times(module: ModuleOp, settings: Settings, threads: int, bytecode: Module) -> Times:
    """What the layers of `module` take, whose bytecode that is, by the places of their ops."""
    from mdsl.benchmarking.profile import profile_layers
    from mdsl.compiler.entry import random_arrays
    from mdsl.runtime.executable import VmExecutable

    executable = VmExecutable(bytecode, "vm", threads, target=settings.running())
    found: Times = {}
    for layer in profile_layers(executable, random_arrays(executable.inputs, 0), module).layers:
        seconds, limit = found.get(layer.place, (0.0, 0.0))
        found[layer.place] = (seconds + layer.seconds, limit + layer.limit)
    return found


def _saved(module: ModuleOp, settings: Settings, threads: int) -> dict[str, float]:
    """Seconds of a call that each pass saves, by its name."""
    from mdsl.benchmarking.ablation import pass_ablation
    from mdsl.compiler.entry import random_arrays, signature

    arrays = random_arrays(signature(module)[0], 0)
    rows = pass_ablation(module, arrays, 200, threads, settings)
    return {r.name: r.lost * (r.whole or 0) for r in rows if r.lost is not None and not r.is_noise}
