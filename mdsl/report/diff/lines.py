"""Lines of a diff: ops as text, each line with its sign, folded to what a reader takes in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op, Region, Value
from mdsl.syntax.printer import Printer

Sign = Callable[[Op], str]


@dataclass(frozen=True)
class Line:
    """A line: `sign` is "-", "+", ">" (moved here), " " (as it was), "~" (said of what is folded away), "@" or "="
    (headings)."""

    sign: str
    text: str
    indent: int = 0
    continued: bool = False
    """True for what did not fit on the line above."""

    def __str__(self) -> str:
        text = f"{'  ' * self.indent}{self.text}"
        return text if self.sign in "@=" else f"{' ' if self.sign == '~' else self.sign} {text}".rstrip()


@dataclass(frozen=True)
class Columns(Line):
    """Two lines beside each other, the left one in `width` columns."""

    halves: tuple[Line | None, Line | None] = (None, None)
    width: int = 0

    def __str__(self) -> str:
        left, right = (str(half) if half else "" for half in self.halves)
        return f"{left:{self.width}} | {right}".rstrip()


@dataclass
class Tree:
    """An op as text, in pieces: lines, and the ops in between that it holds."""

    op: Op
    sign: str
    parts: list[str | Tree] = field(default_factory=list["str | Tree"])
    hidden: int = 0
    """Ops in it that were not printed, for they will not be shown."""

    @property
    def held(self) -> list[Tree]:
        return [part for part in self.parts if isinstance(part, Tree)]

    def size(self) -> int:
        """The number of ops in it."""
        return 1 + self.hidden + sum(tree.size() for tree in self.held)


class Names:
    """The text of a program's ops, with the names that they have in the whole program."""

    def __init__(self, module: ModuleOp) -> None:
        """`module` has aliases for its maps."""
        self.module = module
        self.printer = _Pieces()
        self.printer.map_names = module.map_names
        self.named: set[Op] = set()

    def tree(self, op: Op, sign: Sign, *, shallow: bool = False) -> Tree:
        """The op as text; `shallow` leaves out what it holds."""
        scope = next((a for a in op.ancestors() if "isolated" in a.traits), self.module)
        if scope not in self.named:
            self.named.add(scope)
            self.printer.name_values(scope)
        return self.printer.tree(op, sign, shallow)

    def trees(self, ops: Sequence[Op], sign: Sign, limit: int | None) -> list[Tree]:
        """The ops as text, but those that cannot be among the first `limit` lines, whatever is folded."""
        if limit is None:
            return [self.tree(op, sign) for op in ops]
        found: list[Tree] = []
        for number, (_, run) in enumerate(groupby(ops, lambda op: op.name)):
            for k, op in enumerate(run):
                seen = number < limit and k <= limit
                hidden = 0 if seen else op.count_nested()
                found.append(self.tree(op, sign) if seen else Tree(op, sign(op), [op.name], hidden))
        return found

    def value(self, value: Value) -> str:
        return self.printer.name(value)

    def maps(self) -> list[str]:
        """What the aliases of maps stand for that occur in the text so far."""
        return self.printer.map_definitions()


class _Pieces(Printer):
    """Prints an op as a tree of pieces."""

    def __init__(self) -> None:
        super().__init__(generic=False, locations=False)
        self.open: list[Tree] = []
        self.sign: Sign = lambda op: " "
        self.shallow = False

    def tree(self, op: Op, sign: Sign, shallow: bool) -> Tree:
        self.shallow = shallow
        self.sign, self.indent, self.lines = sign, 0, []
        root = Tree(op, sign(op))
        self.open = [root]
        self.op(op)
        return root.held[0]

    def op(self, op: Op) -> None:
        self._collect()
        inner = Tree(op, self.sign(op))
        self.open[-1].parts.append(inner)
        self.open.append(inner)
        super().op(op)
        self._collect()
        self.open.pop()

    def region(self, region: Region, *, label: bool = False, implicit_end: bool = False) -> None:
        if self.shallow:
            self.parts.append(" {")
            self._flush()
            self.open[-1].hidden += sum(1 for op in region.block.ops for _ in op.walk())
            self.parts = ["}"]
        else:
            super().region(region, label=label, implicit_end=implicit_end)
        self._collect()

    def _collect(self) -> None:
        """Gives the lines written so far to the op that is being printed."""
        self.open[-1].parts += [_DATA.sub(r"dense<[\1, ...]>", line.strip()) for line in self.lines]
        self.lines = []


