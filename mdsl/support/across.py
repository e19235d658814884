"""Processes that run one program together: what each has, they add up in the midst of it.

Who calls a program says with whom (`among`); what runs it asks for sums (`reduce`), with an op's name no more than that."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

Total = Callable[[np.ndarray], None]
"""Puts the sum over all processes into the array that each brings. They call it in the same order."""

KINDS = ("sum", "mean")

ACROSS = "mdsl.across"
"""The attribute of a micro-kernel that copies its first argument to its second: where several processes run the program, the copy
is one of `KINDS` over all of them."""


@dataclass
class _Group:
    total: Total
    count: int
    error: BaseException | None = None


_GROUP: ContextVar[_Group | None] = ContextVar("group", default=None)


@contextmanager
def among(count: int, total: Total) -> Generator[None]:
    """Programs that are called in the block are those of `count` processes. Raises what `total` has raised in one, also where the block
    raises: that came of it."""
    group = _Group(total, count)
    token = _GROUP.set(group)
    try:
        yield
    except BaseException as error:
        if group.error in (None, error):
            raise
        raise group.error from error
    finally:
        _GROUP.reset(token)
    if group.error is not None:
        raise group.error


def reduce(array: np.ndarray, kind: str) -> None:
    """Makes the array its sum, or its mean, over all processes; one process alone leaves it as it is."""
    group = _GROUP.get()
    if group is not None:
        group.total(array)
        if kind == "mean":
            array /= group.count


def reduce_from_native(array: np.ndarray, kind: str) -> None:
    """The same, called by code that no exception can pass: the first one waits for the end of `among`."""
    group = _GROUP.get()
    try:
        reduce(array, kind)
    except BaseException as error:
        if group is not None:
            group.error = group.error or error
