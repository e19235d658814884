"""The canonical layout of a text: what the printer would make of it, with comments, aliases and names as they were.

The text is read as tokens, and these are written again: only the space between them changes, so that a program means what it
meant. A line that is too long goes on in the next, indented, where that takes the fewest brackets apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from mdsl.errors import Source, TextErrors
from mdsl.ir.registry import operation
from mdsl.syntax.grammar import first_token, lark, marked, start_of
from mdsl.syntax.operations import KEYWORDS, OPS
from mdsl.syntax.recovery import recovered
from mdsl.syntax.spacing import Spacing, canonical, spelling

WIDTH = 100
"""Columns of a line, where the grammar allows to break it."""

_STARTS = (*OPS, "alias", "metadata")
_COMMENT = re.compile(r"//[^\n]*|\n")


def formatted(source: Source) -> str:
    """The text in canonical layout. Raises SyntaxError_ with all errors of the syntax; what names and types mean is not asked."""
    try:
        tokens, tree = _read(source)
    except UnexpectedInput:
        found = recovered(source).errors
        raise (TextErrors(found) if len(found) > 1 else found[0]) from None
    text = _Layout(source, tokens, _starts(tree)).run()
    again, _ = _read(Source(source.name, text))
    assert list(map(canonical, again)) == list(map(canonical, tokens)), "formatting changed the program"
    return text


def _read(source: Source) -> tuple[list[Token], Tree[Token]]:
    parser = lark().parse_interactive(marked(source), start="file")
    tokens = list(parser.iter_parse())
    return tokens, parser.feed_eof()


def _starts(tree: Tree[Token]) -> set[int]:
    """Where a line begins: at ops, aliases and sections."""
    found: set[int] = set()
    for part in tree.find_pred(lambda t: t.data in _STARTS):
        start = start_of(part)
        if start is not None and not _is_flag(part):
            found.add(start)
    return found


def _is_flag(tree: Tree[Token]) -> bool:
    """True for the attribute of `{dialect.flag}`, which the grammar takes for an op."""
    if tree.data != "custom_op" or tree.children[0] is not None or len(tree.children) != 2:
        return False
    name = first_token(tree.children[1])
    return name is not None and name.type == "OP_NAME" and operation(str(name)) is None


@dataclass
class _Line:
    """One line to be: pieces with the depth of brackets before each, and what follows as a comment."""

    indent: int
    pieces: list[tuple[int, str]] = field(default_factory=list)


class _Layout:
    """Lines so far, and the one that is being written."""

    def __init__(self, source: Source, tokens: list[Token], starts: set[int]) -> None:
        self.text = source.text
        self.tokens = tokens
        self.starts = starts
        self.lines: list[str] = []
        self.line = _Line(0)
        self.indent = 0
        self.depth = 0
        self.regions: list[int] = []
        """The depth of brackets outside of each open region."""
        self.spacing = [Spacing()]
        self.goes_on = False
        """True if the line is not the first of its op."""

    def run(self) -> str:
        place = 0
        for at, token in enumerate(self.tokens):
            after = self.tokens[at + 1] if at + 1 < len(self.tokens) else None
            opens = (
                token == "{" and after is not None and (self._begins(after) or self._is_empty_region(after))
            )
            closes = token == "}" and bool(self.regions) and self.depth == self.regions[-1] + 1
            self._gap(place, token.start_pos or 0, self._begins(token) or closes)
            if closes:
                self._leave()
            self._write(token, opens)
            if opens:
                self._enter()
            place = token.end_pos or 0
        self._gap(place, len(self.text), True)
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return "\n".join(self.lines) + "\n" if self.lines else ""

    def _begins(self, token: Token) -> bool:
        return token.start_pos in self.starts or token.type == "LABEL"

    def _is_empty_region(self, after: Token) -> bool:
        """True if the brace that comes next is all that there is of an op's region."""
        spacing = self.spacing[-1]
        found = operation(KEYWORDS.get(spacing.op, spacing.op))
        outside = self.regions[-1] + 1 if self.regions else 0
        return (
            after == "}"
            and self.depth == outside
            and str(spacing.before) != "attributes"
            and found is not None
            and any(f.kind == "region" for f in found.fields)
        )

    # Regions ----------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        self._end_line()
        self.regions.append(self.depth - 1)
        self.indent += 1
        self.spacing.append(Spacing())

    def _leave(self) -> None:
        self.regions.pop()
        self.indent -= 1
        self.spacing.pop()
        self.line.indent = self.indent
        self.spacing[-1].begin()

    # Between tokens ---------------------------------------------------------------------------------------

    def _gap(self, start: int, end: int, ends_line: bool) -> None:
        """Comments and blank lines of the text between two tokens, of which the second may begin a line."""
        gap = _COMMENT.findall(self.text, start, end) if start < end else []
        newlines = 1 if not start else 0
        for found in gap:
            if found == "\n":
                newlines += 1
                continue
            comment = found.rstrip()
            if newlines == 0 and (self.line.pieces or self.lines):
                self._trail(comment)
            else:
                self._own_line(comment, newlines > 1, ends_line)
            newlines = 0
        if ends_line:
            self._end_line()
            self._blank(newlines > 1)

    def _trail(self, comment: str) -> None:
        """A comment behind what is written already."""
        if self.line.pieces:
            self._end_line(goes_on=True)
        self.lines[-1] += f" {comment}"

    def _own_line(self, comment: str, blank: bool, ends_line: bool) -> None:
        inside = self.line.pieces or self.goes_on
        self._end_line(goes_on=bool(inside) and not ends_line)
        self._blank(blank and not self.goes_on)
        self.lines.append(f"{'  ' * (self.indent + 2 * self.goes_on)}{comment}")

    def _blank(self, wanted: bool) -> None:
        """At most one blank line, and none where a region begins or the text does."""
        opened = self.lines and self.lines[-1].partition("//")[0].rstrip().endswith("{")
        if wanted and self.lines and self.lines[-1] and not opened:
            self.lines.append("")

    # Writing ----------------------------------------------------------------------------------------------

    def _write(self, token: Token, opens: bool) -> None:
        if token == "}" and not self.line.pieces and self.lines and not self.lines[-1]:
            self.lines.pop()
        if token.type == "LABEL" and not self.line.pieces:
            self.line.indent = self.indent - 1
        space = self.spacing[-1].space(token)
        if opens and self.line.pieces:
            space = self.line.pieces[-1][1].strip() not in ("(", "{")
        self.depth -= str(token) in (")", "]", ">", "}")
        self.line.pieces.append((self.depth, f"{' ' if space else ''}{spelling(token)}"))
        self.depth += str(token) in ("(", "[", "<", "{")
        if token == ":" and self._labels():
            self._end_line()

    def _labels(self) -> bool:
        """True if what is written is the whole label of a block."""
        pieces = self.line.pieces
        return pieces[0][1].startswith("^") and pieces[0][0] == self.depth

    def _end_line(self, goes_on: bool = False) -> None:
        if self.line.pieces:
            indent = "  " * (self.line.indent + 2 * self.goes_on)
            self.lines += _wrapped(self.line.pieces, indent, "  " * (self.line.indent + 2))
            self.goes_on = goes_on
        elif not goes_on:
            self.goes_on = False
        self.line = _Line(self.indent)
        if not self.goes_on:
            self.spacing[-1].begin()


