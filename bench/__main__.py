"""`python -m bench [SECTION ...] [--target NAME] [--json FILE] [--markdown FILE]`: measures, and says which bounds are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mdsl.cli.errors import shown
from mdsl.codegen.native import check_executable
from mdsl.frontends.onnx.model import require_onnx
from mdsl.support.files import replacing
from mdsl.target.target import HOST, Target, TargetError

with shown():
    require_onnx()

from bench import mca, page
from bench.figure import Figure
from bench.figures import SECTIONS as BASICS
from bench.machine import describe
from bench.networks import SECTIONS as NETWORKS
from bench.training import TRAINING

GROUPS = {"networks": tuple(NETWORKS), "training": tuple(TRAINING)}
"""Names for several sections."""

ANYWHERE = {"mca": mca.figures}
"""What does not depend on this machine, and so is no part of what is measured by default."""

SECTIONS = {**BASICS, **NETWORKS, **ANYWHERE}


def main(
    sections: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Some of: {', '.join(BASICS)}; {', '.join(NETWORKS)}; networks: the latter all; training: "
            f"those of training steps; {', '.join(ANYWHERE)}. Default: all but the last."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Take this machine for another: avx2, ...; of the peers, those that can be told.",
            metavar="NAME",
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            help="Write them here, into the page's section on this machine; other machines, and what was not asked for, stay.",
        ),
    ] = None,
) -> None:
    """Measure mdsl's figures. Nothing else should run on the machine meanwhile."""
    names = _names(sections)
    if target is not None:
        _take_for(target)
    console = Console()
    machine = describe()
    for name, text in machine.items():
        console.print(f"{name}: {text}", highlight=False)
    found: dict[str, list[Figure]] = {}
    for name in names:
        with console.status(f"measuring: {name}"):
            found[name] = _measured(console, name)
        # What is measured is kept, whatever happens to the next section.
        if json_file is not None:
            _write(json_file, _json(machine, found))
        if markdown is not None:
            before = markdown.read_text() if markdown.is_file() else ""
            _write(markdown, page.measured(before, machine, found, whole=not sections))


def _take_for(name: str) -> None:
    """All that is made and measured from now on, in processes that begin, too, is for the target. It reaches more than
    the setting of a program would: the VM itself, the loops of the peak, what peers are told."""
    try:
        check_executable(Target.parse(name))
    except TargetError as error:
        raise typer.BadParameter(str(error)) from None
    os.environ[HOST] = name


def _measured(console: Console, name: str) -> list[Figure]:
    """The figures of a section, shown as they come, as many as there are until something fails: the other sections go on."""
    figures: list[Figure] = []
    try:
        for figure in SECTIONS[name]():
            figures.append(figure)
            _show(console, figure)
    except Exception:
        console.print(f"{name}: failed")
        console.print_exception()
    return figures


def _names(wanted: list[str] | None) -> list[str]:
    names = [name for w in wanted or [*BASICS, "networks"] for name in GROUPS.get(w, (w,))]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise typer.BadParameter(f"no section '{unknown[0]}': {', '.join(SECTIONS)}")
    return list(dict.fromkeys(names))


def _show(console: Console, figure: Figure) -> None:
    mark = {None: "", True: "[green]kept[/]", False: "[red]missed[/]"}[figure.kept]
    row = f"{escape(figure.name):<90} {figure.measured:>12}  {figure.wanted:<16}"
    console.print(f"{row} {mark}".rstrip(), highlight=False, soft_wrap=True)
    if figure.detail:
        console.print(f"  [dim]{escape(figure.detail)}[/]", highlight=False, soft_wrap=True)


def _json(machine: dict[str, str], found: dict[str, list[Figure]]) -> str:
    figures = [{"section": name, **figure.to_json()} for name, rows in found.items() for figure in rows]
    return json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    typer.run(main)
