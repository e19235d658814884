"""Tests of the user's, which commands run on programs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mdsl.cli.files import note

if TYPE_CHECKING:
    from mdsl.report.judging import Script

Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds after which a test is ended: it cannot tell then.", min=0.1, metavar="SECONDS"
    ),
]
TIMEOUT = 60.0
"""Where nothing is said."""


@contextmanager
def testing(command: str, timeout: float) -> Generator[Script, None, None]:
    """The test, and a note at the end of the block if runs of it took too long. Raises MdslError."""
    from mdsl.report.judging import Script

    script = Script(command, timeout)
    try:
        yield script
    finally:
        if script.ended:
            tests = "1 test was" if script.ended == 1 else f"{script.ended} tests were"
            note(f"{tests} ended after {timeout:g} s (--timeout)")
