"""The program after each pass in a folder, a file a pass, and what the pass changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass
from mdsl.report.diff.model import Diff
from mdsl.report.diff.watching import Compared


class Folder(Compared):
    """Writes `00.input.mir` and, for every pass, `07.unroll-dispatch.mir` and `07.unroll-dispatch.diff` into a folder.

    `write` writes a module to a path, `write_text` a text. Raises OSError.
    """

    def __init__(
        self, folder: Path, write: Callable[[ModuleOp, Path], object], write_text: Callable[[str, Path], None]
    ) -> None:
        super().__init__()
        self.folder, self.write, self.write_text = folder, write, write_text
        self.number = 0
        folder.mkdir(parents=True, exist_ok=True)

    def before(self, module: ModuleOp, step: Pass) -> None:
        if self.number == 0:
            self.write(module, self.folder / "00.input.mir")

    def compared(self, module: ModuleOp, step: Pass, diff: Diff) -> None:
        self.number += 1
        name = f"{self.number:02}.{step.name}"
        self.write(module, self.folder / f"{name}.mir")
        self.write_text(str(diff), self.folder / f"{name}.diff")
