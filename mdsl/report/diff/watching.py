"""Hooks that look at what each pass does."""

from __future__ import annotations

from collections.abc import Callable

from mdsl.compiler.history import links
from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.report.diff.compare import compare
from mdsl.report.diff.model import Diff, Snapshot
from mdsl.report.diff.unified import Written
from mdsl.syntax.printer import print_module


class Compared(Hook):
    """Compares the program after each pass with what it was before it."""

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.snapshot = Snapshot.take(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.compared(module, step, compare(self.snapshot, Snapshot(module), str(step)))

    def compared(self, module: ModuleOp, step: Pass, diff: Diff) -> None:
        """Called after `step` with what it changed, if anything. The diff refers to the program, which the next pass changes."""


class Diffs(Compared):
    """Hands the diff of every pass that changed something to `show`."""

    def __init__(self, show: Callable[[Diff], None]) -> None:
        self.show = show

    def compared(self, module: ModuleOp, step: Pass, diff: Diff) -> None:
        if diff:
            self.show(diff)


class TextChanges(Hook):
    """Hands every pass that changed the program's text or weights to `show`, with these before and after it."""

    def __init__(self, show: Callable[[Pass, Written, Written], None]) -> None:
        self.show = show

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.old = Written.of(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        new = Written.of(module)
        if new.differs(self.old):
            self.show(step, self.old, new)


class Idle(Hook):
    """Hands each pass that changed nothing to `show`; `changed` tells whether another one did."""

    def __init__(self, show: Callable[[Pass], None]) -> None:
        self.show = show
        self.changed = False

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.links = links(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        if links(module) == self.links:
            self.show(step)
        else:
            self.changed = True


class Dump(Hook):
    """Hands the IR after every pass to `show`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.show(headed(step, print_module(module)))


def headed(step: Pass, text: str) -> str:
    """The text of the program after a pass, with a line that says so."""
    return f"// ---- IR after {step} ----\n{text}"
