"""The memory of a lowered program: which tensors lie in its arena, where, and from when to when; and its constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mdsl.analysis.regions import captured
from mdsl.dialects import arith, memref
from mdsl.ir.core import Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.types import MemRefType


@dataclass(frozen=True)
class Place:
    """Where in the arena a tensor lies that the op reads or makes."""

    name: str
    type: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Data:
    """A constant that lies in the program's file."""

    name: str
    type: str
    nbytes: int


@dataclass
class Buffer:
    """A place that is in use from one op of the entry's body to another, both included."""

    place: Place
    first: int
    last: int
    users: list[Op]


@dataclass(frozen=True)
class Peak:
    """The moment at which a program has most in its arena."""

    arena: int
    """Bytes of the whole arena: more than `nbytes` where no offsets are without gaps."""
    nbytes: int
    """In use at that moment."""
    op: Op
    """The op that runs then."""
    places: Sequence[Place]
    """What is in use, the largest first."""


def memory_of(op: Op) -> Iterable[Place]:
    """What lies in the arena of that which `op` works on."""
    return dict.fromkeys(place for _, place in _views_of(op))


def _views_of(op: Op) -> Iterable[tuple[memref.View, Place]]:
    for value in dict.fromkeys((*op.operands, *(captured(op) if op.regions else ()))):
        view = _view(value)
        shift = arith.constant_of(view.operands[1]) if view is not None else None
        if view is not None and isinstance(shift, int) and isinstance(view.result.type, MemRefType):
            type = view.result.type
            yield view, Place(f"%{name_wished(view.result)}", str(type), shift, type.nbytes)


def constants_of(op: Op) -> Iterable[Data]:
    """The constants that `op`, or what it holds, reads."""
    for value in dict.fromkeys(v for inner in op.walk() for v in inner.operands):
        owner = _origin(value)
        if isinstance(owner, memref.GetGlobal) and isinstance(owner.result.type, MemRefType):
            yield Data(f"@{owner.symbol}", str(owner.result.type), owner.result.type.nbytes)


def _view(value: Value) -> memref.View | None:
    """The view of the arena that `value` is, or is a part of."""
    owner = _origin(value)
    return owner if isinstance(owner, memref.View) else None


def _origin(value: Value) -> object:
    """What makes the memory that `value` is a part of."""
    owner = value.owner
    while isinstance(owner, memref.SubView | memref.CollapseShape | memref.ExpandShape | memref.Cast):
        owner = owner.operands[0].owner
    return owner


def buffers(ops: Sequence[Op]) -> list[Buffer]:
    """What lies in the arena while `ops`, an entry's body, run one after the other."""
    found: dict[memref.View, Buffer] = {}
    for at, op in enumerate(ops):
        for view, place in () if isinstance(op, memref.View) else _views_of(op):
            buffer = found.setdefault(view, Buffer(place, at, at, []))
            buffer.last = at
            buffer.users.append(op)
    return list(found.values())


def peak_of(ops: Sequence[Op]) -> Peak | None:
    """When most of the arena is in use, the first time; None for a program without an arena."""
    found = buffers(ops)
    if not found:
        return None
    used = [sum(b.place.nbytes for b in found if b.first <= at <= b.last) for at in range(len(ops))]
    at = used.index(max(used))
    places = [b.place for b in found if b.first <= at <= b.last]
    arena = max(b.place.offset + b.place.nbytes for b in found)
    return Peak(arena, used[at], ops[at], sorted(places, key=lambda place: -place.nbytes))
