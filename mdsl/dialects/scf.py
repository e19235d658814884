"""scf: structured control flow. Upstream's names, operands and attributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from mdsl.dialects.indices import Index, join_indices, split_indices
from mdsl.dialects.terminator import Terminator
from mdsl.ir.attributes import Attribute, DenseArrayAttr, OpaqueAttr
from mdsl.ir.core import Block, BlockArgument, Op, Region, Value
from mdsl.ir.declare import (
    BOOL,
    INDEX,
    NO_TERMINATOR,
    TERMINATOR,
    Constraint,
    array_of,
    attr,
    mixed_indices,
    operand,
    region,
    result,
)
from mdsl.ir.types import DYNAMIC, Type, i64, index

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

F = TypeVar("F", bound="For")

MAPPING = Constraint("a device mapping", lambda a: isinstance(a, OpaqueAttr))


class Yield(Terminator):
    """Ends the body of a loop or a branch and hands on values."""

    name = "scf.yield"


class For(Op):
    """`for i = lower to upper step step`, carrying values from one iteration to the next."""

    name = "scf.for"
    lower = operand(INDEX)
    upper = operand(INDEX)
    step = operand(INDEX)
    inits = operand(variadic=True)
    outputs = result(variadic=True)
    body_region = region(arguments=True)
    end: ClassVar[type[Op]] = Yield

    @classmethod
    def make(
        cls: type[F],
        lower: Value,
        upper: Value,
        step: Value,
        inits: Sequence[Value] = (),
        iv: str | None = "i",
        names: Sequence[str | None] = (),
    ) -> F:
        """A loop with an empty body (append to `.body`, end with a yield)."""
        types = [v.type for v in inits]
        block = Block([index, *types], [iv, *(names or [v.name for v in inits])])
        return cls(lower, upper, step, inits, results=types, regions=[Region(block)])

    @classmethod
    def counted(
        cls: type[F],
        span: range,
        number: Callable[[int], Value],
        inits: Sequence[Value] = (),
        iv: str | None = "i",
        names: Sequence[str | None] = (),
    ) -> F:
        """As `make`, over `span`; `number` gives the constants that are its bounds."""
        return cls.make(number(span.start), number(span.stop), number(span.step), inits, iv, names)

    @property
    def iv(self) -> BlockArgument:
        """The counter."""
        return self.body.args[0]

    @property
    def carried(self) -> list[BlockArgument]:
        """The carried values as the body sees them."""
        return self.body.args[1:]

    def verify_op(self) -> None:
        inits = [v.type for v in self.operands[3:]]
        if [a.type for a in self.body.args] != [index, *inits]:
            raise self.error("the body must take the counter and one argument a carried value, of its type")
        if [r.type for r in self.results] != inits:
            raise self.error("results must be of the types of the carried values")
        end = self.body.last
        if end is None or end.name != self.end.name or [v.type for v in end.operands] != inits:
            raise (end or self).error(
                f"the body must end in '{self.end.name}' with the carried values' types"
            )

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        iv = cursor.token("VALUE", "the counter (%name)")
        bounds: list[Value] = []
        for word in ("=", "to", "step"):
            cursor.expect(word)
            bounds.append(cursor.value())
        names, inits, types = [], [], []
        if cursor.accept("iter_args"):
            group = cursor.group("(")
            pairs = group.many(_pair)
            names, inits = [t for t, _ in pairs], [v for _, v in pairs]
            cursor.expect("->")
            start = cursor.at
            types = cursor.type_group()
            cursor.typed(inits, types, start)
        region = cursor.region(args=[(iv, index), *zip(names, types, strict=True)])
        if region.block.last is None or not region.block.last.has("terminator"):
            region.block.append(cls.end([]))
        return cls.from_parts([*bounds, *inits], types, cursor.attr_dict(), [region])

    def print_custom(self, printer: Printer) -> None:
        lower, upper, step = self.operands[:3]
        name = printer.name
        printer.token(f"{name(self.iv)} = {name(lower)} to {name(upper)} step {name(step)}")
        if self.carried:
            pairs = ", ".join(
                f"{name(a)} = {name(v)}" for a, v in zip(self.carried, self.operands[3:], strict=True)
            )
            printer.token(f"iter_args({pairs}) -> ({', '.join(str(a.type) for a in self.carried)})")
        printer.region(self.regions[0], implicit_end=True)
        printer.token(printer.dictionary(self))


def _pair(cursor: Cursor):
    token = cursor.token("VALUE", "a name (%name)")
    cursor.expect("=")
    return token, cursor.value()


class If(Op):
    """One of two branches."""

    name = "scf.if"
    condition = operand(BOOL)
    outputs = result(variadic=True)
    then_region = region()
    else_region = region()
    end: ClassVar[type[Op]] = Yield

    @property
    def branches(self) -> tuple[Block, Block]:
        return self.regions[0].block, self.regions[1].block

    def verify_op(self) -> None:
        types = [r.type for r in self.results]
        for block in self.branches:
            end = block.last
            if end is None and not types and block is self.branches[1]:
                continue
            if end is None or end.name != self.end.name or [v.type for v in end.operands] != types:
                raise (end or self).error(
                    f"each branch must end in '{self.end.name}' with the results' types"
                )

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        condition = cursor.value()
        types = cursor.type_group() if cursor.accept("->") else []
        then = cursor.region()
        otherwise = cursor.region() if cursor.accept("else") else Region()
        for branch in (then, otherwise):
            if branch.block.last is not None and not branch.block.last.has("terminator"):
                branch.block.append(cls.end([]))
        if then.block.last is None:
            then.block.append(cls.end([]))
        return cls.from_parts([condition], types, cursor.attr_dict(), [then, otherwise])

    def print_custom(self, printer: Printer) -> None:
        printer.token(printer.name(self.operands[0]))
        printer.token(f"-> ({', '.join(str(r.type) for r in self.results)})" if self.results else "")
        printer.region(self.regions[0], implicit_end=True)
        otherwise = self.branches[1].first
        if otherwise is not None and not printer.is_bare(otherwise):
            printer.token("else")
            printer.region(self.regions[1], implicit_end=True)
        printer.token(printer.dictionary(self))


class Forall(Op):
    """A parallel loop nest: iterations may run in any order, on any worker. Bounds are numbers or values.

    On tensors, each iteration writes its part of the shared outputs in `scf.forall.in_parallel`.
    """

    name = "scf.forall"
    lower = mixed_indices("staticLowerBound")
    upper = mixed_indices("staticUpperBound")
    step = mixed_indices("staticStep")
    outputs = operand(variadic=True)
    mapping = attr(array_of(MAPPING, "device mappings"), optional=True)
    results_ = result(variadic=True)
    body_region = region(arguments=True)

    @staticmethod
    def make(
        lower: Sequence[Index],
        upper: Sequence[Index],
        step: Sequence[Index],
        outputs: Sequence[Value] = (),
        ivs: Sequence[str] = (),
    ) -> Forall:
        """A loop nest with an empty body."""
        parts = [split_indices(p) for p in (lower, upper, step)]
        names = ("staticLowerBound", "staticUpperBound", "staticStep")
        attributes = {n: p[1] for n, p in zip(names, parts, strict=True)}
        types = [v.type for v in outputs]
        counters = list(ivs) or list("ijklmnop"[: len(lower)])
        block = Block([*[index] * len(lower), *types], [*counters, *(v.name for v in outputs)])
        return Forall(
            *(p[0] for p in parts), outputs, results=types, regions=[Region(block)], attributes=attributes
        )

    @property
    def rank(self) -> int:
        return len(self.attr("staticStep"))

    @property
    def ivs(self) -> list[BlockArgument]:
        """The counters."""
        return self.body.args[: self.rank]

    @property
    def shared(self) -> list[BlockArgument]:
        """The shared outputs as the body sees them."""
        return self.body.args[self.rank :]

    def bounds(self) -> list[tuple[Index, Index, Index]]:
        """(lower, upper, step) for each counter."""
        mixed = [
            join_indices(getattr(self, which), self.attr(static))
            for which, static in (
                ("lower", "staticLowerBound"),
                ("upper", "staticUpperBound"),
                ("step", "staticStep"),
            )
        ]
        return list(zip(*mixed, strict=True))

    def verify_op(self) -> None:
        sizes = {len(self.attr(n)) for n in ("staticLowerBound", "staticUpperBound", "staticStep")}
        if len(sizes) != 1 or 0 in sizes:
            raise self.error("needs as many lower bounds as upper bounds and steps")
        if any(n < 1 and n != DYNAMIC for n in self.attr("staticStep")):
            raise self.error(f"steps must be positive, got {self.attr('staticStep')}")
        types = [v.type for v in self.outputs]
        if [a.type for a in self.body.args] != [*[index] * self.rank, *types]:
            raise self.error("the body must take the counters and the shared outputs")
        if [r.type for r in self.results] != types:
            raise self.error("results must be of the types of the shared outputs")
        if self.body.last is None or self.body.last.name != "scf.forall.in_parallel":
            raise self.error("the body must end in 'scf.forall.in_parallel'")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        ivs = cursor.group("(").many(lambda c: c.token("VALUE", "a counter (%name)"))
        zero_based = cursor.accept("in")
        if not zero_based:
            cursor.expect("=")
        first = cursor.index_list("(")
        if zero_based:
            lower: tuple[list[Value], list[int]] = ([], [0] * len(ivs))
            upper, step = first, ([], [1] * len(ivs))
        else:
            lower = first
            cursor.expect("to")
            upper = cursor.index_list("(")
            cursor.expect("step")
            step = cursor.index_list("(")
        names, outputs = [], []
        types: list[Type] = []
        if cursor.accept("shared_outs"):
            pairs = cursor.group("(").many(_pair)
            names, outputs = [t for t, _ in pairs], [v for _, v in pairs]
            cursor.expect("->")
            start = cursor.at
            types = cursor.type_group()
            cursor.typed(outputs, types, start)
        region = cursor.region(args=[*((t, index) for t in ivs), *zip(names, types, strict=True)])
        if region.block.last is None or region.block.last.name != "scf.forall.in_parallel":
            region.block.append(InParallel(results=[], regions=[Region()]))
        groups = [lower[0], upper[0], step[0], outputs]
        attributes: dict[str, Attribute] = {
            "staticLowerBound": DenseArrayAttr(i64, tuple(lower[1])),
            "staticUpperBound": DenseArrayAttr(i64, tuple(upper[1])),
            "staticStep": DenseArrayAttr(i64, tuple(step[1])),
            **cls.segments(groups),
            **cursor.attr_dict(),
        }
        return cls.from_parts([v for g in groups for v in g], types, attributes, [region])

    def print_custom(self, printer: Printer) -> None:
        def numbers(which: str, static: str) -> str:
            return f"({printer.index_list(getattr(self, which), self.attr(static))[1:-1]})"

        printer.token(f"({printer.values(self.ivs)})")
        plain = all(lower == 0 and step == 1 for lower, _, step in self.bounds())
        if plain:
            printer.token(f"in {numbers('upper', 'staticUpperBound')}")
        else:
            lower, upper = numbers("lower", "staticLowerBound"), numbers("upper", "staticUpperBound")
            printer.token(f"= {lower} to {upper} step {numbers('step', 'staticStep')}")
        if self.shared:
            pairs = zip(self.shared, self.outputs, strict=True)
            shared = ", ".join(f"{printer.name(a)} = {printer.name(v)}" for a, v in pairs)
            printer.token(f"shared_outs({shared}) -> ({', '.join(str(a.type) for a in self.shared)})")
        printer.region(self.regions[0], implicit_end=True)
        printer.token(printer.dictionary(self, "staticLowerBound", "staticUpperBound", "staticStep"))


class InParallel(Op):
    """Ends the body of `scf.forall`: the parts that the iteration writes."""

    name = "scf.forall.in_parallel"
    traits = TERMINATOR | NO_TERMINATOR
    body_region = region()

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        region = cursor.region() if cursor.sees("{") else Region()
        return cls.from_parts([], [], cursor.attr_dict(), [region])

    def print_custom(self, printer: Printer) -> None:
        printer.region(self.regions[0])
        printer.token(printer.dictionary(self))
