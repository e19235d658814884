"""Unique names of values within an isolated op: of two that ask for one name the older keeps it."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable
from functools import lru_cache

from mdsl.ir.core import Block, Op, Value

_TRIES = 64
_KNOWN = 1 << 14
"""Spellings to remember: the same few names are asked for after each pass."""


class FreeNames:
    """Gives out names that are not taken, each once: the one asked for, or with the first number behind it that makes it free."""

    def __init__(self, taken: Iterable[str | None]) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}  # lower ones are taken behind that name

    def take(self, name: str) -> str:
        number = self._numbers.get(name, 0)
        while (found := f"{name}_{number}" if number else name) in self._taken:
            number += 1
        self._numbers[name] = number
        self._taken.add(found)
        return found


def names_under(root: Op, like: Iterable[Value] | None = None) -> dict[Value, str]:
    """A name for every value defined under `root`, up to nested isolated ops; or only for those whose names could be taken for
    one of `like`, which the others do not change.

    A scope is an interval of op positions; two values may bear one name if their scopes are disjoint.
    """
    stems = None if like is None else {_stem(name_wished(value)) for value in like}
    found: list[tuple[Value, tuple[int, int]]] = []
    _collect(root, found, 0, stems)
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


def _collect(
    op: Op, found: list[tuple[Value, tuple[int, int]]], at: int, stems: Collection[str] | None
) -> int:
    """Appends the values of the op's regions with their scopes, or those of some stems; positions count from `at`."""
    for region in op.regions:
        start = at
        values: list[Value] = list(region.block.args)
        inner = region.block.first
        while inner is not None:
            at += 1
            values += inner.results
            if inner.regions and "isolated" not in inner.traits:
                at = _collect(inner, found, at, stems)
            inner = inner.next
        at += 1
        if stems is not None:
            values = [v for v in values if _stem(name_wished(v)) in stems]
        found += [(v, (start, at)) for v in values]
    return at


def name_wished(value: Value) -> str:
    """What the value would be called if it were alone: its name as the grammar takes it, or a default."""
    return cleaned(value.name) or _default_name(value.owner)


def _default_name(owner: Op | Block) -> str:
    return owner.name.split(".")[-1] if isinstance(owner, Op) else "arg"


def _overlaps(scopes: list[tuple[int, int]], scope: tuple[int, int]) -> bool:
    """True if one of the sorted, disjoint (or equal) `scopes` overlaps `scope`."""
    at = bisect_left(scopes, scope)
    return (at > 0 and scopes[at - 1][1] > scope[0]) or (at < len(scopes) and scopes[at][0] < scope[1])


def _numbered(base: str, number: int) -> str:
    """`base`, or `base_1` and so on; a number that is a name needs a letter then."""
    if not number:
        return base
    return f"v{base}_{number}" if base.isdigit() else f"{base}_{number}"


_NUMBERS = re.compile(r"(_\d+)+\Z", re.ASCII)


@lru_cache(_KNOWN)
@lru_cache(_KNOWN)
def _stem(name: str) -> str:
    """What a name that a value wishes has in common with all that it may get instead, as `_numbered` makes them."""
    stem = _NUMBERS.sub("", name)
    return f"v{stem}" if stem.isdigit() else stem


@lru_cache(_KNOWN)
def cleaned(name: str | None) -> str:
    """A name that the grammar accepts: a number, or words, dots and dashes (`0_init` becomes `v0_init`)."""
    cleaned = re.sub(r"[^\w$.-]", "_", name, flags=re.ASCII) if name else ""
    return f"v{cleaned}" if cleaned[:1].isdigit() and not cleaned.isdigit() else cleaned
