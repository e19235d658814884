"""Values, operations, blocks and regions: the graph that every pass works on.

A region holds one block: control flow is structured, so that a loop is an op with a body. Blocks link
their operations in a list; a value knows its users. Names are part of a value and survive every pass:
where two values of one function ask for the same name, the older keeps it (`syntax/printer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mdsl.ir.attributes import Attribute, AttributeLike, DenseArrayAttr, attribute, python_value
from mdsl.ir.errors import VerifyError
from mdsl.ir.location import Location
from mdsl.ir.rewrites import replacing
from mdsl.ir.types import Type, i32
from mdsl.ir.values import BlockArgument, OpResult, Value

if TYPE_CHECKING:
    from mdsl.ir.declare import Field

OpT = TypeVar("OpT", bound="Op")


class Block:
    """Arguments and a list of operations; the last is the terminator where the parent op wants one."""

    def __init__(self, arg_types: Iterable[Type] = (), arg_names: Iterable[str | None] | None = None) -> None:
        self.parent: Region | None = None
        self.args: list[BlockArgument] = []
        self.first: Op | None = None
        self.last: Op | None = None
        names = list(arg_names) if arg_names is not None else None
        for i, type in enumerate(arg_types):
            self.add_arg(type, names[i] if names else None)

    def add_arg(self, type: Type, name: str | None = None) -> BlockArgument:
        self.args.append(BlockArgument(type, self, len(self.args), name))
        return self.args[-1]

    def erase_arg(self, index: int) -> None:
        """Removes an argument that nothing uses."""
        assert not self.args[index].users, "argument still in use"
        del self.args[index]
        for i, arg in enumerate(self.args):
            arg.index = i

    def clear(self) -> None:
        """Drops all that is in the block."""
        for op in self.ops:
            op.block = op.prev = op.next = None
            op._drop()
        self.args, self.first, self.last, self.parent = [], None, None, None

    @property
    def ops(self) -> list[Op]:
        """A snapshot: the block may change while the list is walked."""
        ops: list[Op] = []
        op = self.first
        while op is not None:
            ops.append(op)
            op = op.next
        return ops

    def append(self, op: OpT) -> OpT:
        return self.insert(op, None)

    def insert(self, op: OpT, before: Op | None) -> OpT:
        """Links `op` in front of `before`, or at the end."""
        assert op.block is None, f"{op.name} already lies in a block"
        op.block = self
        op.next, op.prev = before, self.last if before is None else before.prev
        if op.prev is None:
            self.first = op
        else:
            op.prev.next = op
        if op.next is None:
            self.last = op
        else:
            op.next.prev = op
        return op

    @property
    def terminator(self) -> Op:
        assert self.last is not None, "empty block"
        return self.last

    @property
    def parent_op(self) -> Op | None:
        return self.parent.parent if self.parent else None


class Region:
    """One block nested in an operation (an empty block where MLIR has an empty region)."""

    def __init__(self, block: Block | None = None) -> None:
        self.parent: Op | None = None
        self.block = block or Block()
        self.block.parent = self


class Op:
    """An operation. A subclass declares a kind of operation with the fields of `ir/declare.py`.

    `Matmul(a, b, results=[type], axis=1)` builds one: positional arguments fill the declared operands
    (a sequence for a variadic one, None for an absent one), keywords the attributes; without `results`
    the types are inferred by the class's `infer`.
    """

    # A walk over a program waits for memory: what every op has lies in the op itself.
    __slots__ = ("_operands", "attributes", "block", "location", "next", "prev", "recorded", "regions", "results", "verified")  # fmt: skip

    name: ClassVar[str]
    traits: ClassVar[frozenset[str]] = frozenset()
    relations: ClassVar[tuple[Any, ...]] = ()
    assembly: ClassVar[str | None] = None
    fields: ClassVar[tuple[Field, ...]] = ()
    printer: ClassVar[Callable[[Op], str]] = staticmethod(lambda op: f"<{op.name}>")
    """Writes an op as text. The printer, which lies above the IR, puts itself here."""

    def __init__(
        self,
        *operands: Value | Sequence[Value] | None,
        results: Sequence[Type] | None = None,
        regions: Sequence[Region] = (),
        attributes: Mapping[str, AttributeLike] | None = None,
        location: Location | None = None,
        **attrs: AttributeLike,
    ) -> None:
        groups = [[] if g is None else [g] if isinstance(g, Value) else list(g) for g in operands]
        named = {**attributes, **attrs} if attributes else attrs
        plain = {k.rstrip("_"): attribute(v) for k, v in named.items() if v is not None}
        plain.update(self.segments(groups))
        self._setup([v for g in groups for v in g], plain, regions, location)
        self.results: list[OpResult] = []
        self.set_result_types(self.infer() if results is None else results)

    @classmethod
    def from_parts(
        cls: type[OpT],
        operands: Sequence[Value],
        results: Sequence[Type],
        attributes: Mapping[str, Attribute],
        regions: Sequence[Region] = (),
        location: Location | None = None,
    ) -> OpT:
        """The operation as the generic form writes it: flat operands, segment sizes among the attributes."""
        op = cls.__new__(cls)
        op._setup(list(operands), dict(attributes), regions, location)
        op.results = []
        op.set_result_types(results)
        return op

    def _setup(
        self,
        operands: list[Value],
        attributes: dict[str, Attribute],
        regions: Sequence[Region],
        location: Location | None,
    ) -> None:
        self.block: Block | None = None
        self.prev: Op | None = None
        self.next: Op | None = None
        self.attributes = attributes
        self.location = location
        self.regions = list(regions)
        for region in regions:
            assert region.parent is None, "region already has an owner"
            region.parent = self
        self._operands = operands
        for value in operands:
            value.users[self] = None
        self.verified: object = None  # the verifier's: the fields that it found right
        self.recorded: object = None  # the history's: what the op said after the last pass

    def set_result_types(self, types: Sequence[Type]) -> None:
        self.results = [OpResult(t, self, i) for i, t in enumerate(types)]

    @classmethod
    def segments(cls, groups: Sequence[Sequence[Value]]) -> dict[str, Attribute]:
        """`operandSegmentSizes` for an op with several variadic operand groups."""
        if not _is_segmented(cls):
            return {}
        return {"operandSegmentSizes": _sizes(tuple(map(len, groups)))}

    # What a declaration may override ------------------------------------------------------------------

    def infer(self) -> Sequence[Type]:
        """Result types from operands and attributes."""
        results = [f for f in self.fields if f.kind == "result"]
        if not results:
            return []
        if self.has("same-type"):
            return [self.operands[0].type] * len(results)
        raise AssertionError(f"{self.name} does not infer its result types")

    def verify_op(self) -> None:
        """Checks the op's own contract; raises through `self.error(...)`."""

    def verify_symbol(self, definition: Op) -> None:
        """Checks what a symbol that the op refers to stands for."""

    def fold(self) -> Sequence[Value | Attribute] | None:
        """Each result as an existing value or a constant attribute; None if nothing folds."""
        return None

    # Structure ----------------------------------------------------------------------------------------

    @property
    def operands(self) -> list[Value]:
        """The operands; assign a new list to change them."""
        return self._operands

    @operands.setter
    def operands(self, values: Sequence[Value]) -> None:
        for old in self._operands:
            old.users.pop(self, None)
        self._operands = list(values)
        for new in self._operands:
            new.users[self] = None

    def replace_operand(self, old: Value, new: Value) -> None:
        """Reads `new` wherever the op reads `old`; faster than assigning all operands, of which there may be many."""
        self._operands = list(self._operands)
        at = -1
        with suppress(ValueError):
            while True:
                at = self._operands.index(old, at + 1)
                self._operands[at] = new
        old.users.pop(self, None)
        new.users[self] = None

    @property
    def result(self) -> OpResult:
        """The only result."""
        assert len(self.results) == 1, f"{self.name} has {len(self.results)} results"
        return self.results[0]

    @property
    def body(self) -> Block:
        """The block of the first region."""
        return self.regions[0].block

    @property
    def parent(self) -> Op | None:
        """The operation whose region holds this one."""
        return self.block.parent_op if self.block else None

    def ancestors(self) -> Iterator[Op]:
        """The enclosing operations, innermost first."""
        op = self.parent
        while op is not None:
            yield op
            op = op.parent

    @property
    def origin(self) -> Location | None:
        """Its location; of an op that was made without, that of what it is for, lies in, or holds."""
        return self.location or next(
            (near.location for near in self._near() if near.location is not None), None
        )

    def _near(self) -> Iterator[Op]:
        for result in self.results:
            yield from result.users
        yield from self.ancestors()
        for region in self.regions:
            yield from region.block.ops

    def walk(self) -> Iterator[Op]:
        """This op, then every op nested in it, in program order; the walked ops may be rewritten."""
        waiting: list[Op] = [self]
        while waiting:
            op = waiting.pop()
            yield op
            if not op.regions:
                continue
            for region in reversed(op.regions):
                inner = region.block.last
                while inner is not None:
                    waiting.append(inner)
                    inner = inner.prev

    def count_nested(self) -> int:
        """How many ops it holds, at any depth."""
        return sum(1 for _ in self.walk()) - 1

    def detach(self: OpT) -> OpT:
        """Unlinks the op from its block, to be inserted elsewhere."""
        block = self.block
        assert block is not None
        if self.prev is None:
            block.first = self.next
        else:
            self.prev.next = self.next
        if self.next is None:
            block.last = self.prev
        else:
            self.next.prev = self.prev
        self.block = self.prev = self.next = None
        return self

    def erase(self) -> None:
        """Removes the op, whose results nothing may use any more, and all that is nested in it."""
        for result in self.results:
            assert not result.users, f"{self.name} erased while %{result.name} is in use"
        if self.block is not None:
            self.detach()
        self._drop()

    def _drop(self) -> None:
        """Takes the op apart: what nobody refers to is freed at once, where the collector would look for cycles."""
        for region in self.regions:
            region.block.clear()
            region.parent = None
        self.operands, self.results, self.regions, self.verified = [], [], [], None

    def replace_by(self, *values: Value, rename: bool = False) -> None:
        """Replaces each result by a value and erases the op. A value without a name takes the result's; with `rename`
        one that has a name does so too, for it was made in the result's place. It is one of the pass's rewrites."""
        replacing(self)
        for result, value in zip(self.results, values, strict=True):
            result.replace_by(value)
            if rename and result.name is not None:
                value.name, value.serial = result.name, result.serial
        self.erase()

    def clone(self: OpT, mapping: dict[Value, Value] | None = None) -> OpT:
        """A deep copy, not yet inserted; operands go through `mapping`, which learns the new values."""
        mapping = {} if mapping is None else mapping
        regions = [
            Region(Block([a.type for a in r.block.args], [a.name for a in r.block.args]))
            for r in self.regions
        ]
        operands = [mapping.get(v, v) for v in self.operands]
        copy = type(self).from_parts(
            operands, [r.type for r in self.results], self.attributes, regions, self.location
        )
        for old, new in zip(self.results, copy.results, strict=True):
            new.name = old.name
            mapping[old] = new
        for old_region, new_region in zip(self.regions, regions, strict=True):
            mapping.update(zip(old_region.block.args, new_region.block.args, strict=True))
            for op in old_region.block.ops:
                new_region.block.append(op.clone(mapping))
        return copy

    def has(self, trait: str) -> bool:
        return trait in self.traits

    def attr(self, name: str) -> Any:
        """The attribute as a Python value (`python_value`), None if absent and without default."""
        found = self.attributes.get(name)
        if found is None:
            found = _defaults(type(self)).get(name)
        return None if found is None else python_value(found)

    def error(self, message: str) -> VerifyError:
        """An error at this op, to be raised by the caller."""
        return VerifyError(message, self)

    def __repr__(self) -> str:
        return Op.printer(self)

    def _repr_html_(self) -> str:
        from mdsl.support.notebooks import highlighted

        return highlighted(Op.printer(self), "mir")


