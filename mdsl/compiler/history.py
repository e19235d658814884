"""The history of ops: which passes made or rewrote each of them since it was read.

It is recorded around a pass by looking at the program before and after, so that no pass has to. An op that a pass makes
takes over the location of the op that it is made from, and with it the history so far.
"""

from __future__ import annotations

from mdsl.dialects.arith import Constant
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Op, Value
from mdsl.ir.location import Location
from mdsl.ir.types import Type

State = tuple[str | Attribute | Type, ...]
"""What an op says by itself: its attributes' names, their values, the types of its results."""


class History:
    """Follows the ops under `root` from pass to pass: what each said after the last one, which it keeps as `recorded`, tells
    which the next one rewrites."""

    def __init__(self, root: Op) -> None:
        self.root = root
        for op in root.walk():
            op.recorded = _kept_state(op)

    def record(self, step: str) -> list[Op]:
        """Adds `step` to the history of each op that is new or another since it was last called; returns these, in program order."""
        changed: list[Op] = []
        places: list[Location | None] = []
        for op in self.root.walk():
            state = _kept_state(op)
            if op.recorded != state:
                changed.append(op)
                places.append(op.origin if op.recorded is None else op.location)
                op.recorded = state
        # Many ops share a location; by identity, for to hash one is to hash its history.
        further = {id(place): place.through(step) for place in places if place is not None}
        for op, place in zip(changed, places, strict=True):
            if place is not None:
                op.location = further[id(place)]
        return changed


def links(root: Op) -> list[tuple[Op, State, list[Value], Op | None]]:
    """All that a pass may change, to be compared: every op in order, what it says and reads, and what holds it."""
    return [(op, _state(op), op.operands, op.parent) for op in root.walk()]


def _kept_state(op: Op) -> State:
    """What tells whether the op is rewritten in place. A constant never is: it is replaced by another, and its data, the most
    that a program has, must not be kept for it."""
    return () if isinstance(op, Constant) else _state(op)


def _state(op: Op) -> State:
    attributes = op.attributes
    return (*attributes, *attributes.values(), *[result.type for result in op.results])
