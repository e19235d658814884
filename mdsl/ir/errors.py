"""The error of a wrong program. It lies apart so that running bytecode does not import the IR."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdsl.ir.core import Op


class VerifyError(Exception):
    """The IR breaks a rule; `op` is where."""

    def __init__(self, message: str, op: Op) -> None:
        super().__init__(f"'{op.name}': {message}")
        self.op = op
