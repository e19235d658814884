"""The custom form for every op of a text, which otherwise stays as its author wrote it.

The text is read as tokens, for its comments and its names, and as IR, which knows what an op in the generic form is; that one
is written anew, with its regions' text inside it. What would be lost by that keeps the generic form: a comment
between the op's words, an alias that is not of an affine map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lark import Token

from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import Source
from mdsl.ir.core import Region, Value
from mdsl.syntax.assembly import print_custom
from mdsl.syntax.grammar import lark, marked, parse_tree
from mdsl.syntax.operations import Parser
from mdsl.syntax.parser import parse
from mdsl.syntax.printer import Printer, print_module
from mdsl.syntax.resources import Resources

_CLOSING = {"(": ")", "{": "}", "[": "]", "<": ">"}


def customized(source: Source, folder: Path | None = None) -> str:
    """The text with its ops in the custom form, not laid out. `folder` is where its weights lie. Raises MdslError, with all
    errors of the text."""
    before = parse(source.text, source.name, folder)
    reader = _Reader(source, Resources(source, folder))
    module = reader.file(parse_tree(source))
    text = _Writer(source, reader, module).text()
    after = parse(text, source.name, folder)
    assert print_module(after, generic=True) == print_module(before, generic=True), "the program changed"
    return text


class _Reader(Parser):
    """Remembers how each value is written."""

    def __init__(self, source: Source, found: Resources) -> None:
        super().__init__(source, found)
        self.names: dict[Value, str] = {}

    def define(self, name: str, value: Value, token: Token) -> None:
        super().define(name, value, token)
        self.names[value] = name


@dataclass(frozen=True)
class _Generic:
    """The tokens of an op in the generic form, by their numbers."""

    begin: int
    """Its results, or its name."""
    name: int
    bodies: list[tuple[int, int]]
    """What the braces of each region hold: the first token, and the closing brace."""
    location: int
    """Behind its type."""
    end: int
    """Behind all of it."""

    @property
    def words(self) -> Iterator[int]:
        """Those that are written anew: all but the first, what regions hold, and the location."""
        inside = {place for first, last in self.bodies for place in range(first, last + 1)}
        return (place for place in range(self.begin + 1, self.location) if place not in inside)


class _Writer(Printer):
    """Copies the text, and prints the ops in it that have the generic form."""

    def __init__(self, source: Source, reader: _Reader, module: ModuleOp) -> None:
        super().__init__(generic=False, locations=False)
        self.source = source.text
        self.names, self.map_names = reader.names, module.map_names
        self.places = {op: start for op, (start, _) in reader.spans.items()}
        self.ops = {start: op for op, start in self.places.items()}
        self.tokens = list(lark().parse_interactive(marked(source), start="file").iter_parse())
        self.bodies: dict[Region, tuple[int, int]] = {}
        """Of the ops that are being printed."""

    def text(self) -> str:
        return self._copied(0, len(self.tokens), 0) + self.source[self._end(len(self.tokens)) :]

    def _start(self, at: int) -> int:
        return self.tokens[at].start_pos or 0

    def _end(self, at: int) -> int:
        """Where the token before `at` ends."""
        return (self.tokens[at - 1].end_pos or 0) if at else 0

    def _copied(self, first: int, last: int, start: int) -> str:
        """The text from `start`, the gap before token `first`, to the end of what stands before token `last`."""
        parts: list[str] = []
        at = first
        while at < last:
            op = self._generic_op(at) if self.tokens[at].type == "GENERIC_NAME" else None
            new = None if op is None else self._converted(op)
            if op is None or new is None:
                at += 1
                continue
            parts += [self.source[start : self._start(op.begin)], new]
            at, start = op.end, self._end(op.end)
        return "".join([*parts, self.source[start : self._end(last)]])

    # What there is ----------------------------------------------------------------------------------------

    def _group(self, at: int) -> int:
        """Behind the bracket that `at` opens, or `at` if it opens none."""
        depth = 0
        for place in range(at, len(self.tokens)):
            word = str(self.tokens[place])
            depth += (word in _CLOSING) - (word in _CLOSING.values())
            if depth <= 0:
                return place + (word in _CLOSING.values() and place > at)
        return at

    def _generic_op(self, name: int) -> _Generic:
        """The op of that name: operands, properties, regions, attributes, type, location."""
        tokens = self.tokens
        at = self._group(name + 1)
        at = self._group(at) if tokens[at] == "<" else at
        bodies: list[tuple[int, int]] = []
        if tokens[at] == "(":
            end, at = self._group(at), at + 1
            while at < end:
                behind = self._group(at)
                bodies.append((at + 1, behind - 1))
                at = behind + 1  # a comma, or the end
        at = self._group(at) + 1  # attributes and a colon
        at = self._group(at) + 1  # operand types and an arrow
        location = self._group(at) if tokens[at] == "(" else at + 1
        located = location < len(tokens) and tokens[location] == "loc"
        end = self._group(location + 1) if located else location
        return _Generic(name - (tokens[name - 1].type == "RESULTS" and name > 0), name, bodies, location, end)

    def _is_lost(self, at: int) -> bool:
        """True for a word that the custom form would not have, or with a comment in front of it."""
        token = self.tokens[at]
        alias = token.type in ("TYPE_ALIAS", "ATTR_ALIAS") and token not in self.map_names.values()
        return alias or "//" in self.source[self._end(at) : self._start(at)]

    # Printing ---------------------------------------------------------------------------------------------

    def _converted(self, written: _Generic) -> str | None:
        """The op in the custom form; None if that would lose something."""
        op = self.ops[self._start(written.name)]
        if any(map(self._is_lost, written.words)):
            return None
        self.bodies.update(zip(op.regions, written.bodies, strict=False))
        outer, self.parts = self.parts, []
        if written.begin < written.name:
            self.parts.append(self.source[self._start(written.begin) : self._end(written.name)])
        self.token(op.name)
        print_custom(op, self)
        self.token(self.source[self._end(written.location) : self._end(written.end)].strip())
        text, self.parts = "".join(self.parts), outer
        return text

    def region(self, region: Region, *, label: bool = False, implicit_end: bool = False) -> None:
        """The region's text in braces, without the label and the terminator that the custom form leaves out."""
        self.parts.append(" {" if self.parts else "{")
        if region in self.bodies:
            first, last = self.bodies[region]
            begin = self._end(first)
            if self.tokens[first].type == "LABEL" and not label:
                self.parts.append(self.source[begin : self._start(first)].rstrip(" "))
                first = self._group(first + 1) + 1
                begin = self._end(first)
            end, op = last, region.block.last
            if implicit_end and op is not None and self.is_bare(op):
                end = next(at for at in range(first, last) if self._start(at) == self.places[op])
            gaps = (self._end(end), self._start(end)), (self._end(last), self._start(last))
            self.parts.append(self._copied(first, end, begin))
            self.parts += [self.source[a:b] for a, b in dict.fromkeys(gaps)]
        self.parts.append("}")
