"""The structural form of a diff: rewrites as blocks, like ones shown once, what stayed folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mdsl.ir.core import Op
from mdsl.report.diff.lines import Line, count, folded, head, within
from mdsl.report.diff.model import Diff, Group, Rewrite
from mdsl.report.diff.weights import weights_told
from mdsl.support.escapes import one_line

WIDTH = 120
"""Columns of a diff that is not shown on a terminal."""

LINES = 350
"""Lines that a diff has about at most; its blocks share them."""

MAPS = 16
"""Affine maps that are written out below a diff."""

LEAST, LARGEST = 10, 40
"""Lines of a block, however many or few there are."""

ARROWS = {"rewrite": "->", "update": "altered", "move": "moved", "add": "new", "remove": "gone"}


@dataclass(frozen=True)
class Style:
    """`expand`: every rewrite and every op is shown. `width`: columns."""

    expand: bool = False
    width: int = WIDTH
    colours: bool = False

    def narrowed(self, width: int) -> Style:
        return replace(self, width=width)

    def shares(self, blocks: int) -> tuple[int | None, int | None]:
        """Lines for what a rewrite takes away, and for what it brings; None: all."""
        if self.expand:
            return None, None
        lines = min(LARGEST, max(LEAST, LINES // blocks - 3))
        return lines * 2 // 5, lines * 3 // 5


def structural(diff: Diff, style: Style = Style()) -> list[Line]:
    """The lines of a diff, none if nothing differs."""
    if not diff:
        return []
    writer = _Writer(diff, style)
    lines = list(writer.lines())
    return lines + _definitions(lines, writer.maps(), style)


def _definitions(lines: Sequence[Line], maps: dict[str, str], style: Style) -> list[Line]:
    """What the aliases of maps stand for that the lines show."""
    shown = dict.fromkeys(
        name for line in lines for name in re.findall(r"#[\w.$-]+", line.text) if name in maps
    )
    told = [maps[name] for name in shown]
    found = [Line("~", text) for text in (told if style.expand else told[:MAPS])]
    if len(found) < len(told):
        found.append(Line("~", f"... {count(len(told) - len(found), 'more map')}"))
    return within(found, style.width)


def heading(diff: Diff) -> str:
    """What happened, in a line."""
    before, after = (len(side.ops) - 1 for side in (diff.before, diff.after))
    ops = f"{before:,} -> {count(after, 'op')}" if before != after else count(after, "op")
    ways = "" if len(diff.groups) == len(diff.rewrites) else f" in {count(len(diff.groups), 'way')}"
    return f"=== {diff.title}: {count(len(diff.rewrites), 'change')}{ways}, {ops}"


class _Writer:
    def __init__(self, diff: Diff, style: Style) -> None:
        self.diff, self.style = diff, style
        self.old, self.new = diff.before.names, diff.after.names
        self.limits = style.shares(len(diff.groups))
        altered = (r for r in diff.rewrites if r.kind != "move")
        self.altered = {
            op for r in altered for old in r.before if (op := diff.matching.forward.get(old)) is not None
        }

    def lines(self) -> Iterator[Line]:
        yield Line("=", heading(self.diff))
        groups = self.diff.groups
        if self.style.expand:
            groups = [Group((rewrite,)) for rewrite in self.diff.rewrites]
        stayed = self._stayed()
        last = 0
        for group in groups:
            unseen = stayed[group.first.at] - stayed[last]
            if unseen > 0:
                yield Line("~", f"... {count(unseen, 'op')}")
            last = max(last, group.first.at)
            yield from self._group(group)
        if stayed[-1] - stayed[last] > 0:
            yield Line("~", f"... {count(stayed[-1] - stayed[last], 'op')}")

    def maps(self) -> dict[str, str]:
        """Aliases of maps, and the lines that define them."""
        return {text.partition(" ")[0]: text for text in (*self.old.maps(), *self.new.maps())}

    def _stayed(self) -> list[int]:
        """How many ops in front of each place of the program after have stayed as they were."""
        kept = set(self.diff.kept())
        found = [0]
        for op in self.diff.after.ops:
            found.append(found[-1] + (op in kept and op is not self.diff.after.module))
        return found

    def _group(self, group: Group) -> Iterator[Line]:
        yield from within([Line("@", f"@@ {title(group)}")], self.style.width)
        rewrite = group.first
        if rewrite.kind == "update" and len(rewrite.before) == len(rewrite.after):
            yield from self._pairs(rewrite)
        else:
            old = self.old.trees(rewrite.before, self._sign_before, self.limits[0])
            new = self.new.trees(rewrite.after, self._sign_after, self.limits[1])
            sides = ([] if rewrite.kind == "move" else old, new)
            for trees, limit in zip(sides, self.limits, strict=True):
                yield from folded(trees, limit, self.style.width)
        for was, now in rewrite.read:
            names = self.old.value(was), self.new.value(now)
            if names[0] != names[1]:
                yield Line(">", f"{names[0]} is now {names[1]}")

    def _pairs(self, rewrite: Rewrite) -> Iterator[Line]:
        """Each op before and after, without what it holds."""
        most = len(rewrite.before) if self.limits[0] is None else self.limits[0]
        for was, now in list(zip(rewrite.before, rewrite.after, strict=True))[:most]:
            yield from head(self.old.tree(was, self._sign_before, shallow=True), self.style.width)
            yield from head(self.new.tree(now, self._sign_after, shallow=True), self.style.width)
            yield from (Line("~", one_line(text)) for text in weights_told(was, now))
        if len(rewrite.before) > most:
            yield Line("~", f"... {count(len(rewrite.before) - most, 'more pair')}")

    def _sign_before(self, op: Op) -> str:
        return "-"

    def _sign_after(self, op: Op) -> str:
        if op not in self.diff.matching.backward or op in self.altered:
            return "+"
        return ">"


def title(group: Group) -> str:
    """What a group's rewrites do, and where."""
    rewrite = group.first
    times = f"{len(group.rewrites)} x " if len(group.rewrites) > 1 else ""
    variants = f" ({group.variants} variants)" if group.variants > 1 else ""
    return f"{times}{_what(rewrite)}{variants}: {_where(group.rewrites)}"


def _what(rewrite: Rewrite) -> str:
    old, new = _kinds(rewrite.before), _kinds(rewrite.after)
    if rewrite.kind == "rewrite":
        return f"{old or 'nothing'} -> {new or 'nothing'}"
    return f"{new or old} {ARROWS[rewrite.kind]}"


def _kinds(ops: Sequence[Op], most: int = 3) -> str:
    counts: dict[str, int] = {}
    for op in ops:
        counts[op.name] = counts.get(op.name, 0) + 1
    names = [f"{n} {name}" if n > 1 else name for name, n in counts.items()]
    return " + ".join(names[:most] + ["..."] * (len(names) > most))


def _where(rewrites: Sequence[Rewrite], room: int = 140) -> str:
    """The places, as many as there is room for."""
    scopes = {r.scope for r in rewrites}
    alike = len(scopes) == 1
    names = list(
        dict.fromkeys(r.name if alike or r.name == r.scope else f"{r.name} in {r.scope}" for r in rewrites)
    )
    shown = names[:1]
    for name in names[1:]:
        if sum(map(len, shown)) + len(name) > room:
            break
        shown.append(name)
    rest = f", ... {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    scope = f" in {rewrites[0].scope}" if alike and rewrites[0].scope not in ("", *shown) else ""
    return one_line(f"{', '.join(shown)}{rest}{scope}")


def _text(diff: Diff) -> str:
    return "".join(f"{line}\n" for line in structural(diff))


Diff.printer = staticmethod(_text)