_DATA = re.compile(r"dense<\[+([^,\]]*),[^>]{40,}\]>")
"""Numbers that are too many to be read."""


# Folding ----------------------------------------------------------------------------------------------------


ROWS = 4
"""Rows that one line may be broken into where lines are folded; what is longer loses its end."""


def folded(trees: Sequence[Tree], limit: int | None, width: int) -> list[Line]:
    """The lines of `trees` in `width` columns, at most about `limit` (None: all): inner regions fold first, then runs of like
    ops, then the end."""
    if limit is None:
        return within(_siblings(trees, 0, _ALL, None), width)
    found: list[Line] = []
    for depth, run in ((_ALL, None), (8, 3), (4, 3), (3, 2), (2, 2), (1, 1), (0, 1)):
        found = within(_siblings(trees, 0, depth, run), width, ROWS)
        if len(found) <= limit:
            return found
    end = next((i for i in range(limit, len(found)) if not found[i].continued), len(found))
    left = sum(1 for line in found[end:] if not line.continued)
    return [*found[:end], Line("~", f"... {count(left, 'more line')}")] if left else found


def head(tree: Tree, width: int) -> list[Line]:
    """The op without what it holds."""
    return within([Line(tree.sign, _closed(tree))], width, ROWS)


_ALL = 1 << 20


def _siblings(trees: Sequence[Tree], indent: int, depth: int, run: int | None) -> list[Line]:
    """The lines of ops of one block; of a run of like ops the first, if there are more than `run`."""
    found: list[Line] = []
    for _, group in groupby(trees, lambda t: (t.op.name, t.sign)):
        alike = list(group)
        shown = alike if run is None or len(alike) <= run else alike[:1]
        for tree in shown:
            found += _lines(tree, indent, depth, run)
        if len(shown) < len(alike):
            rest = alike[len(shown) :]
            held = sum(tree.size() - 1 for tree in rest)
            holding = f" with {count(held, 'op')}" if held else ""
            found.append(Line(alike[0].sign, f"... {len(rest)} more {alike[0].op.name}{holding}", indent))
    return found


def _lines(tree: Tree, indent: int, depth: int, run: int | None) -> list[Line]:
    held = tree.held
    if not held or depth == 0:
        return [Line(tree.sign, _closed(tree), indent)]
    found: list[Line] = []
    for inside, group in groupby(tree.parts, lambda part: isinstance(part, Tree)):
        parts = list(group)
        if inside:
            found += _siblings([p for p in parts if isinstance(p, Tree)], indent + 1, depth - 1, run)
        else:
            found += [Line(tree.sign, str(part), indent) for part in parts]
    return found


def _closed(tree: Tree) -> str:
    """An op in a line, with the number of ops that it holds."""
    texts = [part for part in tree.parts if isinstance(part, str)]
    if tree.size() == 1 or len(texts) < 2:
        return " ".join(texts)
    return f"{texts[0]} ... {count(tree.size() - 1, 'op')} {texts[-1]}"


def count(number: int, what: str) -> str:
    """`1 op`, `41 ops`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def within(lines: Sequence[Line], width: int, rows: int | None = None) -> list[Line]:
    """The lines broken to `width` columns and at most `rows`, what follows indented deeper. A word that is longer is cut."""
    found: list[Line] = []
    for line in lines:
        room = max(20, width - 2 - 2 * line.indent)
        if len(line.text) <= room:
            found.append(line)
            continue
        pieces = _broken(line.text, room)
        if rows is not None and len(pieces) > rows:
            pieces = [*pieces[: rows - 1], f"{pieces[rows - 1][: room - 8]} ..."]
        found.append(replace(line, text=pieces[0]))
        found += [replace(line, text=piece, indent=line.indent + 2, continued=True) for piece in pieces[1:]]
    return found


def _broken(text: str, room: int) -> list[str]:
    pieces: list[str] = []
    while len(text) > room:
        at = text.rfind(" ", 1, room + 1)
        at = at if at > 0 else room
        pieces.append(text[:at])
        text = text[at:].lstrip(" ")
        room -= 4 if len(pieces) == 1 else 0
    return [*pieces, text]
