"""Remarks: what a pass tells of its decisions, and who listens (a report, or nobody)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.location import Location
from mdsl.ir.naming import name_wished

Kind = Literal["applied", "missed"]


@dataclass(frozen=True)
class Other:
    """Another op that a remark is about, as it was at that moment."""

    op: str
    location: Location | None


@dataclass(frozen=True)
class Remark:
    """One decision of a pass about one op, as it was at that moment."""

    kind: Kind
    op: str
    """`%name` of the op's result, or of what it is a symbol for; the op's name where it has neither."""
    opcode: str
    function: str
    """The symbol of the function or kernel around it; empty outside of all."""
    location: Location | None
    message: str
    """What was done, or what kept the pass from it; after the op's name it makes a sentence."""
    facts: Mapping[str, Any]
    """The numbers behind the decision, by name: numbers, text, lists of them, a `cost.Choice`."""
    others: tuple[Other, ...] = ()
    """Further ops that the message is about."""
    fused: bool = False
    """Whether the op and the others are computed together from now on."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where that was written which it is about, its own op first."""
        found = (self.location, *(other.location for other in self.others))
        return tuple(dict.fromkeys(place.place for place in found if place is not None))


Listener = Callable[[Remark], None]

_listener: ContextVar[Listener | None] = ContextVar("remarks", default=None)


def applied(op: Op, message: str, *others: Op, **facts: Any) -> None:
    """Tells what the running pass did to `op`, in a message that is about `others` too."""
    _tell("applied", op, message, others, facts)


def fused(op: Op, message: str, *others: Op, **facts: Any) -> None:
    """Tells that the running pass has `op` computed together with `others`."""
    _tell("applied", op, message, others, facts, fused=True)


def begun(op: Op) -> Callable[[str], None]:
    """Tells later what the running pass did to `op`, as it is now: by then it may be gone, or its name another's."""
    listener = _listener.get()
    if listener is None:
        return lambda message: None
    remark = _remark("applied", op, "", (), {})
    return lambda message: listener(replace(remark, message=message))


def missed(op: Op, message: str, *others: Op, **facts: Any) -> None:
    """Tells why the running pass left `op` as it is, or did less than it might have; `others` are ops that the message is
    about too."""
    _tell("missed", op, message, others, facts)


def wanted() -> bool:
    """Whether anybody listens: for remarks that take work to find."""
    return _listener.get() is not None


@contextmanager
def listening(listener: Listener) -> Generator[None, None, None]:
    """Calls `listener` with each remark that is made while the block runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def name_of(op: Op) -> str:
    """How a person would point at the op: `%conv1`, `@main`, or what it is called."""
    named = next((r for r in op.results if r.name), None)
    if named:
        return value_name(named)
    symbol = op.attributes.get("sym_name")
    return f"@{symbol.value}" if isinstance(symbol, StringAttr) else op.name


def value_name(value: Value) -> str:
    """How a person would point at the value: as the text spells it, where no other bears the name."""
    return f"%{name_wished(value)}"


def _tell(
    kind: Kind, op: Op, message: str, others: Sequence[Op], facts: Mapping[str, Any], *, fused: bool = False
) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(_remark(kind, op, message, others, facts, fused))


def _remark(
    kind: Kind, op: Op, message: str, others: Sequence[Op], facts: Mapping[str, Any], fused: bool = False
) -> Remark:
    around = next((a for a in op.ancestors() if "sym_name" in a.attributes), None)
    function = name_of(around)[1:] if around is not None else ""
    named = tuple(Other(name_of(other), other.location) for other in others)
    return Remark(kind, name_of(op), op.name, function, op.location, message, facts, named, fused)