@cache
def _defaults(declaration: type[Op]) -> dict[str, Attribute]:
    """What attributes are that an op of this kind leaves out."""
    attributes = [f for f in declaration.fields if f.kind == "attribute"]
    return {f.name: f.default for f in attributes if f.default is not None}


@lru_cache(maxsize=1024)
def _sizes(sizes: tuple[int, ...]) -> Attribute:
    return DenseArrayAttr(i32, sizes)


@cache
def _is_segmented(declaration: type[Op]) -> bool:
    """True if the ops of this kind have several variadic groups of operands."""
    return sum(f.variadic for f in declaration.fields if f.kind == "operand") > 1


class Builder:
    """Inserts operations at a point: before an op, or at a block's end."""

    def __init__(self, block: Block, before: Op | None = None, location: Location | None = None) -> None:
        self.block = block
        self.point = before
        self.location = location or (before.location if before else None)

    @staticmethod
    def before(op: Op) -> Builder:
        assert op.block is not None
        return Builder(op.block, op)

    @staticmethod
    def after(op: Op) -> Builder:
        assert op.block is not None
        return Builder(op.block, op.next, op.location)

    def add(self, op: OpT, *names: str | None) -> OpT:
        """Inserts `op`; names its results."""
        op.location = op.location or self.location
        for result, name in zip(op.results, names, strict=False):
            result.name = name
        return self.block.insert(op, self.point)

    def value(self, op: Op, name: str | None = None) -> Value:
        """Inserts `op` and returns its only result."""
        return self.add(op, name).result
