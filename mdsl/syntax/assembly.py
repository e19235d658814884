"""The custom form of an op, from its declaration's `assembly`: one format string parses and prints it.

    `word`             a literal word or punctuation mark; "(", "[" and "<" enclose what follows up to their partner
    ` `, ``            a space, or none, before a list of indices, which otherwise stands close to a field
    $name              an operand, attribute or region of the declaration
    type($name)        the type (or types) of an operand or result; `type(operands)`, `type(results)` of all
    operands           all operands
    attr-dict          the attributes that the format does not name; `attr-dict-with-keyword` after `attributes`
    functional-type    `(operand types) -> result types`
    indices($a, $b)    `[%i, 0]`: values of the variadic operand `a` among the numbers of the array `b`
    ( ... )?           written if its first field is present

An op with syntax beyond this overrides `parse_custom(cursor)` and `print_custom(printer)`.
"""

from __future__ import annotations

import re
from collections.abc import Set
from functools import cache
from typing import TYPE_CHECKING, Any

from mdsl.ir.attributes import (
    ArrayAttr,
    Attribute,
    DenseArrayAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
)
from mdsl.ir.core import Op, Region, Value
from mdsl.ir.declare import INT, SYMBOL_REF, TYPE, UNIT, Field, fields_of
from mdsl.ir.types import Type, i64
from mdsl.ir.verifier import infer_results
from mdsl.syntax.cursor import Cursor

if TYPE_CHECKING:
    from mdsl.syntax.printer import Printer

UNIFORM = "operands attr-dict `:` functional-type"
"""The form of every op that declares no other: `%y = nn.softmax %x {axis = 1} : (tensor<4xf32>) -> tensor<4xf32>`."""

_CLOSING = {"(": ")", "[": "]", "<": ">"}

SEGMENTS = ("operandSegmentSizes", "resultSegmentSizes")


@cache
def directives(format: str) -> tuple[Any, ...]:
    """The format as nested tuples `(kind, argument...)`; an optional group is `("group", directives)`."""
    tokens = re.findall(r"`[^`]*`|\$\w+|type\([$\w]+\)|indices\(\$\w+, \$\w+\)|[\w-]+|\(|\)\?", format)
    return _sequence(iter(tokens))


def _sequence(tokens: Any, end: str = "") -> tuple[Any, ...]:
    found: list[Any] = []
    for token in tokens:
        if token == end:
            break
        if token == "(":
            found.append(("group", _sequence(tokens, ")?")))
        elif token[1:-1] in _CLOSING:
            found.append(("bracket", token[1:-1], _sequence(tokens, f"`{_CLOSING[token[1:-1]]}`")))
        elif token[0] == "`":
            found.append(("literal", token[1:-1]))
        elif token[0] == "$":
            found.append(("field", token[1:]))
        elif token.startswith("type("):
            found.append(("type", token[5:-1].lstrip("$")))
        elif token.startswith("indices("):
            found.append(("indices", *re.findall(r"\$(\w+)", token)))
        else:
            found.append((token,))
    return tuple(found)


@cache
def _field(declaration: type[Op], name: str) -> Field:
    return next(f for f in declaration.fields if f.name == name)


@cache
def named_fields(declaration: type[Op]) -> frozenset[str]:
    """Attributes that the op's format writes outside its dictionary."""
    return frozenset(re.findall(r"\$(\w+)", declaration.assembly or UNIFORM))


# Parsing --------------------------------------------------------------------------------------------------


def parse_custom(declaration: type[Op], cursor: Cursor) -> Op:
    """The op that the cursor's pieces describe. Raises MdslError."""
    hook = getattr(declaration, "parse_custom", None)
    if hook is not None:
        return hook(cursor)
    parts = _Parts(declaration, cursor)
    parts.read(directives(declaration.assembly or UNIFORM))
    return parts.build()


