"""`mdsl opt`: run passes on a program and print it, or what each pass did to it."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from mdsl.cli.bare import with_bare_values
from mdsl.cli.diffs import DiffOptions, diff_options
from mdsl.cli.files import check_output, note
from mdsl.cli.opt_run import run_asked
from mdsl.cli.opt_watch import Watch, watching
from mdsl.cli.options import takes
from mdsl.cli.own import LoadOption, load_named
from mdsl.cli.passes import pass_help
from mdsl.cli.progress import progress
from mdsl.cli.remarks import (
    BARE,
    Applied,
    Form,
    Missed,
    RemarksForm,
    RemarksOutput,
    costs,
    remarks_written,
)
from mdsl.errors import MdslError, nearest
from mdsl.passes import pass_names
from mdsl.support.collector import collector_paused
from mdsl.support.escapes import escaped

if TYPE_CHECKING:
    from mdsl.compiler.pipeline import Hook
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.passes.base import Pass
    from mdsl.report.remarks import Remarks


class OptCommand(TyperCommand):
    """A command with a flag for every pass, kept in the order in which they are written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = [name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)] + [
            "--help"
        ]
        load_named(args, own)
        passes = [f"--{name}" for name in pass_names()]
        args = with_bare_values(_joined(args), {**BARE, "--diff": "structural"})
        end = args.index("--") if "--" in args else len(args)
        flags = [a for a in args[:end] if _name(a) in passes]
        for arg, following in pairwise([*args[:end], ""]):
            if arg.startswith("--") and _name(arg) not in (*own, *passes):
                raise MdslError(f"error: no option or pass '{_name(arg)}'{_hint(_name(arg), own, passes)}")
            if arg in passes and _VALUE.fullmatch(following) and not Path(following).exists():
                raise MdslError(f"error: a pass takes its value after '=': {arg}={following}")
        ctx.meta["mdsl.passes"] = flags
        return super().parse_args(ctx, [a for i, a in enumerate(args) if i >= end or a not in flags])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Passes, run in the order given"):
            formatter.write_dl(pass_help())


_VALUE = re.compile(r"\d+([x,.]\d+)*|[\[{].*|true|false")
"""What would be a pass's value and hardly the name of a program's file."""


def _hint(flag: str, own: list[str], passes: list[str]) -> str:
    """What may have been meant by a flag that there is not."""
    if flag.startswith("--no-") and f"--{flag.removeprefix('--no-')}" in passes:
        return ": only the passes that are given run, and the standard ones before them"
    return nearest(flag, own + passes) or "; 'mdsl opt --help' lists them"


def _joined(args: list[str]) -> list[str]:
    """`--bind batch=8` as `--bind=batch=8`: other commands have the option in both forms."""
    found: list[str] = []
    for arg in args:
        if found and found[-1] == "--bind" and re.fullmatch(r"[^\s=]+=\d+(,[^\s=]+=\d+)*", arg):
            found[-1] += f"={arg}"
        else:
            found.append(arg)
    return found


def _name(arg: str) -> str:
    """The flag without its value."""
    return arg.split("=", 1)[0].split("{", 1)[0]


