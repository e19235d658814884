"""The rewrites of a pass, one by one: counted by kind, and stopped after a number of them, which finds the wrong one.

A rewrite is all that a pass does to an op, from the first change to where the program is whole again. `Op.replace_by`
is one by itself; a pass that needs more changes than that puts `rewriting` around them:

    with rewriting(loop, "unroll"):
        ...                                  # replacements in here are a part of this one

A pass that is stopped leaves a whole program, in which its first rewrites are done and the others are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mdsl.ir.values import next_serial

if TYPE_CHECKING:
    from mdsl.ir.core import Op
    from mdsl.ir.location import Location


class LimitReached(Exception):
    """Ends a pass that has done as many rewrites as it may. Values with a serial number from `since` on that nothing uses
    were made for the next."""

    def __init__(self, since: int) -> None:
        super().__init__("the pass has done as many rewrites as it may")
        self.since = since


@dataclass
class Rewrites:
    """What a pass has rewritten so far, of at most `limit` rewrites."""

    limit: int | None = None
    kinds: Counter[str] = field(default_factory=Counter)
    last: str = ""
    """The kind of the last rewrite."""
    place: Location | None = None
    """Where the op of the last rewrite comes from."""
    _outer: Rewrites | None = None
    """Who counts as well: a limit does not hide from statistics what it lets pass."""
    _inside: bool = False
    _since: int = field(default_factory=next_serial)

    @property
    def count(self) -> int:
        return self.kinds.total()

    def begin(self, op: Op, kind: str) -> None:
        """Counts a rewrite of `op` that begins now. Raises LimitReached where it may not."""
        if self._inside:
            return
        if self.count == self.limit:
            raise LimitReached(self._since)
        self._count(op, kind)

    def may(self, op: Op, kind: str) -> bool:
        """Counts a rewrite of `op` that a larger one can go without; False where it must."""
        if self.count == self.limit:
            return False
        self._count(op, kind)
        return True

    def _count(self, op: Op, kind: str) -> None:
        self.kinds[kind] += 1
        self._since = next_serial()
        located = next((o for o in (op, *op.ancestors()) if o.location is not None), None)
        self.last, self.place = kind, located.location if located else None
        if self._outer is not None:
            self._outer._count(op, kind)

    @contextmanager
    def whole(self, op: Op, kind: str) -> Generator[None, None, None]:
        """The block is one rewrite of `op`."""
        self.begin(op, kind)
        outer, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = outer


_watched: ContextVar[Rewrites | None] = ContextVar("rewrites", default=None)


@contextmanager
def counting(rewrites: Rewrites) -> Generator[Rewrites, None, None]:
    """Counts what this thread rewrites while the block runs; LimitReached is raised in it at `rewrites.limit`."""
    rewrites._outer = _watched.get()
    token = _watched.set(rewrites)
    try:
        yield rewrites
    finally:
        _watched.reset(token)


def replacing(op: Op) -> None:
    """Something takes the place of `op`: a rewrite, unless it is a part of one."""
    watched = _watched.get()
    if watched is not None:
        watched.begin(op, op.name)


@contextmanager
def rewriting(op: Op, kind: str) -> Generator[None, None, None]:
    """The block is one rewrite of `op`, which is whole and in its place still; `kind` says what it does to it."""
    watched = _watched.get()
    if watched is None:
        yield
        return
    with watched.whole(op, kind):
        yield


def may_rewrite(op: Op, kind: str) -> bool:
    """To be asked before a rewrite of `op` within a larger one, which is whole without it."""
    watched = _watched.get()
    return watched is None or watched.may(op, kind)
