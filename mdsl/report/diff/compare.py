"""The diff of two programs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from mdsl.ir.attributes import Attribute, TypeAttr, UnitAttr
from mdsl.ir.core import Op
from mdsl.ir.types import ShapedType, Type
from mdsl.report.diff.matching import match
from mdsl.report.diff.model import Diff, Group, Matching, Rewrite, Snapshot
from mdsl.report.diff.rewrites import rewrites


def compare(before: Snapshot, after: Snapshot, title: str = "") -> Diff:
    """What differs between two programs. Where they have ops in common (a pass ran on one) these tell what became of what,
    otherwise symbols, names and structure do."""
    matching, related = match(before, after)
    found = rewrites(before, after, matching, related)
    return Diff(title, before, after, matching, found, grouped(found, matching))


MOST = 24
"""Groups that a diff has at most, where putting together what differs in details keeps it to so few."""


def grouped(found: Sequence[Rewrite], matching: Matching) -> tuple[Group, ...]:
    """Rewrites that are alike, in the order of the first of each. Where there are many groups, details count less."""
    exact = {id(rewrite): _exact(rewrite, matching) for rewrite in found}
    groups: dict[Hashable, list[Rewrite]] = {}
    for shape in (lambda rewrite: exact[id(rewrite)], _rough, _roughest):
        groups = {}
        for rewrite in found:
            groups.setdefault(shape(rewrite), []).append(rewrite)
        if len(groups) <= MOST:
            break
    return tuple(Group(tuple(members), len({exact[id(r)] for r in members})) for members in groups.values())


def _exact(rewrite: Rewrite, matching: Matching) -> Hashable:
    """What rewrites that are alike share: kinds of ops and what their attributes say in words, not names, sizes and
    numbers. Of what repeats (an unrolled body) it counts that it does, not how often; of what an op holds, which kinds."""
    kept = {op for op in rewrite.after if matching.backward.get(op) in rewrite.before}
    before = tuple(_without_repeats(map(_kind, rewrite.before)))
    return rewrite.kind, before, tuple(_without_repeats((op in kept, _kind(op)) for op in rewrite.after))


def _rough(rewrite: Rewrite) -> Hashable:
    """Which kinds of ops became which."""
    return (
        rewrite.kind,
        frozenset(map(_names_inside, rewrite.before)),
        frozenset(op.name for op in rewrite.after),
    )


def _roughest(rewrite: Rewrite) -> Hashable:
    """The same of the ops that hold others, if there are any: what stands around loops is their scaffolding."""
    return rewrite.kind, _main(rewrite.before), _main(rewrite.after)


def _main(ops: Sequence[Op]) -> Hashable:
    return frozenset(op.name for op in ops if op.regions) or frozenset(op.name for op in ops)


def _names_inside(op: Op) -> Hashable:
    return op.name, frozenset(inner.name for inner in op.walk()) if op.regions else None


def _kind(op: Op) -> Hashable:
    inside = _names_inside(op)
    attributes = frozenset((name, word) for name, value in op.attributes.items() if (word := _worded(value)))
    return inside, None if op.regions else attributes, tuple(_element(r.type) for r in op.results)


def _worded(value: Attribute) -> Hashable:
    """What an attribute says in words, None for numbers, maps, names and symbols: in these may ops that are alike differ."""
    if isinstance(value, TypeAttr):
        return _element(value.type)
    if isinstance(value, UnitAttr):
        return True
    return None


def _element(type: Type) -> Hashable:
    return (type.__class__.__name__, str(type.element)) if isinstance(type, ShapedType) else str(type)


def _without_repeats(items: Iterable[Hashable]) -> Iterator[Hashable]:
    last: Hashable = None
    for item in items:
        if item != last:
            yield item
        last = item
