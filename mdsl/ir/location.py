"""Where an op was written, and the passes that it went through since."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mdsl.ir.attributes import Attribute, quote


@dataclass(frozen=True)
class Location(Attribute):
    """`loc("file":line:column)`, lines and columns from 1; `loc("name")` for what has a name and no line."""

    file: str
    line: int = 0
    column: int = 0
    passes: tuple[str, ...] = ()
    """What has made or rewritten the op since it was read, oldest first; not printed (`history`)."""

    def __str__(self) -> str:
        return (
            f"loc({quote(self.file)}:{self.line}:{self.column})" if self.line else f"loc({quote(self.file)})"
        )

    @property
    def place(self) -> str:
        """`file:line:column`, or the name."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def history(self) -> str:
        """The place and the passes: `net.mir:7:3 <- lower-nn <- fuse`."""
        return " <- ".join((self.place, *self.passes))

    def through(self, step: str) -> Location:
        """The same place after one more pass; a pass that runs again and again counts once."""
        return self if self.passes[-1:] == (step,) else replace(self, passes=(*self.passes, step))

    @property
    def beginning(self) -> str:
        """How a message about the place begins: `file:line:column: `, or `node 'name': `."""
        return f"{self.place}: " if self.line else f"node '{self.file}': "
