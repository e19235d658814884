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

    _found: dict[str, Op] | None = None  # by `lookup`; what has been renamed or moved since does not count

    def __eq__(self, other: object) -> bool:
        """Modules are equal if they read the same, names included; other ops are themselves only."""
        return self is other or (isinstance(other, ModuleOp) and repr(self) == repr(other))

    __hash__ = Op.__hash__

    def lookup(self, symbol: str) -> Op | None:
        """The op that defines `@symbol`."""
        known = (self._found or {}).get(symbol)
        if known is None or known.block is not self.body or _name_of(known) != symbol:
            self._found = {str(_name_of(op)): op for op in reversed(self.body.ops) if op.has("symbol")}
        return (self._found or {}).get(symbol)

    def fresh_symbol(self, base: str) -> str:
        """`base`, with a number if the module has it already."""
        taken = {_name_of(op) for op in self.body.ops}
        name, number = base, 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        return name


def _name_of(op: Op) -> str | None:
    name = op.attributes.get("sym_name")
    return name.value if isinstance(name, StringAttr) else None
