"""`mdsl bisect`: which pass makes a program wrong, and which of its rewrites."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import note, read_bound, write_program
from mdsl.cli.progress import progress
from mdsl.cli.settings import takes_settings
from mdsl.cli.testing import TIMEOUT, Timeout, testing
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.support.escapes import one_line

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.report.bisect import Culprit, Rewriting
    from mdsl.report.judging import Judge, Script


@takes_settings
def bisect(
    program: Annotated[
        str,
        typer.Argument(
            help="A .mir file on any level, or an .onnx file; - for .mir on stdin.", metavar="FILE"
        ),
    ],
    test: Annotated[
        str | None,
        typer.Option(
            help="A command that is given a program's file, and ends with exit code 0 if it is wrong, 125 if it cannot tell. "
            "Without it, the result is compared with what the program computes before any pass.",
            metavar="COMMAND",
        ),
    ] = None,
    timeout: Timeout = TIMEOUT,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.", min=0)] = 0,
    settings: Settings = DEFAULT,
) -> None:
    """Find the pass that makes the result wrong, and which rewrite of that pass. Exit code 1 if there is one."""
    from mdsl.compiler.driver import binding, boxing, context_of, lowering
    from mdsl.compiler.pipeline import run_passes
    from mdsl.report.bisect import bisect as search

    module, sizes = read_bound(program, settings.bind)
    settings = replace(settings, bind=sizes)
    context = context_of(settings.machine())
    run_passes(module, binding(module, sizes), context)
    steps = [*boxing(module), *lowering(module, settings)]
    tested = testing(test, timeout) if test is not None else nullcontext()
    with tested as script, progress(f"running {program}"):
        judge = _judge(module, script, seed, program)
        found = search(module, steps, context, judge)
        wrong = "" if found else _bytecode_is_wrong(module, judge, settings)
    if found:
        _print(found, program, settings)
    elif wrong:
        print(f"every pass keeps the result, and the bytecode does not: {wrong}")
    else:
        print(f"none of {len(steps)} passes makes the program wrong")
        return
    sys.exit(1)


def _judge(module: ModuleOp, script: Script | None, seed: int, program: str) -> Judge:
    from mdsl.report.judging import Reference, ScriptJudge

    if script is None:
        return Reference(module, seed)
    return ScriptJudge(script, lambda candidate, path: write_program(candidate, path, program))


def _bytecode_is_wrong(lowered: ModuleOp, judge: Judge, settings: Settings) -> str:
    """What is wrong with what the machine code of the lowered program computes, if that is compared."""
    from mdsl.compiler.driver import to_bytecode
    from mdsl.report.judging import Reference
    from mdsl.runtime.executable import VmExecutable

    if not isinstance(judge, Reference):
        return ""
    if not settings.machine().runs_here:
        note(f"code for {settings.machine().name} does not run here: the bytecode is not compared")
        return ""
    bytecode = to_bytecode(lowered, Settings(target=settings.target))
    results = VmExecutable(bytecode, "vm", 1, None, settings.running())(*judge.inputs)
    return judge.difference(list(results) if isinstance(results, tuple) else [results])


def _print(found: Culprit, program: str, settings: Settings) -> None:
    from mdsl.compiler.own_passes import files_of

    names = ", ".join(str(step) for step in found.steps[found.first - 1 : found.last])
    if found.first < found.last:
        print(
            f"one of the passes {found.first} to {found.last} of {len(found.steps)} makes the program wrong: {names}"
        )
    else:
        print(f"pass {found.last} of {len(found.steps)} makes the program wrong: {names}")
    print(one_line(f"  {found.wrong}".split("\n")[0]))
    if found.rewriting is None:
        if found.first == found.last:
            print("  not by one of its rewrites that are counted")
        return
    _print_rewriting(found.rewriting)
    steps = found.steps[: found.last]
    pipeline = ",".join(map(str, steps))
    load = "".join(f"--load {shlex.quote(str(file))} " for file in files_of(steps))
    target = f" --target={settings.target}" if settings.target else ""
    sizes = ",".join(f"{name}={size}" for name, size in settings.bind.items())
    bind = f" --bind={shlex.quote(sizes)}" if sizes else ""
    note(
        "the program after it: "
        f"mdsl opt {load}--pass-pipeline={shlex.quote(pipeline)} --rewrite-limit={found.rewriting.last}{target}{bind} {shlex.quote(program)}"
    )


def _print_rewriting(found: Rewriting) -> None:
    from mdsl.cli.diffs import Shown
    from mdsl.report.diff.forms import Form

    place = one_line(f" at {found.place.place}") if found.place else ""
    if found.first < found.last:
        print(
            f"one of its rewrites {found.first} to {found.last} of {found.count} does, the last of {found.kind}{place}"
        )
    else:
        print(f"rewrite {found.last} of {found.count} does: {found.kind}{place}")
    title = f"rewrite {found.last}"
    Shown(Form.STRUCTURAL).programs(found.before, found.after, f"before {title}", f"after {title}", title)
