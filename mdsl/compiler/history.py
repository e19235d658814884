"""The history of ops: which passes made or rewrote each of them since it was read.

It is recorded around a pass by looking at the program before and after, so that no pass has to. An op that a pass makes
takes over the location of the op that it is made from, and with it the history so far.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cache

from mdsl.dialects.arith import Constant
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Op, Value
from mdsl.ir.location import Location
from mdsl.ir.types import Type

State = tuple[dict[str, Attribute], list[Type]]
"""What an op says by itself."""


class History:
    """Follows the ops under `root` from pass to pass: what each said after the last one tells which the next one rewrites."""

    def __init__(self, root: Op) -> None:
        self.root = root
        self.states = {op: _kept_state(op) for op in root.walk()}

    def record(self, step: str) -> list[Op]:
        """Adds `step` to the history of each op that is new or another since it was last called; returns these, in program order."""
        known, self.states = self.states, {}
        changed: list[Op] = []
        for op in self.root.walk():
            state = known.get(op)
            if state is None or not _says(op, state):
                state = _kept_state(op)
                changed.append(op)
            self.states[op] = state
        _add(step, changed, known)
        return changed


def links(root: Op) -> list[tuple[Op, State, list[Value], Op | None]]:
    """All that a pass may change, to be compared: every op in order, what it says and reads, and what holds it."""
    return [(op, _state(op), op.operands, op.parent) for op in root.walk()]


def _add(step: str, changed: Sequence[Op], before: Collection[Op]) -> None:
    @cache
    def through(location: Location) -> Location:
        return location.through(step)

    places = [op.location or (None if op in before else _borrowed(op)) for op in changed]
    for op, place in zip(changed, places, strict=True):
        if place is not None:
            op.location = through(place)


def _kept_state(op: Op) -> State:
    """What tells whether the op is rewritten in place. A constant never is: it is replaced by another, and its data, the most
    that a program has, must not be kept for it."""
    return ({}, []) if isinstance(op, Constant) else _state(op)


def _says(op: Op, state: State) -> bool:
    """As `_kept_state(op) == state`, without making one for each op of a program."""
    attributes, types = state
    return isinstance(op, Constant) or (
        op.attributes == attributes and [result.type for result in op.results] == types
    )


def _state(op: Op) -> State:
    return dict(op.attributes), [result.type for result in op.results]


def _borrowed(op: Op) -> Location | None:
    """A location for an op that was made without: that of what it is for, lies in, or holds."""
    return next((near.location for near in _near(op) if near.location is not None), None)


def _near(op: Op) -> Iterator[Op]:
    for result in op.results:
        yield from result.users
    yield from op.ancestors()
    for region in op.regions:
        yield from region.block.ops
