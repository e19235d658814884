"""`--diff`: what a pass did, as a unified diff of the IR."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.syntax.printer import print_module


def unified(before: str, after: str, title: str) -> str:
    """The unified diff of two texts; empty if they are equal."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"before {title}", f"after {title}", lineterm=""
    )
    return "".join(f"{line}\n" for line in lines)


def coloured(diff: str) -> str:
    """The diff with terminal colours."""
    from pygments import highlight
    from pygments.formatters import TerminalFormatter
    from pygments.lexers.diff import DiffLexer

    return highlight(diff, DiffLexer(stripnl=False), TerminalFormatter())


class Diffs(Hook):
    """Hands the diff of every pass to `show`, which gets nothing for a pass that changed nothing;
    `unchanged` is told of such a pass."""

    def __init__(self, show: Callable[[str], None] | None, unchanged: Callable[[Pass], None]) -> None:
        self.show = show
        self.unchanged = unchanged
        self.text = ""

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.text = print_module(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        text = print_module(module)
        if text == self.text:
            self.unchanged(step)
        elif self.show is not None:
            self.show(unified(self.text, text, str(step)))


class Dump(Hook):
    """Hands the IR after every pass to `show`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.show(f"// ---- IR after {step} ----\n{print_module(module)}")
