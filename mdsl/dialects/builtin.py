"""builtin: the module."""

from __future__ import annotations

from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Op
from mdsl.ir.declare import ISOLATED, NO_TERMINATOR, STRING, attr, region


class ModuleOp(Op):
    """What a file holds: functions, micro-kernels and constants."""

    name = "builtin.module"
    traits = ISOLATED | NO_TERMINATOR
    assembly = "( $sym_name )? attr-dict-with-keyword $body_region"
    sym_name = attr(STRING, optional=True)
    body_region = region()

    def lookup(self, symbol: str) -> Op | None:
        """The op that defines `@symbol`."""
        for op in self.body.ops:
            if op.has("symbol") and op.attributes.get("sym_name") == StringAttr(symbol):
                return op
        return None

    def fresh_symbol(self, base: str) -> str:
        """`base`, with a number if the module has it already."""
        name, number = base, 0
        while self.lookup(name) is not None:
            number += 1
            name = f"{base}_{number}"
        return name
