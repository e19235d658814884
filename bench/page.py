"""The committed page of results: a section a machine, in it a table for each section of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.figure import Figure

HEAD = """# Results

Written by `python -m bench --markdown bench/RESULTS.md`, a section a machine, each table from one run; times are medians,
in brackets what lies between the first and the last decile.
"""


def measured(
    page: str, machine: Mapping[str, str], found: Mapping[str, Sequence[Figure]], whole: bool
) -> str:
    """The page with what was found on the machine. Other machines' sections stay, and of its own those tables that were
    not measured, if this is not the `whole` suite."""
    name = machine["processor"]
    machines = _parts(page, "## ")
    before = {} if whole else _parts(machines.get(name, ""), "### ")
    tables = {**before, **{section: _table(figures) for section, figures in found.items()}}
    parts = [_description(machine), *(f"### {title}\n\n{text}" for title, text in tables.items())]
    machines[name] = "\n".join(parts)
    return "\n".join([HEAD, *(f"## {title}\n\n{text}" for title, text in machines.items())])


def _parts(text: str, mark: str) -> dict[str, str]:
    """What stands beneath each heading, by the headings."""
    pairs = (part.partition("\n") for part in f"\n{text}".split(f"\n{mark}")[1:])
    return {title: f"{body.strip()}\n" for title, _, body in pairs}


def _description(machine: Mapping[str, str]) -> str:
    rows = [f"| {name} | {text} |" for name, text in machine.items() if name != "processor"]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _table(figures: Sequence[Figure]) -> str:
    lines = ["| figure | measured | bound | | |", "|---|---|---|---|---|"]
    for figure in figures:
        kept = {None: "", True: "kept", False: "**missed**"}[figure.kept]
        cells = [figure.name, figure.measured, figure.wanted, kept, figure.detail]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
