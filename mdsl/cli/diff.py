"""`mdsl diff`: what differs between two programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdsl.cli.diffs import Expand, Only, Shown, check_form
from mdsl.cli.files import check_output, read_program
from mdsl.errors import MdslError
from mdsl.support.collector import collector_paused

_FILE = "A .mir or .onnx file; - for .mir on stdin."


@collector_paused()
def diff(
    before: Annotated[str, typer.Argument(help=_FILE, metavar="BEFORE")],
    after: Annotated[str, typer.Argument(help=_FILE, metavar="AFTER")],
    form: Annotated[
        str,
        typer.Option(help="structural, unified (all of the text), side (two columns), stat or json."),
    ] = "structural",
    only: Only = None,
    expand: Expand = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 if there is a difference to show, with 0 if not.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write to this file.")] = None,
) -> None:
    """Show what differs between two programs, weights included: names and the order of lines alone are no difference."""
    from mdsl.report.diff.forms import Form

    check_form("--form", form, only, expand)
    if before == after == "-":
        raise MdslError("error: only one of two programs can be on stdin")
    for program in (before, after):
        check_output(output, program)
    shown = Shown(Form(form), only, expand, output)
    names = ("<stdin>" if program == "-" else program for program in (before, after))
    shown.programs(read_program(before), read_program(after), *names)
    shown.finish()
    if exit_code and shown.found:
        raise typer.Exit(1)
