"""`--timing`: how long each pass took."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdsl.compiler.pipeline import Hook
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Pass


@dataclass
class Timing(Hook):
    """Collects the seconds that each pass ran, in order."""

    reads = False
    rows: list[tuple[str, float]] = field(default_factory=list)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        self.rows.append((str(step), seconds))

    def __str__(self) -> str:
        """A table in milliseconds."""
        total = sum(seconds for _, seconds in self.rows)
        rows = [*self.rows, ("total", total)]
        return "".join(
            f"{1e3 * seconds:10.2f} ms {_share(seconds, total)}  {name}\n" for name, seconds in rows
        )


def _share(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:5.1f} %" if total else ""
