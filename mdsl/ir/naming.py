"""Unique names of values within an isolated op: of two that ask for one name the older keeps it."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Collection

from mdsl.ir.core import Op, Value

_TRIES = 64


def free_name(name: str, taken: Collection[str | None]) -> str:
    """`name`, or with the first number behind it that makes it one that is not taken."""
    numbered = (f"{name}_{number}" for number in range(1, len(taken) + 2))
    return next(found for found in (name, *numbered) if found not in taken)


def names_under(root: Op) -> dict[Value, str]:
    """A name for every value defined under `root`, up to nested isolated ops.

    A scope is an interval of op positions; two values may bear one name if their scopes are disjoint.
    """
    found: list[tuple[Value, tuple[int, int]]] = []
    _collect(root, found, 0)
    taken: dict[str, list[tuple[int, int]]] = {}
    numbers: dict[tuple[str, tuple[int, int]], int] = {}  # lower ones are taken in that scope
    free: dict[str, int] = {}  # this one and higher ones nobody has
    names: dict[Value, str] = {}
    for value, scope in sorted(found, key=lambda f: f[0].serial):
        base = name_wished(value)
        number = first = numbers.get((base, scope), 0)
        while _overlaps(taken.setdefault(name := _numbered(base, number), []), scope):
            # Of many scopes in one that has many such names, each would try all of these.
            number = number + 1 if number < first + _TRIES else max(number + 1, free.get(base, 0))
        numbers[base, scope] = number
        insort(taken[name], scope)
        names[value] = name
        prefix, _, end = name.rpartition("_")
        if end.isdecimal() and len(end) < 10:
            free[prefix] = max(free.get(prefix, 0), int(end) + 1)
    return names


def _collect(op: Op, found: list[tuple[Value, tuple[int, int]]], at: int) -> int:
    """Appends the values of the op's regions with their scopes; positions count from `at`."""
    for region in op.regions:
        start = at
        values: list[Value] = list(region.block.args)
        inner = region.block.first
        while inner is not None:
            at += 1
            values.extend(inner.results)
            if inner.regions and "isolated" not in inner.traits:
                at = _collect(inner, found, at)
            inner = inner.next
        at += 1
        found.extend((v, (start, at)) for v in values)
    return at


def name_wished(value: Value) -> str:
    """What the value would be called if it were alone: its name as the grammar takes it, or a default."""
    owner = value.owner
    default = owner.name.split(".")[-1] if isinstance(owner, Op) else "arg"
    return _clean(value.name) or default


def _overlaps(scopes: list[tuple[int, int]], scope: tuple[int, int]) -> bool:
    """True if one of the sorted, disjoint (or equal) `scopes` overlaps `scope`."""
    at = bisect_left(scopes, scope)
    return (at > 0 and scopes[at - 1][1] > scope[0]) or (at < len(scopes) and scopes[at][0] < scope[1])


def _numbered(base: str, number: int) -> str:
    """`base`, or `base_1` and so on; a number that is a name needs a letter then."""
    if not number:
        return base
    return f"v{base}_{number}" if base.isdigit() else f"{base}_{number}"


def _clean(name: str | None) -> str:
    """A name that the grammar accepts: a number, or words, dots and dashes (`0_init` becomes `v0_init`)."""
    cleaned = re.sub(r"[^\w$.-]", "_", name, flags=re.ASCII) if name else ""
    return f"v{cleaned}" if cleaned[:1].isdigit() and not cleaned.isdigit() else cleaned
