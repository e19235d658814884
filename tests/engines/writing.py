"""Random programs written line by line, each line at the depth of its block."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random


@dataclass
class LineWriter:
    random: Random
    lines: list[str] = field(default_factory=list)
    counters: list[str] = field(default_factory=list)
    """The counters of the loops around."""
    counter: int = 0
    """How many values have been named."""
    depth: int = 1

    def let(self, code: str, hint: str = "t") -> str:
        """The name of a new value that `code` gives."""
        self.counter += 1
        name = f"%{hint}{self.counter}"
        self.line(f"{name} = {code}")
        return name

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)
