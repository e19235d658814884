"""`mdsl fmt`: programs in their canonical layout."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from mdsl.errors import MdslError, Source
from mdsl.support.files import replacing


def fmt(
    files: Annotated[
        list[str],
        typer.Argument(
            help=".mir files, or folders with such files; - formats stdin to stdout.", metavar="FILES"
        ),
    ],
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; name the files that are laid out otherwise, exit 1."),
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
    custom: Annotated[
        bool,
        typer.Option(
            "--custom", help="Bring ops of the generic form into the custom one too, in files without errors."
        ),
    ] = False,
) -> None:
    """Lay programs out as mdsl prints them, in lines of at most 100 columns; comments, names and aliases stay.

    A file whose syntax is wrong stays as it is.
    """
    from mdsl.cli.errors import explain

    failed = False
    for file in _all(files):
        try:
            changed = _format(file, check, diff, custom)
        except (MdslError, OSError) as error:
            failed = True
            print(explain(error), file=sys.stderr)
            continue
        failed = failed or (check and changed)
    if failed:
        raise typer.Exit(1)


def _all(files: list[str]) -> Iterator[str]:
    """The files, and those in folders."""
    for file in files:
        if file != "-" and Path(file).is_dir():
            yield from map(str, sorted(Path(file).rglob("*.mir")))
        else:
            yield file


def _format(file: str, check: bool, diff: bool, custom: bool) -> bool:
    """Formats one file; True if that changes it. Raises MdslError, OSError."""
    from mdsl.syntax.custom import customized
    from mdsl.syntax.layout import formatted

    name = "<stdin>" if file == "-" else file
    text = _text(file, name)
    source = Source(name, text)
    if custom:
        source = Source(name, customized(source, None if file == "-" else Path(file).parent))
    new = formatted(source)
    if diff:
        lines = difflib.unified_diff(text.splitlines(), new.splitlines(), name, name, lineterm="")
        sys.stdout.writelines(f"{line}\n" for line in lines)
    if check and text != new:
        print(f"{name}: not formatted", file=sys.stderr)
    if check or diff:
        return text != new
    if file == "-":
        sys.stdout.write(new)
    elif text != new:
        with replacing(Path(file)) as out:
            out.write(new.encode())
    return text != new


def _text(file: str, name: str) -> str:
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise MdslError(f"{name}: error: not a text file (byte {error.start} is not UTF-8)") from None
