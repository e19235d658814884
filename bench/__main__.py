"""`python -m bench [SECTION ...] [--json FILE]`: measures, prints, and says which bounds are kept."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.figures import SECTIONS, Figure


def main(
    sections: Annotated[
        list[str] | None, typer.Argument(help=f"Some of: {', '.join(SECTIONS)}. Default: all.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Measure mdsl's figures. Nothing else should run on the machine meanwhile."""
    unknown = [s for s in sections or [] if s not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"no section '{unknown[0]}': {', '.join(SECTIONS)}")
    console = Console()
    console.print(f"{_machine()}\n")
    table = Table("figure", "measured", "bound", "", box=None)
    figures: list[Figure] = []
    for name in sections or SECTIONS:
        with console.status(f"measuring: {name}"):
            figures += SECTIONS[name]()
    for figure in figures:
        bound = "" if figure.limit is None else f"{figure.bound} {figure.limit:g} {figure.unit}"
        mark = {None: "", True: "[green]kept[/]", False: "[red]missed[/]"}[figure.kept]
        table.add_row(figure.name, f"{figure.value:.3g} {figure.unit}", bound, mark)
    console.print(table)
    if json_file is not None:
        _write(
            json_file,
            json.dumps({"machine": _machine(), "figures": [f.to_json() for f in figures]}, indent=2) + "\n",
        )


def _machine() -> str:
    from mdsl.codegen.target import Target

    return f"{Target.host().name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    typer.run(main)