@takes("diffs", diff_options)
@takes("watch", watching)
@collector_paused()
def opt(
    ctx: typer.Context,
    program: Annotated[
        str, typer.Argument(help="A .mir or .onnx file; - for .mir on stdin.", metavar="FILE")
    ],
    pass_pipeline: Annotated[
        str | None,
        typer.Option(help="'tile{sizes=[8,32]},unroll-dispatch{factor=4}': after the passes given as flags."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
    print_ir_after_all: Annotated[
        bool, typer.Option("--print-ir-after-all", help="Print the IR after every pass, on stderr.")
    ] = False,
    verify_each: Annotated[bool, typer.Option(help="Verify the IR after every pass.")] = True,
    check_each: Annotated[
        bool,
        typer.Option(
            "--check-each", help="Run the program before and after each pass on random inputs and compare."
        ),
    ] = False,
    timing: Annotated[
        bool, typer.Option("--timing", help="Print how long each pass took, on stderr.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Print what the program costs before and after each pass asked for."),
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With it the measured time, finished by the standard passes.")
    ] = False,
    remarks: Applied = None,
    remarks_missed: Missed = None,
    remarks_format: RemarksForm = Form.text,
    remarks_output: RemarksOutput = None,
    load: LoadOption = None,
    generic: Annotated[bool, typer.Option("--generic", help="Print every op in the generic form.")] = False,
    history: Annotated[
        bool,
        typer.Option(
            "--history", help="Print beside each op where it comes from, and the passes that made it."
        ),
    ] = False,
    target: Annotated[str, typer.Option(help="The machine to optimise for.")] = "host",
    rewrite_limit: Annotated[
        int | None,
        typer.Option(
            help="Stop the last pass after N rewrites: 'mdsl bisect' says after which.", metavar="N", min=0
        ),
    ] = None,
    run_reproducer: Annotated[
        bool,
        typer.Option(
            "--run-reproducer", help="Run the pass that the file says, as --crash-reproducer wrote it."
        ),
    ] = False,
    *,
    diffs: DiffOptions,
    watch: Watch,
) -> None:
    """Run passes on a program, in the order given, and print the result.

    A pass that needs a lower level than the program's gets it: the standard passes run first, and a note says so.
    """
    from mdsl.cli.files import read_program, write_program
    from mdsl.compiler.pipeline import parse_flag, parse_pipeline
    from mdsl.report.diff.watching import Changes, Dump
    from mdsl.report.timing import Timing
    from mdsl.target.target import Target

    steps = [parse_flag(flag) for flag in ctx.meta["mdsl.passes"]]
    steps += parse_pipeline(pass_pipeline) if pass_pipeline else []
    if run_reproducer:
        from mdsl.cli.reproducer import reproduced

        steps, wanted = reproduced(program)
        target = wanted if wanted and target == "host" else target
    machine = Target.parse(target)
    check_output(output, program, text=diffs.form is None)
    module = read_program(program)
    times = Timing()
    every: list[Hook] = [times, *watch.hooks(program, machine)]
    if print_ir_after_all:
        every.append(Dump(lambda text: print(text, file=sys.stderr)))
    if check_each:
        from mdsl.report.check import Check

        every.append(Check())
    shown = diffs.shown(output)
    telling = progress("checking") if check_each else nullcontext()
    with telling, remarks_written(remarks, remarks_missed, remarks_format, remarks_output, program) as told:

        def idle(step: Pass) -> None:
            note(_unchanged(step, module, told))

        changes = shown.hook(module, idle) if shown else Changes(idle)
        priced = [costs(machine, measure, shown.put if shown else _on_stderr)] if cost or measure else []
        run_asked(
            module,
            steps,
            machine,
            [told, *every],
            [*priced, changes],
            verify_each=verify_each,
            start=watch.compile_from,
            stop=watch.compile_to,
            limit=rewrite_limit,
        )
    if not (steps or watch.compile_to) and (shown or pass_pipeline is not None):
        note("no passes were given")
    if timing:
        sys.stderr.write(str(times))
    watch.finish()
    if shown:
        shown.finish()
    else:
        write_program(module, output, program, generic=generic, history=history)
    if diffs.exit_code and changes.changed:
        raise typer.Exit(1)


def _unchanged(step: Pass, module: ModuleOp, told: Remarks) -> str:
    """What to say of a pass that changed nothing."""
    from mdsl.compiler.levels import level_of
    from mdsl.passes.base import LEVELS

    level = level_of(module)
    if step.level is None or LEVELS.index(level) <= LEVELS.index(step.level):
        return f"pass '{step}' changed nothing: {told.why_unchanged(step)}"
    return f"pass '{step}' changed nothing: it works on the {step.level} level, and the program is on the {level} level"


def _on_stderr(text: str) -> None:
    sys.stderr.write(escaped(text))
