"""The forms of a diff: structural, side by side, in figures, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.naming import name_wished
from mdsl.report.diff.colours import coloured
from mdsl.report.diff.lines import Columns, Line, Names, head, within
from mdsl.report.diff.model import Diff, Rewrite
from mdsl.report.diff.text import Style, heading, structural, title
from mdsl.support.escapes import escaped


class Form(StrEnum):
    """What `--diff=` takes."""

    STRUCTURAL = "structural"
    UNIFIED = "unified"
    SIDE = "side"
    STAT = "stat"
    JSON = "json"


def written(diff: Diff, form: Form, style: Style) -> str:
    """The text of a diff, in colours if `style` says so; what comes from files is escaped."""
    lines = {Form.STRUCTURAL: structural, Form.SIDE: side, Form.STAT: stat}[form](diff, style)
    return "".join(f"{coloured(line) if style.colours else escaped(str(line))}\n" for line in lines)


def side(diff: Diff, style: Style) -> list[Line]:
    """The same, what a rewrite takes away on the left of what it brings."""
    half = (style.width - 3) // 2
    found: list[Line] = []
    left: list[Line] = []
    right: list[Line] = []
    for line in structural(diff, style.narrowed(half)):
        if line.sign in "-+> ":
            (left if line.sign == "-" else right).append(line)
            continue
        found += _columns(left, right, half)
        left, right = [], []
        found.append(line)
    return [*found, *_columns(left, right, half)]


def _columns(left: Sequence[Line], right: Sequence[Line], width: int) -> Iterator[Line]:
    return (Columns(" ", "", halves=halves, width=width) for halves in zip_longest(left, right))


def stat(diff: Diff, style: Style) -> list[Line]:
    """A line a group of rewrites, and how many ops of each kind there were and are."""
    if not diff:
        return []
    found = [Line("=", heading(diff))]
    found += within([Line("~", title(group)) for group in diff.groups], style.width)
    before, after = _kinds(diff.before.module), _kinds(diff.after.module)
    changed = [name for name in sorted(before | after) if before[name] != after[name]]
    wide = max(map(len, changed), default=0)
    return [*found, *(Line("~", f"{name:{wide}} {before[name]:6} -> {after[name]:6}") for name in changed)]


def _kinds(module: ModuleOp) -> Counter[str]:
    return Counter(op.name for op in module.walk() if op is not module)


def data(diff: Diff) -> dict[str, Any]:
    """The diff for JSON: every rewrite with its ops, and which rewrites are alike."""
    old, new = diff.before.names, diff.after.names
    groups = {id(rewrite): k for k, group in enumerate(diff.groups) for rewrite in group.rewrites}
    return {
        "pass": diff.title,
        "ops": [sum(_kinds(side.module).values()) for side in (diff.before, diff.after)],
        "rewrites": [
            {
                "kind": rewrite.kind,
                "group": groups[id(rewrite)],
                "scope": rewrite.scope,
                "name": rewrite.name,
                "before": [_op(op, old) for op in rewrite.before],
                "after": [_op(op, new) for op in rewrite.after],
                "read": {f"%{old.value(was)}": f"%{new.value(now)}" for was, now in rewrite.read},
            }
            for rewrite in diff.rewrites
        ],
    }


def _op(op: Op, names: Names) -> dict[str, Any]:
    text = " ".join(line.text for line in head(names.tree(op, lambda op: " ", shallow=True), 1 << 20))
    location = op.location
    return {
        "op": op.name,
        "text": text,
        "place": location.place if location else None,
        "passes": list(location.passes) if location else [],
    }


def only(diff: Diff, pattern: str, places: Collection[str] = ()) -> Diff:
    """The diff with those rewrites alone that touch a function, a layer (a place in the source) or an op that is called
    so, or what was written at one of `places`; `*` stands for anything."""
    return diff.restricted(lambda rewrite: _is_about(rewrite, pattern, places))


def places_called(module: ModuleOp, pattern: str) -> frozenset[str]:
    """Where the ops were written whose results are called so: passes rename what they make of them, the places stay."""
    return frozenset(
        op.location.place
        for op in module.walk()
        if op.location is not None
        and any(fnmatchcase(n, pattern) for r in op.results for n in (r.name or "", f"%{r.name}"))
    )


def _is_about(rewrite: Rewrite, pattern: str, places: Collection[str]) -> bool:
    names = _called(rewrite)
    return not names.isdisjoint(places) or any(fnmatchcase(name, pattern) for name in names)


def _called(rewrite: Rewrite) -> set[str]:
    """What the reader may know the rewrite by."""
    names = {rewrite.name, rewrite.scope, rewrite.scope.removeprefix("@")}
    for root in (*rewrite.before, *rewrite.after):
        for op in root.walk():
            names.add(op.name)
            values = [name_wished(r) for r in op.results]
            names.update((*values, *(f"%{v}" for v in values), *(r.name for r in op.results if r.name)))
            if op.location is not None:
                names.add(op.location.place)
    return names