class _Parts:
    """What has been read of one op so far."""

    def __init__(self, declaration: type[Op], cursor: Cursor) -> None:
        self.declaration = declaration
        self.cursor = cursor
        self.flat: list[Value] | None = None
        self.operands: dict[str, list[Value]] = {}
        self.attributes: dict[str, Attribute] = {}
        self.regions: list[Region] = []
        self.result_types: dict[str, list[Type]] = {}
        self.all_results: list[Type] | None = None

    def read(self, format: tuple[Any, ...]) -> None:
        for directive in format:
            getattr(self, "_" + directive[0].replace("-", "_"))(*directive[1:])

    def _literal(self, text: str) -> None:
        if text.strip():
            self.cursor.expect(text)

    def _bracket(self, opening: str, inner: tuple[Any, ...]) -> None:
        outer = self.cursor
        self.cursor = outer.group(opening)
        self.read(inner)
        self.cursor.end(f"what stands in '{opening}{_CLOSING[opening]}'")
        self.cursor = outer

    def _group(self, format: tuple[Any, ...]) -> None:
        first = format[0]
        present = (
            self.cursor.sees(first[1])
            if first[0] == "literal"
            else self.cursor.sees_token(
                "VALUE" if _field(self.declaration, first[1]).kind == "operand" else "SYMBOL"
            )
        )
        if present:
            self.read(format)

    def _field(self, name: str) -> None:
        field = _field(self.declaration, name)
        cursor = self.cursor
        if field.kind == "region":
            self.regions.append(cursor.region("isolated" in self.declaration.traits))
        elif field.kind == "operand":
            self.operands[name] = cursor.values() if field.variadic else [cursor.value()]
        elif field.constraint is SYMBOL_REF:
            self.attributes[name] = SymbolRefAttr(cursor.symbol())
        elif name == "sym_name":
            self.attributes[name] = StringAttr(cursor.symbol())
        elif field.constraint is INT:
            self.attributes[name] = IntegerAttr(cursor.integer())
        elif field.constraint is UNIT:
            self.attributes[name] = UnitAttr()
        elif cursor.sees_token("WORD") and not cursor.sees("true") and not cursor.sees("false"):
            self.attributes[name] = StringAttr(cursor.word())
        else:
            self.attributes[name] = cursor.attribute()

    def _operands(self) -> None:
        self.flat = self.cursor.values()

    def _attr_dict(self) -> None:
        self.attributes.update(self.cursor.attr_dict())

    def _attr_dict_with_keyword(self) -> None:
        self.attributes.update(self.cursor.attr_dict(keyword=True))

    def _functional_type(self) -> None:
        start = self.cursor.at
        type = self.cursor.function_type()
        self.cursor.typed(self._flat(), type.inputs, start)
        self.all_results = list(type.results)

    def _indices(self, values: str, numbers: str) -> None:
        dynamic, static = self.cursor.index_list()
        self.operands[values] = dynamic
        self.attributes[numbers] = DenseArrayAttr(i64, tuple(static))

    def _type(self, name: str) -> None:
        start = self.cursor.at
        if name in ("operands", "results"):
            types = self.cursor.types()
            if name == "operands":
                self.cursor.typed(self._flat(), types, start)
            else:
                self.all_results = types
            return
        field = _field(self.declaration, name)
        types = self.cursor.types() if field.variadic else [self.cursor.type()]
        if field.kind == "operand":
            self.cursor.typed(self.operands[name], types, start)
        elif "same-type" in self.declaration.traits:
            self.cursor.typed(self._flat(), types * len(self._flat()), start)
            self.result_types[name] = types
        else:
            self.result_types[name] = types

    def _flat(self) -> list[Value]:
        if self.flat is not None:
            return self.flat
        return [
            v for f in self.declaration.fields if f.kind == "operand" for v in self.operands.get(f.name, [])
        ]

    def build(self) -> Op:
        declaration = self.declaration
        groups = [self.operands.get(f.name, []) for f in declaration.fields if f.kind == "operand"]
        if self.flat is None:
            self.attributes.update(declaration.segments(groups))
        op = declaration.from_parts(self._flat(), [], self.attributes, self.regions)
        written = self._written_results()
        if written is None:
            infer_results(op)
        else:
            op.set_result_types(written)
        return op

    def _written_results(self) -> list[Type] | None:
        """The result types that the text has; None if it leaves them to be inferred."""
        if self.all_results is not None:
            return self.all_results
        fields = [f for f in self.declaration.fields if f.kind == "result"]
        if all(f.name in self.result_types for f in fields):
            return [t for f in fields for t in self.result_types[f.name]]
        return None


# Printing -------------------------------------------------------------------------------------------------


