"""IR -> text: canonical, stable, and such that parsing it gives the same IR again.

Names: within one isolated op (a function, a kernel) every value has its own name. Where two ask for the
same one, the older value keeps it and the younger gets a number, so that what a pass adds never renames
what was there. A module's affine maps are written as aliases, `#map`, which it keeps for the same reason
(`ModuleOp.map_names`); an op alone spells its maps out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineMap
from mdsl.ir.attributes import AffineMapAttr, ArrayAttr, Attribute, DictAttr, UnitAttr, name_of_key
from mdsl.ir.core import Op, Region, Value
from mdsl.ir.naming import name_wished, names_under
from mdsl.ir.types import DYNAMIC, FunctionType, Type
from mdsl.support.escapes import one_line
from mdsl.syntax import resources
from mdsl.syntax.assembly import SEGMENTS, plain_number, print_custom


def print_module(
    op: Op, *, generic: bool = False, locations: bool = False, history: bool = False, data: bool = False
) -> str:
    """The text of `op`, ending in a newline.

    `generic` prints every op in the generic form; `locations` adds `loc(...)`; `history` a comment beside each op
    on where it comes from; `data` appends the data of all resources, so that the text stands alone.
    """
    printer = Printer(generic, locations, history)
    if isinstance(op, ModuleOp):
        op.name_maps()
        printer.map_names = op.map_names
    if _is_module(op) and not generic and not op.attributes and not _holds_one_module(op):
        printer.name_values(op)
        for inner in op.body.ops:
            printer.op(inner)
    else:
        printer.op(op)
    text = "".join(f"{line}\n" for line in (*printer.map_definitions(), *printer.lines))
    if data:
        text += resources.print_section(resources.used(op))
    return text


def _is_module(op: Op | None) -> bool:
    return op is not None and op.name == "builtin.module"


def _holds_one_module(module: Op) -> bool:
    """True for a module whose content alone would read as the one module that it holds."""
    return module.body.first is module.body.last and _is_module(module.body.first)


def print_op(op: Op) -> str:
    """One op as text, without a trailing newline; for messages and debugging."""
    return print_module(op).rstrip("\n")


Op.printer = staticmethod(print_op)


class Printer:
    """Lines so far, the one being written, and the names of the values and maps."""

    def __init__(self, generic: bool, locations: bool, history: bool = False) -> None:
        self.generic = generic
        self.locations = locations
        self.history = history
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.map_names: dict[AffineMap, str] = {}
        self.maps_written: set[AffineMap] = set()
        self.indent = 0
        self.parts: list[str] = []

    # Names ------------------------------------------------------------------------------------------------

    def name_values(self, root: Op) -> None:
        """Gives every value defined under `root`, up to nested isolated ops, its name."""
        self.names.update(names_under(root))

    def name(self, value: Value) -> str:
        if value not in self.names:  # an op printed on its own: operands from outside
            self.names[value] = name_wished(value)
        return f"%{self.names[value]}"

    def map(self, attr: AffineMapAttr) -> str:
        """The map's alias; the map itself where it has none."""
        name = self.map_names.get(attr.map)
        if name is None:
            return str(attr)
        self.maps_written.add(attr.map)
        return name

    def map_definitions(self) -> list[str]:
        """The lines that say what the aliases written so far stand for."""
        used = ((m, n) for m, n in self.map_names.items() if m in self.maps_written)
        return [f"{name} = {AffineMapAttr(map)}" for map, name in used]

    # Pieces of a custom form ------------------------------------------------------------------------------

    def token(self, text: str) -> None:
        """Writes `text`, set off by a space (except before a comma)."""
        if text:
            self.parts.append(text if text == "," or not self.parts else f" {text}")

    def values(self, values: Sequence[Value]) -> str:
        return ", ".join(self.name(v) for v in values)

    def types(self, values: Sequence[Value]) -> str:
        return ", ".join(str(v.type) for v in values)

    def function_type(self, op: Op) -> str:
        return str(FunctionType(tuple(v.type for v in op.operands), tuple(v.type for v in op.results)))

    def attribute(self, attr: Attribute, *, typed: bool = False) -> str:
        """`attr` with aliases for its maps; `typed` writes the type of every number."""
        if isinstance(attr, AffineMapAttr):
            return self.map(attr)
        if isinstance(attr, ArrayAttr):
            return f"[{', '.join(self.attribute(v, typed=typed) for v in attr)}]"
        if isinstance(attr, DictAttr):
            return self.attributes(dict(attr.entries), typed=True)
        return str(attr) if typed else plain_number(attr)

    def attributes(self, attrs: Mapping[str, Attribute], *, typed: bool = False) -> str:
        parts = [
            name_of_key(k)
            if isinstance(v, UnitAttr)
            else f"{name_of_key(k)} = {self.attribute(v, typed=typed)}"
            for k, v in attrs.items()
        ]
        return f"{{{', '.join(parts)}}}"

    def dictionary(self, op: Op, *written: str) -> str:
        """The op's attributes but those `written` elsewhere and segment sizes, `{...}` or nothing."""
        shown = {k: v for k, v in op.attributes.items() if k not in (*written, *SEGMENTS)}
        return self.attributes(shown) if shown else ""

    def index_list(self, dynamic: Sequence[Value], static: Sequence[int]) -> str:
        values = iter(dynamic)
        return f"[{', '.join(self.name(next(values)) if s == DYNAMIC else str(s) for s in static)}]"

    def arguments(self, values: Sequence[Value], attrs: Sequence[Mapping[str, Attribute]] = ()) -> str:
        """`(%a: type {attrs}, ...)`."""
        parts = [f"{self.name(v)}: {v.type}" for v in values]
        extra = [f" {self.attributes(a)}" if a else "" for a in attrs] or [""] * len(parts)
        return f"({', '.join(p + e for p, e in zip(parts, extra, strict=True))})"

    def result_types(self, types: Sequence[Type], attrs: Sequence[Mapping[str, Attribute]]) -> str:
        """`type` or `(type {attrs}, ...)`."""
        parts = [f"{t} {self.attributes(a)}" if a else str(t) for t, a in zip(types, attrs, strict=True)]
        return parts[0] if len(parts) == 1 and not any(attrs) else f"({', '.join(parts)})"

    def region(self, region: Region, *, label: bool = False, implicit_end: bool = False) -> None:
        """`{ ... }` over several lines; `label` writes the block's arguments as `^bb0(...)`.

        `implicit_end` leaves out a terminator that says nothing: the parser puts it back.
        """
        self.parts.append(" {" if self.parts else "{")
        self._flush()
        if label and region.block.args:
            self.lines.append(f"{'  ' * self.indent}^bb0{self.arguments(region.block.args)}:")
        self.indent += 1
        op = region.block.first
        while op is not None and not (implicit_end and self.is_bare(op)):
            self.op(op)
            op = op.next
        self.indent -= 1
        self.parts = ["}"]

    @staticmethod
    def is_bare(op: Op) -> bool:
        """True for a terminator that says nothing: no operands, no attributes, nothing in its body."""
        return (
            op.has("terminator")
            and not op.operands
            and not op.attributes
            and all(r.block.first is None for r in op.regions)
        )

    def _flush(self) -> None:
        self.lines.append("  " * self.indent + "".join(self.parts))
        self.parts = []

    # Operations -------------------------------------------------------------------------------------------

    def op(self, op: Op) -> None:
        if op.regions and ("isolated" in op.traits or not self.names):
            self.name_values(op)
        self.parts = []
        first = len(self.lines)
        if op.results:
            self.parts.append(f"{self.values(op.results)} =")
        if self.generic:
            self._generic(op)
        else:
            self.token(op.name)
            print_custom(op, self)
        if self.locations:
            self.token("loc(unknown)" if op.location is None else str(op.location))
        self._flush()
        if self.history and op.location is not None:
            self.lines[first] += f"  // {one_line(op.location.history)}"

    def _generic(self, op: Op) -> None:
        self.token(f'"{op.name}"({self.values(op.operands)})')
        if op.regions:
            self.parts.append(" (")
            for i, region in enumerate(op.regions):
                self.parts.append(", " if i else "")
                # Without a terminator to hold, MLIR would take `{}` for a region that has no block.
                self._generic_region(region, label=op.has("no-terminator") and region.block.first is None)
            self.parts.append(")")
        if op.attributes:
            self.token(self.attributes(op.attributes, typed=True))
        self.token(f": {self.function_type(op)}")

    def _generic_region(self, region: Region, label: bool) -> None:
        if region.block.first is None and not region.block.args and not label:
            self.parts.append("{}")
            return
        self.parts.append("{")
        self._flush()
        if region.block.args or label:
            arguments = self.arguments(region.block.args) if region.block.args else ""
            self.lines.append(f"{'  ' * self.indent}^bb0{arguments}:")
        self.indent += 1
        for op in region.block.ops:
            self.op(op)
        self.indent -= 1
        self.parts = ["}"]
