"""vector: vectors in registers, their loads and stores. Upstream's names, operands and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.ir.affine import AffineMap, Const, Dim
from mdsl.ir.attributes import ArrayAttr, Attribute, DenseArrayAttr, IntegerAttr, OpaqueAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import (
    BOOLEAN,
    FLOAT_VECTOR,
    INDEX,
    INDICES,
    MAP,
    MEMREF,
    PURE,
    READS,
    SAME_TYPE,
    VECTOR,
    Constraint,
    array_of,
    attr,
    enum,
    mixed_indices,
    operand,
    result,
    same_type,
)
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType, Type, VectorType, element_of, i1, i64, index

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


def _verify_access(op: Op, memory: Value, indices: Sequence[Value], vector: Value) -> None:
    type = memory.type
    assert isinstance(type, MemRefType) and isinstance(vector.type, VectorType)
    if len(indices) != type.rank:
        raise op.error(f"{len(indices)} indices for {type}")
    if vector.type.element != type.element:
        raise op.error(f"a {vector.type} of {type}")
    if vector.type.rank != 1 or type.rank == 0 or type.layout[-1] != 1:
        raise op.error("accesses a vector of one dimension along a last dimension of stride 1")


class Load(Op):
    """Neighbouring elements, along the last dimension."""

    name = "vector.load"
    traits = READS
    assembly = "$memory `[` $indices `]` attr-dict `:` type($memory) `,` type($output)"
    memory = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    output = result(VECTOR)

    def verify_op(self) -> None:
        _verify_access(self, self.operands[0], self.operands[1:], self.result)


class Store(Op):
    """Writes neighbouring elements, along the last dimension."""

    name = "vector.store"
    assembly = "$value `,` $memory `[` $indices `]` attr-dict `:` type($memory) `,` type($value)"
    value = operand(VECTOR)
    memory = operand(MEMREF)
    indices = operand(INDEX, variadic=True)

    def verify_op(self) -> None:
        _verify_access(self, self.operands[1], self.operands[2:], self.operands[0])


class Transfer(Op):
    """What a read and a write of memory have in common: `permutation_map` says which dimension of the memory each one of
    the vector lies along; 0 stands for none. Everything lies in the memory's bounds."""

    @property
    def memory(self) -> Value:
        return self.base  # type: ignore[attr-defined]

    @property
    def vector_type(self) -> VectorType:
        type = (self.results or self.operands)[0].type
        assert isinstance(type, VectorType)
        return type

    @property
    def places(self) -> list[int | None]:
        """The dimension of the memory along which each dimension of the vector lies; None if it repeats."""
        results = self.attr("permutation_map").results
        return [r.position if isinstance(r, Dim) else None for r in results]

    @property
    def window(self) -> list[int]:
        """How many elements along each dimension of the memory."""
        sizes = [1] * memref_of(self.memory).rank
        for place, size in zip(self.places, self.vector_type.shape, strict=True):
            if place is not None:
                sizes[place] = size
        return sizes

    def verify_op(self) -> None:
        memory, vector, map = memref_of(self.memory), self.vector_type, self.attr("permutation_map")
        if len(self.indices) != memory.rank:  # type: ignore[attr-defined]
            raise self.error(f"{len(self.indices)} indices for {memory}")  # type: ignore[attr-defined]
        if vector.element != memory.element or not vector.rank:
            raise self.error(f"a {vector} of {memory}")
        if self.mask is not None:  # type: ignore[attr-defined]
            raise self.error("masks are not supported")
        if (map.num_dims, map.num_symbols, len(map.results)) != (memory.rank, 0, vector.rank):
            raise self.error(f"{map} does not place the dimensions of {vector} along those of {memory}")
        moving = [place for place in self.places if place is not None]
        repeated = [r for r in map.results if not isinstance(r, Dim)]
        if len(set(moving)) != len(moving) or any(r != Const(0) for r in repeated):
            raise self.error(f"each result of {map} must be a dimension of its own, or 0")
        if [bool(a.value) for a in self.attributes["in_bounds"].values] != [True] * vector.rank:  # type: ignore[attr-defined]
            raise self.error(f"'in_bounds' must be true for each dimension of {vector}")


def _in_bounds(rank: int) -> ArrayAttr:
    return ArrayAttr((IntegerAttr(1, i1),) * rank)