def _wrapped(pieces: list[tuple[int, str]], indent: str, further: str) -> list[str]:
    """The lines that the pieces of a line make, none wider than `WIDTH` if there is a place to break it."""
    lines: list[str] = []
    while True:
        pieces[0] = pieces[0][0], pieces[0][1].lstrip()
        ends = [len(indent)]
        for _, text in pieces:
            ends.append(ends[-1] + len(text))
        places = [i for i in range(1, len(pieces)) if _may_break(pieces[i - 1][1], pieces[i][1])]
        fitting = [i for i in places if ends[i] <= WIDTH]
        if ends[-1] <= WIDTH or not places:
            break
        if fitting:
            late = [i for i in fitting if ends[i] > WIDTH // 2] or fitting
            at = min(late, key=lambda i: (pieces[i][0], -i))
        else:
            at = places[0]
        lines.append(indent + "".join(text for _, text in pieces[:at]))
        pieces, indent = pieces[at:], further
    return [*lines, indent + "".join(text for _, text in pieces)]


def _may_break(before: str, after: str) -> bool:
    """A line may go on behind a comma, and before what begins a part of an op."""
    if not after.startswith(" ") or before.endswith("="):
        return False
    return (
        before == ","
        or after[1:2] in (":", "-", "{", "#")
        or re.fullmatch(r" [A-Za-z_]\w*", after) is not None
    )
