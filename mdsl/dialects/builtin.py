"""builtin: the module."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count

from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import AffineMapAttr, ArrayAttr, Attribute, DictAttr, StringAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import ISOLATED, NO_TERMINATOR, STRING, attr, region


class ModuleOp(Op):
    """What a file holds: functions, micro-kernels and constants."""

    name = "builtin.module"
    traits = ISOLATED | NO_TERMINATOR
    assembly = "( $sym_name )? attr-dict-with-keyword $body_region"
    sym_name = attr(STRING, optional=True)
    body_region = region()

    _found: dict[str, Op] | None = None  # by `lookup`; what has been renamed or moved since does not count

    _map_names: dict[AffineMap, str] | None = None  # also of maps that no op has any more: they may come back

    @property
    def map_names(self) -> dict[AffineMap, str]:
        """The alias of each affine map, `#map`, that the text was read with or `name_maps` gave."""
        if self._map_names is None:
            self._map_names = {}
        return self._map_names

    def name_maps(self, ops: Iterable[Op] | None = None) -> None:
        """Gives each affine map of `ops`, by default all of the module's, that has no alias the next one: `#map`, `#map1`, ..."""
        names = self.map_names
        fresh: Iterator[str] | None = None
        for op in self.walk() if ops is None else ops:
            holders = [a for a in op.attributes.values() if isinstance(a, _WITH_MAPS)]
            for map in (m for a in holders for m in _maps_of(a)):
                if map not in names:
                    fresh = fresh or _fresh_names(names.values())
                    names[map] = next(fresh)

    def clone(self, mapping: dict[Value, Value] | None = None) -> ModuleOp:
        """A copy of the module that prints the same: of two values that wish for one name the older one has it, and they keep
        their ages."""
        mapping = {} if mapping is None else mapping
        copy = super().clone(mapping)
        copy.map_names.update(self.map_names)
        for old, new in mapping.items():
            new.serial = old.serial
        return copy

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


_WITH_MAPS = (AffineMapAttr, ArrayAttr, DictAttr)


def _maps_of(attr: Attribute) -> Iterator[AffineMap]:
    """The maps that an attribute is or holds."""
    if isinstance(attr, AffineMapAttr):
        yield attr.map
    elif isinstance(attr, ArrayAttr):
        for value in attr:
            yield from _maps_of(value)
    elif isinstance(attr, DictAttr):
        for _, value in attr.entries:
            yield from _maps_of(value)


def _fresh_names(taken: Iterable[str]) -> Iterator[str]:
    """Aliases with numbers above all that are taken, so that a number that fell free does not change its meaning."""
    numbers = [int(m[1] or 0) for name in taken if (m := re.fullmatch(r"#map(\d{0,9})", name, re.ASCII))]
    return (f"#map{n or ''}" for n in count(max(numbers, default=-1) + 1))
