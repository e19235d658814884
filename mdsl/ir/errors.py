"""The error of a wrong program. It lies apart so that running bytecode does not import the IR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdsl.errors import WIDTH

if TYPE_CHECKING:
    from mdsl.ir.core import Op


class VerifyError(Exception):
    """The IR breaks a rule; `op` is where."""

    def __init__(self, message: str, op: Op) -> None:
        super().__init__(f"'{op.name}': {message}")
        self.op = op

    def lines(self, what: str = "") -> tuple[str, str]:
        """The message as a user reads it, `file:line:col: error: what: ...` with the kernel that the op stands in, and the
        op below it."""
        around = [self.op, *self.op.ancestors()]
        at = next((origin for op in around if (origin := op.origin) is not None), None)
        kernel = next((op for op in around if op.name == "ukernel.func"), None)
        inside = f"micro-kernel @{kernel.attr('sym_name')}: " if kernel is not None else ""
        place = at.beginning if at else ""
        if place.startswith("micro-kernel "):
            inside = ""  # the text of one kernel, as bytecode holds it
        shown = repr(self.op).split("\n", 1)[0]
        shown = shown if len(shown) <= WIDTH else f"{shown[:WIDTH]}..."
        return f"{place}error: {f'{what}: ' if what else ''}{inside}{self}", f"  {shown}"
