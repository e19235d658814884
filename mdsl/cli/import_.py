"""`mdsl import`: a model of another format as a `.mir` program and its weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import check_output, note, write_program
from mdsl.cli.load import default_output
from mdsl.cli.settings import BindOption, bindings
from mdsl.cli.tables import megabytes
from mdsl.errors import MdslError
from mdsl.support.escapes import one_line

if TYPE_CHECKING:
    from mdsl.frontends.onnx import Report


def import_(
    model: Annotated[str, typer.Argument(help="An .onnx file.", metavar="FILE")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write to this file (FILE's name with .mir, in the current folder); - for stdout.",
        ),
    ] = None,
    bind: BindOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="List every node that is not supported, and write nothing.")
    ] = False,
) -> None:
    """Import an ONNX model: its graph as a .mir program, its weights as .safetensors beside it."""
    from mdsl.frontends.onnx import check as check_model
    from mdsl.frontends.onnx import import_onnx

    if check:
        if output is not None:
            raise MdslError("error: --check writes nothing: leave out -o")
        report = check_model(model, bindings(bind))
        _print(report)
        raise typer.Exit(1 if report.problems else 0)
    place = output or default_output(model, ".mir")
    check_output(place, model)
    written = write_program(import_onnx(model, bindings(bind)), place, model)
    if written:
        size = sum(path.stat().st_size for path in written)
        note(f"wrote {' and '.join(map(str, written))} ({megabytes(size)})")


def _print(report: Report) -> None:
    """What is missing, operator by operator, and whether that is all."""
    subjects = Counter(problem.subject for problem in report.problems)
    total = report.supported + subjects["node"] + report.unjudged + len(report.waiting)
    if not report.problems:
        every = "the only node is" if total == 1 else f"all {total} nodes are"
        _say(f"{report.model}: {every} supported")
        _print_waiting(report)
        return
    missing = [f"{subjects['node']} of {_number(total, 'node')}"] if subjects["node"] else []
    missing += [_number(subjects[name], name) for name in ("input", "initializer") if subjects[name]]
    verb = "is" if len(report.problems) == 1 else "are"
    _say(f"{report.model}: {', '.join(missing)} {verb} not supported")
    for group in report.groups():
        first = group[0]
        _say(f"  {first.kind}: {first.reason} ({_number(len(group), first.subject)})")
        for problem in group:
            attributes = ", ".join(f"{k} = {v}" for k, v in problem.attributes.items())
            _say(f"    '{problem.node}'{': ' if attributes else ''}{attributes}")
    if report.unjudged:
        _say(
            f"the operators of all other nodes are supported; {report.unjudged} of them could not be checked further, "
            "for they work on what those above should give"
        )
    elif report.supported:
        _say("all other nodes are supported")
    _print_waiting(report)


def _print_waiting(report: Report) -> None:
    """Which nodes wait for what is known of the inputs at the first call, and for what."""
    if not report.waiting:
        return
    _say("some need more to be known, which --bind or the inputs of the first call tell:")
    for problem in report.waiting:
        _say(
            f"  '{problem.node}' ({problem.kind}): {problem.reason}; depends on {', '.join(problem.decided_by())}"
        )


def _say(line: str) -> None:
    typer.echo(one_line(line))


def _number(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
