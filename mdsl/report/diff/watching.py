"""Hooks that look at what each pass does."""

from __future__ import annotations

from collections.abc import Callable

from mdsl.compiler.history import links
from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.report.diff.compare import compare
from mdsl.report.diff.model import Diff, Snapshot
from mdsl.report.diff.unified import unified
from mdsl.syntax.printer import print_module


class Diffs(Hook):
    """Hands the diff of every pass that changed something to `show`. It refers to the program, which the next pass changes."""

    def __init__(self, show: Callable[[Diff], None]) -> None:
        self.show = show

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.snapshot = Snapshot.take(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        found = compare(self.snapshot, Snapshot(module), str(step))
        if found:
            self.show(found)


class TextDiffs(Hook):
    """Hands the unified diff of the text to `show`, for every pass that changed it."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.text = ""

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.text = print_module(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        text = print_module(module)
        if text != self.text:
            self.show(unified(self.text, text, f"before {step}", f"after {step}"))


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
        self.show(f"// ---- IR after {step} ----\n{print_module(module)}")
