"""The options of `mdsl opt` and `mdsl diff` about diffs: what is shown, where, and in which form."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdsl.cli.files import note, write_text
from mdsl.cli.terminal import styled, takes_colours
from mdsl.errors import MdslError, nearest

if TYPE_CHECKING:
    from mdsl.dialects.builtin import ModuleOp
    from mdsl.passes.base import Pass
    from mdsl.report.diff.forms import Form
    from mdsl.report.diff.model import Diff
    from mdsl.report.diff.unified import Written
    from mdsl.report.diff.watching import Changes

FORMS = ("structural", "unified", "side", "stat", "json")


@dataclass(frozen=True)
class DiffOptions:
    """What the options ask for; `form` is one of `FORMS`, None for no diff."""

    form: str | None
    only: str | None
    expand: bool
    exit_code: bool

    def shown(self, output: Path | None) -> Shown | None:
        """What shows the diffs."""
        from mdsl.report.diff.forms import Form

        return None if self.form is None else Shown(Form(self.form), self.only, self.expand, output)


Only = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of a diff, what is about a function, a layer (its place in the source) or an op; * stands for anything.",
    ),
]
Expand = Annotated[
    bool,
    typer.Option("--expand", help="Of a diff, show each of the rewrites that are alike, and every line."),
]


def diff_options(
    diff: Annotated[
        str | None,
        typer.Option(
            metavar="[=FORM]",
            help="Print (or, with -o, write) what each pass did instead of the program: structural (the default), "
            "unified (all of the text), side (two columns), stat or json.",
        ),
    ] = None,
    only: Only = None,
    expand: Expand = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code", help="End with 1 if a pass asked for changed something, with 0 if none did."
        ),
    ] = False,
) -> DiffOptions:
    """What the options ask for. Raises MdslError for a form that there is not, and for what only other forms have."""
    check_form("--diff", diff, only, expand)
    return DiffOptions(diff, only, expand, exit_code)


def check_form(option: str, form: str | None, only: str | None, expand: bool) -> None:
    """Raises MdslError for a `form` that there is not, and for options that go with other forms."""
    if form is not None and form not in FORMS:
        hint = nearest(form, list(FORMS)) or ""
        raise MdslError(f"error: {option} has no form '{form}'{hint}; forms: {', '.join(FORMS)}")
    for name, given in (("--only", only is not None), ("--expand", expand)):
        if given and form in (None, "unified"):
            raise MdslError(f"error: {name} goes with {option} in another form than unified")


@dataclass
class Shown:
    """Shows each diff as soon as it is known, on stdout; one that goes into a file, and JSON, is written by `finish`."""

    form: Form
    only: str | None = None
    expand: bool = False
    output: Path | None = None
    texts: list[str] = field(default_factory=list[str])
    data: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    found: bool = False
    """Whether there was something to show."""
    places: frozenset[str] = frozenset()
    """Where that was written which `only` means."""

    def hook(self, module: ModuleOp, idle: Callable[[Pass], None]) -> Changes:
        """Of passes that begin with `module`; `idle` is called with each that changes nothing."""
        from mdsl.report.diff.forms import Form, places_called
        from mdsl.report.diff.unified import unified
        from mdsl.report.diff.watching import Diffs, TextChanges

        self.places = places_called(module, self.only) if self.only is not None else frozenset()
        if self.form is not Form.UNIFIED:
            return Diffs(self._show, idle)

        def show(step: Pass, before: Written, after: Written) -> None:
            self._unified(unified(before, after, f"before {step}", f"after {step}"))

        return TextChanges(show, idle)

    def programs(self, before: ModuleOp, after: ModuleOp, old: str, new: str, title: str = "") -> None:
        """Shows what differs between two programs, which are called `old` and `new`, and their difference `title`."""
        from mdsl.report.diff.compare import compare
        from mdsl.report.diff.forms import Form, places_called
        from mdsl.report.diff.model import Snapshot
        from mdsl.report.diff.unified import Written, unified

        if self.form is Form.UNIFIED:
            self._unified(unified(Written.of(before), Written.of(after), old, new))
            return
        if self.only is not None:
            self.places = places_called(before, self.only) | places_called(after, self.only)
        self._show(compare(Snapshot(before), Snapshot(after), title or f"{old} -> {new}"))

    def finish(self) -> None:
        from mdsl.report.diff.forms import Form

        if self.form is Form.JSON:
            self.texts.append(f"{json.dumps(self.data, indent=1)}\n")
        if self.only is not None and not self.found:
            note(f"no change is about '{self.only}'")
        write_text("".join(self.texts), self.output)

    def put(self, text: str) -> None:
        """Shows a line that goes with the diff that comes next."""
        if self.form.value != "json":
            self._put(text, escaped=False)

    def _show(self, diff: Diff) -> None:
        from mdsl.report.diff.forms import Form, data, only, written
        from mdsl.report.diff.text import WIDTH, Style

        diff = diff if self.only is None else only(diff, self.only, self.places)
        self.found = self.found or bool(diff)
        if self.form is Form.JSON:
            self.data.append(data(diff))
        elif diff:
            terminal = self._at_once and sys.stdout.isatty()
            width = shutil.get_terminal_size((WIDTH, 0)).columns if terminal else WIDTH
            self._put(
                written(diff, self.form, Style(self.expand, max(40, width), self._coloured)), escaped=True
            )

    def _unified(self, text: str) -> None:
        self.found = self.found or bool(text)
        if self._coloured:
            from mdsl.report.diff.colours import coloured_unified

            self._put(coloured_unified(text), escaped=True)
        else:
            self._put(text, escaped=False)

    @property
    def _coloured(self) -> bool:
        return self._at_once and takes_colours(sys.stdout)

    @property
    def _at_once(self) -> bool:
        return self.output is None or str(self.output) == "-"

    def _put(self, text: str, *, escaped: bool) -> None:
        if not self._at_once:
            self.texts.append(text)
        else:
            (styled(sys.stdout) if escaped else sys.stdout).write(text)
