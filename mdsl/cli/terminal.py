"""stdout and stderr of the command: control characters that come from files are escaped here, whatever prints them."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, TextIO, cast

from mdsl.support.escapes import escaped


class _Escaping:
    """A stream that escapes what is written to it (`mdsl.support.escapes`). IR has nothing to escape: the printer
    writes such characters as MLIR's escapes, so that it parses again."""

    def __init__(self, stream: TextIO) -> None:
        self.plain = stream

    def write(self, text: str) -> int:
        return self.plain.write(escaped(text))

    def writelines(self, lines: Iterable[str]) -> None:
        self.plain.writelines(map(escaped, lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


@contextmanager
def escaping() -> Generator[None, None, None]:
    """Lets stdout and stderr escape what is written to them."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Escaping(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def styled(stream: TextIO) -> TextIO:
    """The stream without escaping, for text that is escaped already, and may have colours of ours."""
    return stream.plain if isinstance(stream, _Escaping) else stream


def takes_colours(stream: TextIO) -> bool:
    """True for a terminal, unless the user wants none (https://no-color.org) or it has none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
