"""Errors that a user sees: `file:line:col: error: message`, the source line and a caret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.support.escapes import one_line


class MdslError(Exception):
    """An error to be shown without a traceback; every command turns it into exit code 1. Its lines are given one by one:
    a line end in what they quote does not make another."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(map(one_line, lines)))

    @property
    def errors(self) -> Sequence[MdslError]:
        """The errors that this one consists of: itself alone, or all those of a text (`TextErrors`)."""
        return (self,)


WIDTH = 400
"""What is shown of a longer line, or op: a file may be one line, and a training step returns hundreds of values."""

_END = 2 * WIDTH
"""What is shown of a longer message's two ends: between them it quotes a word of the file, which may be all of it."""

_LONGEST, _MOST = 100, 10_000
"""Comparing words takes the square of their lengths."""


@dataclass(frozen=True)
class Source:
    """A text and the name of the file that it came from."""

    name: str
    text: str

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of a character offset."""
        line = self.text.count("\n", 0, offset) + 1
        return line, offset - (self.text.rfind("\n", 0, offset) + 1) + 1


class SyntaxError_(MdslError):
    """An error at a place in a source text; `offset` and `length` count characters."""

    def __init__(self, message: str, source: Source, offset: int, length: int = 1) -> None:
        message = message if len(message) <= 2 * _END else f"{message[:_END]}...{message[-_END:]}"
        self.message = message
        self.line, self.column = source.place(min(offset, len(source.text)))
        lines = source.text.split("\n")
        text = lines[self.line - 1] if self.line <= len(lines) else ""
        start = max(0, self.column - WIDTH // 2) if len(text) > WIDTH else 0
        text, before = text[start : start + WIDTH].rstrip("\r"), self.column - 1 - start
        marks = "^" * max(1, len(one_line(text[before : before + length])))
        # Tabs stay tabs under the line, so that the caret stands under its character.
        indent = "".join("\t" if c == "\t" else " " for c in one_line(text[:before]))
        super().__init__(
            f"{source.name}:{self.line}:{self.column}: error: {message}", text, f"{indent}{marks}"
        )


_SHOWN = 20
"""Errors of one text that are shown; `errors` has the others too."""


class TextErrors(SyntaxError_):
    """Several errors of one text, sorted by place; `message`, `line` and `column` are the first one's."""

    def __init__(self, errors: Sequence[SyntaxError_], stopped: bool = False) -> None:
        """`stopped`: there may be more, which were not looked for."""
        self._errors = tuple(errors)
        self.message, self.line, self.column = errors[0].message, errors[0].line, errors[0].column
        more = len(errors) - _SHOWN
        last = [f"and {'at least ' if stopped else ''}{more} more errors"] if more > 0 else []
        MdslError.__init__(self, *(x for e in errors[:_SHOWN] for x in str(e).split("\n")), *last)

    @property
    def errors(self) -> Sequence[SyntaxError_]:
        return self._errors


def nearest(word: str, known: list[str], least: float = 0.6) -> str:
    """`; did you mean 'x'?` for a word that is close to a known one (to `least`, of 0 to 1), else nothing."""
    from difflib import get_close_matches

    if len(word) > _LONGEST:
        return ""
    close = get_close_matches(word, [k for k in known[:_MOST] if len(k) <= _LONGEST], 1, least)
    return f"; did you mean '{close[0]}'?" if close else ""
