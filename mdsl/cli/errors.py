"""From exceptions to messages on stderr and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from mdsl.support.escapes import one_line


class Interrupted(Exception):
    """The user has pressed Ctrl-C."""


_heard: list[int] = []


def hear(number: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C. What is being imported may turn the exception into another one; that it was pressed stays known."""
    _heard.append(number)
    raise KeyboardInterrupt


@contextmanager
def shown() -> Generator[None, None, None]:
    """Turns a user's error into its message on stderr and exit code 1; a pressed Ctrl-C into a line and exit code 130."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _heard or isinstance(error, Interrupted | KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        message = explain(error)
        if message is None:
            raise
        print(message if "error:" in message else f"error: {message}", file=sys.stderr)
        sys.exit(1)


def explain(error: Exception) -> str | None:
    """The message for an error that is the user's, None for one that is ours."""
    if isinstance(error, RecursionError):
        return "the program is nested too deeply"
    if isinstance(error, MemoryError):
        return f"not enough memory: {str(error)[:1].lower()}{str(error)[1:]}".removesuffix(": ")
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}error: {error.strerror or error}")
    from mdsl.bytecode.module import BytecodeError
    from mdsl.errors import MdslError
    from mdsl.ir.core import VerifyError
    from mdsl.target.target import TargetError

    if isinstance(error, VerifyError):
        return "\n".join(map(one_line, error.lines()))
    if isinstance(error, MdslError | BytecodeError | TargetError):
        return str(error) if isinstance(error, MdslError) else one_line(str(error))
    return None
