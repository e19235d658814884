"""Remarks: what a pass tells of its decisions, and who listens (a report, or nobody)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal

from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Op
from mdsl.ir.location import Location
from mdsl.ir.naming import name_wished

Kind = Literal["applied", "missed"]


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


Listener = Callable[[Remark], None]

_listener: ContextVar[Listener | None] = ContextVar("remarks", default=None)


def applied(op: Op, message: str, **facts: Any) -> None:
    """Tells what the running pass did to `op`."""
    _tell("applied", op, message, facts)


def begun(op: Op) -> Callable[[str], None]:
    """Tells later what the running pass did to `op`, as it is now: by then it may be gone, or its name another's."""
    listener = _listener.get()
    if listener is None:
        return lambda message: None
    remark = _remark("applied", op, "", {})
    return lambda message: listener(replace(remark, message=message))


def missed(op: Op, message: str, **facts: Any) -> None:
    """Tells why the running pass left `op` as it is, or did less than it might have."""
    _tell("missed", op, message, facts)


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
        return f"%{name_wished(named)}"
    symbol = op.attributes.get("sym_name")
    return f"@{symbol.value}" if isinstance(symbol, StringAttr) else op.name


def _tell(kind: Kind, op: Op, message: str, facts: Mapping[str, Any]) -> None:
    listener = _listener.get()
    if listener is not None:
        listener(_remark(kind, op, message, facts))


def _remark(kind: Kind, op: Op, message: str, facts: Mapping[str, Any]) -> Remark:
    around = next((a for a in op.ancestors() if "sym_name" in a.attributes), None)
    function = name_of(around)[1:] if around is not None else ""
    return Remark(kind, name_of(op), op.name, function, op.location, message, facts)
