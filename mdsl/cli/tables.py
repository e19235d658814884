"""Tables and figures on stdout, as aligned text or, on a terminal, drawn; and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import typer

from mdsl.cli.terminal import styled
from mdsl.support.escapes import one_line

CUT = "..."
"""Stands for the middle of a name that is too long for a table."""

_WIDTHS = (48, 64, 80)
"""Of a name: the first at which no two of a column look alike."""


def shortened(name: str, width: int = _WIDTHS[0]) -> str:
    """A name without its middle if it is long; what has spaces is no name."""
    if len(name) <= width or " " in name:
        return name
    end = (width - len(CUT)) // 2
    return f"{name[: width - len(CUT) - end]}{CUT}{name[-end:]}"


def distinct(names: Sequence[str]) -> list[str]:
    """Names without their middles, as far as they are not taken for one another; the same ones stay the same."""
    for width in _WIDTHS:
        found = [shortened(name, width) for name in names]
        if len(set(found)) == len(set(names)):
            return found
    return list(names)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> None:
    """The columns of `words` to the left, those of figures to the right; `rich` draws it on a terminal. Long names lose their
    middle."""
    columns = [distinct([one_line(cell) for cell in column]) for column in zip(*rows, strict=True)]
    rows = list(zip(*columns, strict=True))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*header, box=None)
        for number, column in enumerate(drawn.columns):
            column.justify = "left" if number in words else "right"
        for row in rows:
            drawn.add_row(*map(Text, row))
        Console(file=styled(sys.stdout)).print(drawn)
        return
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        cells = [
            cell.ljust(width) if number in words else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us"


def count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def megabytes(number: int) -> str:
    return f"{1e-6 * number:,.2f} MB"


def write_json(value: dict[str, Any], path: str) -> None:
    """Writes to the file, which appears whole or not at all; `-` is stdout. Dataclasses are written as objects."""
    from dataclasses import asdict, is_dataclass
    from pathlib import Path

    from mdsl.cli.files import write_text

    def plain(found: object) -> object:
        assert is_dataclass(found) and not isinstance(found, type)
        return asdict(found)

    write_text(f"{json.dumps(value, default=plain, indent=2)}\n", Path(path))
