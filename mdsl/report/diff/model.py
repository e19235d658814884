"""What a diff says, for whoever shows it: two programs, which op of one is which of the other, and the rewrites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Block, BlockArgument, Op, OpResult, Value
from mdsl.ir.naming import name_wished
from mdsl.report.diff.lines import Names


@dataclass
class Snapshot:
    """A program as it was at one moment.

    `module` may be a copy, which later passes leave alone: `origin` has, for each op and value of it, the one that it is
    a copy of. Two snapshots of a program tell so which ops a pass kept. An op that is absent there is its own.
    """

    module: ModuleOp
    origin: dict[Op | Value, Op | Value] = field(default_factory=dict[Op | Value, Op | Value])

    @cached_property
    def names(self) -> Names:
        """The text of its ops, for whoever shows them."""
        if not self.origin:
            self.module.name_maps()
        return Names(self.module)

    @cached_property
    def ops(self) -> list[Op]:
        """The program's ops at that moment, from the module on, in order."""
        return list(self.module.walk())

    @cached_property
    def order(self) -> dict[Op, int]:
        """The place of each op in that order."""
        return {op: i for i, op in enumerate(self.ops)}

    @staticmethod
    def take(module: ModuleOp) -> Snapshot:
        """A copy of `module`, whose maps have aliases, as it is now, which prints the same."""
        values: dict[Value, Value] = {}
        copy = module.clone(values)
        taken = Snapshot(copy)
        taken.origin.update(zip(taken.ops, module.walk(), strict=True))
        taken.origin.update((new, old) for old, new in values.items())
        return taken


@dataclass
class Matching:
    """Which op of the program before is which of the program after; one to one."""

    forward: dict[Op, Op] = field(default_factory=dict[Op, Op])
    backward: dict[Op, Op] = field(default_factory=dict[Op, Op])
    values: dict[Value, Value] = field(default_factory=dict[Value, Value])
    """Values before that are known to be values after, whatever their position."""

    def pair(self, before: Op, after: Op) -> None:
        self.forward[before] = after
        self.backward[after] = before

    def image(self, value: Value) -> Value | None:
        """The value after the pass that `value` is; None if its op or block is gone."""
        known = self.values.get(value)
        if known is not None:
            return known
        if isinstance(value, OpResult):
            op = self.forward.get(value.op)
            return op.results[value.index] if op and value.index < len(op.results) else None
        assert isinstance(value, BlockArgument)
        block = self.block(value.block)
        return block.args[value.index] if block and value.index < len(block.args) else None

    def block(self, before: Block) -> Block | None:
        """The block after the pass that `before` is."""
        region = before.parent
        owner = self.forward.get(region.parent) if region and region.parent else None
        if region is None or region.parent is None or owner is None:
            return None
        index = region.parent.regions.index(region)
        return owner.regions[index].block if index < len(owner.regions) else None


@dataclass(frozen=True)
class Rewrite:
    """Ops that became others, each with all that is nested in it; an op on both sides stayed and is altered.

    `kind` is "rewrite", "update" (ops stayed, their attributes, types or operands did not), "move", "add" or "remove".
    `scope` is the function or kernel that it lies in, `name` what the reader knows it by, `at` its place in the order
    of the program after.
    """

    kind: str
    before: tuple[Op, ...]
    after: tuple[Op, ...]
    scope: str
    at: int
    read: tuple[tuple[Value, Value], ...] = ()
    """Values that are gone, and those that are read in their stead, which were there before."""

    @property
    def name(self) -> str:
        """The last value that it is about, else the symbol, else the place in the source."""
        for op in (*reversed(self.before), *reversed(self.after)):
            if op.results and op.results[0].name and op.name != "arith.constant":
                return f"%{name_wished(op.results[0])}"
            if symbol(op):
                return str(symbol(op))
        located = next((op.location for op in (*self.before, *self.after) if op.location), None)
        if located is None:
            return (self.after or self.before)[0].name
        return located.place[located.place.rfind("/") + 1 :] if located.line else located.place


@dataclass(frozen=True)
class Group:
    """Rewrites that are alike but for names, sizes and other numbers; the first stands for all. `variants`: so many differ
    in more than that, for a diff with many groups puts together what is nearly alike."""

    rewrites: tuple[Rewrite, ...]
    variants: int = 1

    @property
    def first(self) -> Rewrite:
        return self.rewrites[0]


@dataclass(frozen=True)
class Diff:
    """What lies between two programs: `rewrites` in the order of the program after, and the same in `groups`."""

    title: str
    before: Snapshot
    after: Snapshot
    matching: Matching
    rewrites: tuple[Rewrite, ...]
    groups: tuple[Group, ...]

    printer: ClassVar[Callable[[Diff], str]] = staticmethod(lambda diff: diff.title)
    """Writes a diff as text. The structural form, which lies above the model, puts itself here."""

    @staticmethod
    def none(title: str, program: Snapshot) -> Diff:
        """That of a pass that changed nothing."""
        return Diff(title, program, program, Matching(), (), ())

    def __bool__(self) -> bool:
        """True if anything differs."""
        return bool(self.rewrites)

    def __str__(self) -> str:
        return Diff.printer(self)

    def restricted(self, wanted: Callable[[Rewrite], bool]) -> Diff:
        """The same with the rewrites alone that are `wanted`."""
        groups = (Group(tuple(filter(wanted, g.rewrites)), g.variants) for g in self.groups)
        kept = tuple(filter(wanted, self.rewrites))
        return replace(self, rewrites=kept, groups=tuple(g for g in groups if g.rewrites))

    def kept(self) -> Iterator[Op]:
        """The ops after the pass that no rewrite has touched, in order."""
        touched = {op for rewrite in self.rewrites for op in rewrite.after}
        return (op for op in self.after.ops if op in self.matching.backward and op not in touched)


def symbol(op: Op) -> str | None:
    """`@name` of an op that defines one."""
    return f"@{op.attr('sym_name')}" if op.has("symbol") and "sym_name" in op.attributes else None
