"""Telling a person at a terminal what takes so long; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def progress(start: str) -> Generator[Callable[[str], None], None, None]:
    """Shows a line that moves while the block runs; the function that it yields changes the text."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(start) as status:
        yield status.update