class TransferRead(Transfer):
    """A part of memory as a vector, whose dimensions lie along some of the memory's or repeat."""

    name = "vector.transfer_read"
    traits = READS
    assembly = "$base `[` $indices `]` `,` $padding attr-dict `:` type($base) `,` type($vector)"
    base = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    padding = operand()
    mask = operand(optional=True)
    permutation_map = attr(MAP)
    in_bounds = attr(array_of(BOOLEAN, "true or false"))
    vector = result(VECTOR)

    @staticmethod
    def of(
        memory: Value, indices: Sequence[Value], padding: Value, map: AffineMap, type: VectorType
    ) -> TransferRead:
        """The vector of `type` from `indices` on; `padding` is any element."""
        return TransferRead(
            memory,
            indices,
            padding,
            None,
            permutation_map=map,
            in_bounds=_in_bounds(type.rank),
            results=[type],
        )

    def verify_op(self) -> None:
        super().verify_op()
        if self.padding.type != self.vector_type.element:
            raise self.error(f"padding {self.padding.type} of {self.vector_type}")


class TransferWrite(Transfer):
    """Writes a vector to a part of memory, each of its dimensions along one of the memory's."""

    name = "vector.transfer_write"
    assembly = "$value `,` $base `[` $indices `]` attr-dict `:` type($value) `,` type($base)"
    value = operand(VECTOR)
    base = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    mask = operand(optional=True)
    permutation_map = attr(MAP)
    in_bounds = attr(array_of(BOOLEAN, "true or false"))

    @staticmethod
    def of(value: Value, memory: Value, indices: Sequence[Value], map: AffineMap) -> TransferWrite:
        """Writes `value` from `indices` on."""
        rank = len(map.results)
        return TransferWrite(value, memory, indices, None, permutation_map=map, in_bounds=_in_bounds(rank))

    def verify_op(self) -> None:
        super().verify_op()
        if None in self.places:
            raise self.error("each dimension of the vector must lie along one of the memory")


class Broadcast(Op):
    """A scalar in every element."""

    name = "vector.broadcast"
    traits = PURE
    assembly = "$source attr-dict `:` type($source) `to` type($output)"
    source = operand()
    output = result(VECTOR)

    def verify_op(self) -> None:
        type = self.result.type
        assert isinstance(type, VectorType)
        if self.operands[0].type != type.element:
            raise self.error(f"broadcasts {self.operands[0].type} to {type}")


class Fma(Op):
    """lhs * rhs + acc, rounded once."""

    name = "vector.fma"
    traits = PURE | SAME_TYPE
    assembly = "$lhs `,` $rhs `,` $acc attr-dict `:` type($output)"
    lhs = operand(FLOAT_VECTOR)
    rhs = operand(FLOAT_VECTOR)
    acc = operand(FLOAT_VECTOR)
    output = result(FLOAT_VECTOR)


INDEX_VECTOR = Constraint(
    "a vector<Nxindex>", lambda x: isinstance(x, VectorType) and x.rank == 1 and x.element == index
)

KINDS = (
    "add",
    "mul",
    "minimumf",
    "maximumf",
    "minnumf",
    "maxnumf",
    "minsi",
    "maxsi",
    "minui",
    "maxui",
    "and",
    "or",
    "xor",
)


