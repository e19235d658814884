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


class Changes(Hook):
    """Tells passes that changed something from those that did not: `idle` is called with each of the latter; `changed` says
    whether there was another one. What is kept of the program is made anew only where that changed."""

    def __init__(self, idle: Callable[[Pass], None] = lambda step: None) -> None:
        self.idle = idle
        self.changed = False
        self.links: object = None

    def start(self, module: ModuleOp) -> None:
        now = links(module)
        if now != self.links:
            self.links = now
            self.begin(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        now = links(module)
        if now == self.links:
            self.idle(step)
            self.same(module, step)
        else:
            self.changed = True
            self.links = now
            self.altered(module, step)

    def begin(self, module: ModuleOp) -> None:
        """Called in front of passes if the program is not what it was after the last one, or if there was none."""

    def same(self, module: ModuleOp, step: Pass) -> None:
        """Called after a pass that changed nothing."""

    def altered(self, module: ModuleOp, step: Pass) -> None:
        """Called after a pass that changed something."""


class Compared(Changes):
    """Compares the program after each pass with what it was before it."""

    def begin(self, module: ModuleOp) -> None:
        self.last = Snapshot.take(module)

    def same(self, module: ModuleOp, step: Pass) -> None:
        self.compared(module, step, Diff.none(str(step), self.last))

    def altered(self, module: ModuleOp, step: Pass) -> None:
        before, self.last = self.last, Snapshot.take(module)
        self.compared(module, step, compare(before, self.last, str(step)))

    def compared(self, module: ModuleOp, step: Pass, diff: Diff) -> None:
        """Called after `step` with what it changed, if anything."""


class Diffs(Compared):
    """Hands the diff of every pass that changed something to `show`."""

    def __init__(
        self, show: Callable[[Diff], None], idle: Callable[[Pass], None] = lambda step: None
    ) -> None:
        super().__init__(idle)
        self.show = show

    def compared(self, module: ModuleOp, step: Pass, diff: Diff) -> None:
        if diff:
            self.show(diff)


class TextChanges(Changes):
    """Hands every pass that changed the program's text or weights to `show`, with these before and after it."""

    def __init__(
        self, show: Callable[[Pass, Written, Written], None], idle: Callable[[Pass], None] = lambda step: None
    ) -> None:
        super().__init__(idle)
        self.show = show

    def begin(self, module: ModuleOp) -> None:
        self.last = Written.of(module)

    def altered(self, module: ModuleOp, step: Pass) -> None:
        before, self.last = self.last, Written.of(module)
        if self.last.differs(before):
            self.show(step, before, self.last)


class Dump(Hook):
    """Hands the IR after every pass to `show`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.show(headed(step, print_module(module)))


def headed(step: Pass, text: str) -> str:
    """The text of the program after a pass, with a line that says so."""
    return f"// ---- IR after {step} ----\n{text}"
