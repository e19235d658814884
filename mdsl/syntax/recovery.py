"""The syntax tree of a text with errors: after each error reading goes on at the next operation or at a region's end."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from lark import Token, Tree
from lark.exceptions import UnexpectedInput, UnexpectedToken
from lark.parsers.lalr_parser_state import ParserState

from mdsl.errors import Source, SyntaxError_
from mdsl.syntax.grammar import MARK, TEXT, lark, marked, readable

MOST = 200
"""Errors after which nothing more is looked for."""

_RESUME = re.compile(
    rf'^[ \t]*(?P<word>[A-Za-z_][\w$]*(?:\.[\w$]+)+(?!\s*[=,])|return\b|[#!][\w$]+(?=\s*=)|"[\w$.]+"\s*\()'
    rf"|(?P<mark>{MARK})|(?P<open>\{{)|(?P<close>\}})|{TEXT}",
    re.ASCII | re.MULTILINE,
)
_BOUNDARY = re.compile(rf"{MARK}|\}}|$|[A-Za-z_][\w$]*(\.[\w$]+)+", re.ASCII)
"""Where an operation or its region ends: with brackets open, it is these that are wrong."""

_DEFINING = re.compile(rf"{MARK}[^=]*=|%[\w$.-]+(?::|\s*=)", re.ASCII)
_VALUE = re.compile(r"%[\w$.-]+|@[A-Za-z_$][\w$.]*|[#!][\w$]+", re.ASCII)


@dataclass
class Recovered:
    """What could be read of a text."""

    tree: Tree[Token]
    errors: list[SyntaxError_] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where the errors lie, in order: the operation that begins last before such a place is not whole."""
    lost: set[str] = field(default_factory=set)
    """Names in what was left out, with their `%`, `@`, `#` or `!`; some of them were defined there."""


def recovered(source: Source) -> Recovered:
    """The tree of all that can be read, and the errors. Raises SyntaxError_ for a text that no operation can be found in."""
    return _Reading(source).run()


class _Reading:
    """An LALR parser that is told where to go on."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = marked(source)
        self.parser = lark().parse_interactive(self.text, start="file")
        self.state: Any = self.parser.parser_state
        self.found = Recovered(Tree("file", []))

    def run(self) -> Recovered:
        resumed = -1
        while len(self.found.errors) < MOST:
            try:
                for _ in self.parser.iter_parse():
                    pass
                break
            except UnexpectedInput as error:
                place = error.pos_in_stream or 0
                # Where reading was taken up, an error is the earlier one's, and so is a bracket too many or too few.
                if place != resumed and not (self.found.errors and self.text[place : place + 1] == "}"):
                    self._report(error, place)
                resumed = self._resume(place + (place == resumed))
        self.found.tree = self._end()
        if self.found.errors:  # with its brace a region may have lost the names that were defined for it
            self._lose("".join(_DEFINING.findall(self.text)))
        return self.found

    def _report(self, error: UnexpectedInput, place: int) -> None:
        if isinstance(error, UnexpectedToken):
            error.interactive_parser = self.parser  # which knows what could follow
        bracket = self._open_bracket()
        if bracket is not None and _BOUNDARY.match(self.text, place):
            place = bracket.start_pos or 0
            found = SyntaxError_(f"'{bracket}' is not closed", self.source, place)
        else:
            found = readable(error, self.source, 0)
        self.found.errors.append(found)
        self.found.places.append(place)

    def _open_bracket(self) -> Token | None:
        """The innermost bracket that is open, if it is no brace."""
        values = reversed(self.state.value_stack)
        last = next((v for v in values if isinstance(v, Token) and str(v) in "([<{"), None)
        return None if last is None or last == "{" else last

    def _resume(self, place: int) -> int:
        """Goes on at the first place behind an error where an operation begins or the region ends."""
        at, token = self._next(place)
        self._lose(self.text[place:at])
        if self._drop_until(token):
            self._move(at)
        else:
            self._move(at + 1)
        return at

    def _next(self, place: int) -> tuple[int, str]:
        start = self.text.rfind("\n", 0, place) + 1
        depth = 0
        for match in _RESUME.finditer(self.text, start if self.text[start:place].isspace() else place):
            kind = match.lastgroup
            if kind in ("word", "mark") and match.start(kind) >= place:
                return match.start(kind), "RESULTS"
            if kind == "close" and depth == 0:
                return match.start(), "RBRACE"
            depth += (kind == "open") - (kind == "close")
        return len(self.text), "RESULTS"

    def _drop_until(self, token: str, kept: int | None = None) -> bool:
        """Drops what was begun last until `token` can follow; False if it cannot anywhere. What is dropped, if anything, goes
        down to `kept` states at least."""
        states, values = self.state.state_stack, self.state.value_stack
        below = len(states) - 1 if kept is None else kept
        for depth in (len(states), *range(below, 0, -1)):
            if self._takes(token, depth):
                self._lose_values(values[depth - 1 :])
                del states[depth:], values[depth - 1 :]
                return True
        return False

    def _takes(self, token: str, depth: int) -> bool:
        """True if `token` can follow what the first `depth` states of the stack stand for."""
        conf = self.state.parse_conf
        conf = type(conf)(conf.parse_table, {}, conf.start)
        trial: Any = ParserState(conf, self.state.lexer, self.state.state_stack[:depth], [None] * (depth - 1))
        try:
            trial.feed_token(Token(token, ""), token == "$END")
        except UnexpectedToken:
            return False
        return True

    def _move(self, at: int) -> None:
        lexer: Any = self.parser.lexer_thread.state
        counter = lexer.line_ctr
        counter.char_pos = at
        counter.line = self.text.count("\n", 0, at) + 1
        counter.line_start_pos = self.text.rfind("\n", 0, at) + 1
        counter.column = at - counter.line_start_pos + 1

    def _lose(self, text: str) -> None:
        self.found.lost.update(_VALUE.findall(text.replace(MARK, "%")))

    def _lose_values(self, values: list[Any]) -> None:
        for value in values:
            tokens = value.scan_values(lambda _: True) if isinstance(value, Tree) else [value]
            for token in tokens:
                self._lose(str(token))

    def _end(self) -> Tree[Token]:
        """The tree, with the regions closed that still are open."""
        if not self._takes("$END", len(self.state.state_stack)) and not self.found.errors:
            token = Token("$END", "", len(self.text))
            self._report(UnexpectedToken(token, set(self.parser.choices())), len(self.text))
        opened = None  # a brace that is closed here is not opened again
        while not self._takes("$END", len(self.state.state_stack)) and self._drop_until("RBRACE", opened):
            opened = len(self.state.state_stack) - 1
            self.parser.feed_token(Token("RBRACE", "}"))
        self._drop_until("$END")
        return self.parser.feed_eof()
