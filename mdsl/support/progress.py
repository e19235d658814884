"""Progress of long computations: what they report, and who listens (a line on a terminal, or nobody)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None]] = ContextVar("listener", default=lambda text: None)


def tell(text: str) -> None:
    """Says what begins now."""
    _listener.get()(text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Generator[None, None, None]:
    """Calls `listener` with what this thread tells while the block runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