class Reduction(Op):
    """All elements combined to one, in order from the accumulator if there is one."""

    name = "vector.reduction"
    traits = PURE
    kind = attr(enum("vector.kind", *KINDS))
    vector = operand(VECTOR)
    acc = operand(optional=True)
    dest = result()

    @staticmethod
    def of(kind: str, vector: Value) -> Reduction:
        type = vector.type
        assert isinstance(type, VectorType)
        return Reduction(vector, None, kind=OpaqueAttr(f"#vector.kind<{kind}>"), results=[type.element])

    @property
    def word(self) -> str:
        return str(self.attributes["kind"]).removeprefix("#vector.kind<").removesuffix(">")

    def verify_op(self) -> None:
        type = self.operands[0].type
        assert isinstance(type, VectorType)
        if type.rank != 1:
            raise self.error(f"reduces vectors of one dimension, not {type}")
        if type.element != self.result.type or any(v.type != type.element for v in self.operands[1:]):
            raise self.error(f"reduces {type} to {self.result.type}")

    @classmethod
    def segments(cls, groups: Sequence[Sequence[Value]]) -> dict[str, Attribute]:
        return {}

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        kind = cursor.group("<").word()
        cursor.expect(",")
        operands = cursor.values()
        attributes = {"kind": OpaqueAttr(f"#vector.kind<{kind}>"), **cursor.attr_dict()}
        cursor.expect(":")
        start = cursor.at
        cursor.typed(operands[:1], [cursor.type()], start)
        cursor.expect("into")
        return cls.from_parts(operands, [cursor.type()], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.token(f"<{self.word}>, {printer.values(self.operands)}")
        printer.token(printer.dictionary(self, "kind"))
        printer.token(f": {self.operands[0].type} into {self.result.type}")


class Extract(Op):
    """One element, at a static position."""

    name = "vector.extract"
    traits = PURE
    assembly = "$source indices($dynamic_position, $static_position) attr-dict `:` type($output) `from` type($source)"
    source = operand(VECTOR)
    dynamic_position = mixed_indices("static_position")
    output = result()

    @staticmethod
    def of(source: Value, position: int) -> Extract:
        type = source.type
        assert isinstance(type, VectorType)
        return Extract(source, [], static_position=DenseArrayAttr(i64, (position,)), results=[type.element])

    @property
    def position(self) -> int:
        return int(self.attr("static_position")[0])

    def verify_op(self) -> None:
        _verify_position(self, self.operands[0].type, self.result.type)


class Insert(Op):
    """The destination with one element replaced, at a static position."""

    name = "vector.insert"
    traits = PURE
    assembly = "$value `,` $dest ` ` indices($dynamic_position, $static_position) attr-dict `:` type($value) `into` type($dest)"
    value = operand()
    dest = operand(VECTOR)
    dynamic_position = mixed_indices("static_position")
    output = result(VECTOR)
    relations = (same_type("dest", "output"),)

    def infer(self) -> Sequence[Type]:
        return [self.operands[1].type]

    @staticmethod
    def of(value: Value, dest: Value, position: int) -> Insert:
        return Insert(value, dest, [], static_position=DenseArrayAttr(i64, (position,)))

    @property
    def position(self) -> int:
        return int(self.attr("static_position")[0])

    def verify_op(self) -> None:
        _verify_position(self, self.operands[1].type, self.operands[0].type)


def _verify_position(op: Op, vector: Type, element: Type) -> None:
    assert isinstance(vector, VectorType)
    numbers = op.attr("static_position")
    if op.dynamic_position:  # type: ignore[attr-defined]
        raise op.error("the position must be a number")
    if vector.rank != 1 or len(numbers) != 1 or not 0 <= numbers[0] < vector.shape[0]:
        raise op.error(f"position {numbers} is not in {vector}")
    if element != vector.element:
        raise op.error(f"element {element} of {vector}")


class Shuffle(Op):
    """Elements of two vectors side by side, in the order of the mask, whose numbers count through both."""

    name = "vector.shuffle"
    traits = PURE
    v1 = operand(VECTOR)
    v2 = operand(VECTOR)
    mask = attr(INDICES)
    output = result(VECTOR)

    @staticmethod
    def of(v1: Value, v2: Value, mask: Sequence[int]) -> Shuffle:
        return Shuffle(v1, v2, mask=DenseArrayAttr(i64, tuple(mask)))

    def infer(self) -> Sequence[Type]:
        return [VectorType((len(self.attr("mask")),), element_of(self.operands[0].type))]

    def verify_op(self) -> None:
        types = [value.type for value in (*self.operands, self.result)]
        assert all(isinstance(type, VectorType) for type in types)
        if any(type.rank != 1 or element_of(type) != element_of(types[0]) for type in types):  # type: ignore[attr-defined]
            raise self.error(
                f"shuffles vectors of one dimension and one element, not {types[0]} and {types[1]}"
            )
        mask, elements = self.attr("mask"), sum(type.size for type in types[:2])  # type: ignore[attr-defined]
        if len(mask) != types[2].size or not mask or not all(0 <= n < elements for n in mask):  # type: ignore[attr-defined]
            raise self.error(f"{list(mask)} does not choose a {types[2]} of {elements} elements")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        operands = cursor.values()
        _, mask = cursor.index_list()
        attributes = {"mask": DenseArrayAttr(i64, tuple(mask)), **cursor.attr_dict()}
        cursor.expect(":")
        start = cursor.at
        cursor.typed(operands, cursor.types(), start)
        element = element_of(operands[0].type)
        return cls.from_parts(operands, [VectorType((len(mask),), element)], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.token(f"{printer.values(self.operands)} {list(self.attr('mask'))}")
        printer.token(printer.dictionary(self, "mask"))
        printer.token(f": {self.operands[0].type}, {self.operands[1].type}")


class Step(Op):
    """0, 1, 2, ... as a vector of index."""

    name = "vector.step"
    traits = PURE
    assembly = "attr-dict `:` type($output)"
    output = result(INDEX_VECTOR)
