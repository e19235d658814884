"""The program after each pass: on stderr where it changed, or in a folder, a file a pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.report.diff.unified import unified
from mdsl.syntax.printer import print_module


class Changed(Hook):
    """Hands the IR after every pass that changed it to `show`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show
        self.text = ""

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.text = self.text or print_module(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        text = print_module(module)
        if text != self.text:
            self.show(f"// ---- IR after {step} ----\n{text}")
        self.text = text


class Folder(Hook):
    """Writes `00.input.mir` and, for every pass, `07.unroll-dispatch.mir` and `07.unroll-dispatch.diff` into a folder.

    `write` writes a module to a path, `write_text` a text. Raises OSError.
    """

    def __init__(
        self, folder: Path, write: Callable[[ModuleOp, Path], object], write_text: Callable[[str, Path], None]
    ) -> None:
        self.folder, self.write, self.write_text = folder, write, write_text
        self.number = 0
        self.text = ""
        folder.mkdir(parents=True, exist_ok=True)

    def before(self, module: ModuleOp, step: Pass) -> None:
        if self.number == 0:
            self.text = print_module(module)
            self.write(module, self.folder / "00.input.mir")

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.number += 1
        text = print_module(module)
        name = f"{self.number:02}.{step.name}"
        self.write(module, self.folder / f"{name}.mir")
        self.write_text(
            unified(self.text, text, f"before {step}", f"after {step}"), self.folder / f"{name}.diff"
        )
        self.text = text