def print_custom(op: Op, printer: Printer) -> None:
    """Writes the op's custom form (without results and name)."""
    hook = getattr(op, "print_custom", None)
    if hook is not None:
        hook(printer)
    else:
        _write(op, printer, directives(op.assembly or UNIFORM))


def _write(op: Op, printer: Printer, format: tuple[Any, ...]) -> None:
    after_name = False  # `%source[%i, 0]`: the first list stands close
    for directive in format:
        match directive:
            case ("literal", text):
                printer.token(text.strip())
            case ("bracket", opening, inner):
                before, printer.parts = printer.parts, []
                _write(op, printer, inner)
                printer.parts = [*before, opening, *printer.parts, _CLOSING[opening]]
            case ("group", inner):
                if _present(op, inner):
                    _write(op, printer, inner)
            case ("field", name):
                _write_field(op, printer, _field(type(op), name))
            case ("type", "operands"):
                printer.token(", ".join(str(v.type) for v in op.operands))
            case ("type", "results"):
                printer.token(", ".join(str(v.type) for v in op.results))
            case ("type", name):
                found = getattr(op, name)
                values = found if isinstance(found, list) else [found]
                printer.token(", ".join(str(v.type) for v in values))
            case ("operands",):
                printer.token(printer.values(op.operands))
            case ("indices", values, numbers):
                text = printer.index_list(getattr(op, values), op.attr(numbers) or [])
                printer.parts.append(text if after_name else f" {text}")
            case ("functional-type",):
                printer.token(printer.function_type(op))
            case ("attr-dict",):
                printer.token(dictionary(op, printer))
            case ("attr-dict-with-keyword",):
                text = dictionary(op, printer)
                printer.token(f"attributes {text}" if text else "")
            case _:
                raise AssertionError(directive)
        after_name = directive[0] == "field" or directive == ("literal", "")


def _present(op: Op, format: tuple[Any, ...]) -> bool:
    """True if the first field that the group names is there."""
    name = next(d[1] for d in format if d[0] in ("field", "type"))
    field = _field(type(op), name)
    return name in op.attributes if field.kind == "attribute" else bool(getattr(op, name))


def _write_field(op: Op, printer: Printer, field: Field) -> None:
    if field.kind == "region":
        printer.region(op.regions[fields_of(type(op), "region").index(field)], label=field.variadic)
        return
    if field.kind == "operand":
        found = getattr(op, field.name)
        printer.token(printer.values(found if isinstance(found, list) else [] if found is None else [found]))
        return
    value = op.attributes.get(field.name, field.default)
    if field.name == "sym_name" and isinstance(value, StringAttr):
        printer.token(str(SymbolRefAttr(value.value)))
    elif (
        isinstance(value, StringAttr)
        and re.fullmatch(r"[A-Za-z_]\w*", value.value, re.ASCII)
        and field.constraint is not TYPE
    ):
        printer.token(value.value)
    elif isinstance(value, IntegerAttr) and field.constraint is INT:
        printer.token(str(value.value))
    elif value is not None:
        printer.token(printer.attribute(value, typed=not isinstance(value, ArrayAttr)))


def dictionary(op: Op, printer: Printer, hidden: Set[str] | None = None) -> str:
    """The attributes that the custom form does not write elsewhere, `{...}` or nothing."""
    if not op.attributes:
        return ""
    hidden = (named_fields(type(op)) if hidden is None else hidden) | set(SEGMENTS)
    if "operands" in (op.assembly or UNIFORM).split() and any(k in op.attributes for k in SEGMENTS):
        hidden -= set(SEGMENTS)
    shown = {k: v for k, v in op.attributes.items() if k not in hidden}
    return printer.attributes(shown) if shown else ""


def plain_number(attr: Attribute) -> str:
    """An attribute in a dictionary or list, where numbers of i64 and f64 need no type."""
    if isinstance(attr, IntegerAttr) and attr.type == i64:
        return str(attr.value)
    if isinstance(attr, FloatAttr) and str(attr.type) == "f64":
        return str(attr).removesuffix(" : f64") if "." in str(attr) else str(attr)
    return str(attr)


__all__ = [
    "UNIFORM",
    "dictionary",
    "directives",
    "parse_custom",
    "plain_number",
    "print_custom",
]
