"""Diffs in terminal colours: what goes is red, what comes green, what moved cyan; within that operations are bold, and
types, numbers and brackets dim."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mdsl.report.diff.lines import Columns, Line
from mdsl.support.escapes import escaped

if TYPE_CHECKING:
    from pygments.lexer import Lexer

_SIGNS = {"-": "31", "+": "32", ">": "36", "@": "1", "=": "1", "~": "2"}
"""Codes of ECMA-48's SGR, by the sign of a line."""

_WORDS = {
    "Name.Function": "1",
    "Keyword.Type": "2",
    "Literal.Number": "2",
    "Punctuation": "2",
    "Comment": "2",
}
"""The same by what a word is."""


def coloured(line: Line) -> str:
    """A line of a diff; what comes from files is escaped."""
    if isinstance(line, Columns):
        left, right = ((coloured(half), len(escaped(str(half)))) if half else ("", 0) for half in line.halves)
        return f"{left[0]}{' ' * (line.width - left[1])} | {right[0]}".rstrip()
    text = escaped(str(line))
    return _painted(text, _SIGNS[line.sign]) if line.sign in "@=~" else _program_line(text)


def coloured_unified(diff: str) -> str:
    """A unified diff, the same way."""
    lines = escaped(diff).splitlines()
    heads = ("--- ", "+++ ", "@@ ")
    return "".join(f"{_painted(t, '1') if t.startswith(heads) else _program_line(t)}\n" for t in lines)


def _program_line(text: str) -> str:
    """A line of a program, behind its sign."""
    sign = _SIGNS.get(text[:1], "")
    words = [("", text[:1]), *((_code(kind), word) for kind, word in _lexer().get_tokens(text[1:]))]
    runs = groupby(words, lambda word: word[0])
    return "".join(_painted("".join(w for _, w in run), *filter(None, (sign, code))) for code, run in runs)


def _code(kind: Any) -> str:
    name = str(kind).removeprefix("Token.")
    return next((code for word, code in _WORDS.items() if name.startswith(word)), "")


def _painted(text: str, *codes: str) -> str:
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if codes and text.strip() else text


@cache
def _lexer() -> Lexer:
    from pygments.lexers import TextLexer, get_lexer_by_name
    from pygments.util import ClassNotFound

    options = {"stripnl": False, "ensurenl": False}
    try:
        return get_lexer_by_name("mir", **options)
    except ClassNotFound:  # mdsl runs without having been installed
        return TextLexer(**options)
