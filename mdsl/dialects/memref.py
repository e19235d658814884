"""memref: buffers and views of them. Upstream's names, operands and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.dialects.allocation import Allocation, alignment_written
from mdsl.dialects.indices import SLICE, Index, SliceLike, slice_operands, verify_indices
from mdsl.dialects.layouts import reshaped_type, subview_type
from mdsl.dialects.reassociation import OUTPUT_SHAPE, Reassociation, reassociation
from mdsl.ir.attributes import (
    Attribute,
    DenseArrayAttr,
    DenseAttr,
    DenseResourceAttr,
    IntegerAttr,
    StringAttr,
    SymbolRefAttr,
    TypeAttr,
    UnitAttr,
    attribute,
)
from mdsl.ir.core import Op, Value
from mdsl.ir.declare import (
    ALIGNMENT,
    ANY_ATTR,
    BOOLEAN,
    GROUPS,
    INDEX,
    MEMREF,
    PURE,
    READS,
    STRING,
    SYMBOL,
    SYMBOL_REF,
    TYPE,
    UNIT,
    attr,
    mixed_indices,
    operand,
    result,
    within,
)
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, MemRefType, TensorType, Type, i32, i64
from mdsl.ir.verifier import verify_dynamic

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer


class Alloc(Allocation):
    """Memory that lives to the end of the call: in a function a place in the arena, which `plan-memory` finds;
    in a micro-kernel registers or stack."""

    name = "memref.alloc"


class Alloca(Allocation):
    """Memory of the enclosing kernel: registers or stack."""

    name = "memref.alloca"


class Dealloc(Op):
    """Ends the life of an allocation. Liveness is planned at compile time, so it does nothing."""

    name = "memref.dealloc"
    assembly = "$memory attr-dict `:` type($memory)"
    memory = operand(MEMREF)


class Global(Op):
    """Constant data of the module."""

    name = "memref.global"
    traits = SYMBOL
    sym_name = attr(STRING)
    sym_visibility = attr(STRING, optional=True)
    type = attr(TYPE)
    initial_value = attr(ANY_ATTR, optional=True)
    constant = attr(UNIT, optional=True)
    alignment = attr(ALIGNMENT, optional=True)

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        attributes: dict[str, Attribute] = {}
        if cursor.sees_token("STRING"):
            attributes["sym_visibility"] = cursor.attribute()
        if cursor.accept("constant"):
            attributes["constant"] = UnitAttr()
        attributes["sym_name"] = StringAttr(cursor.symbol())
        cursor.expect(":")
        type = cursor.type()
        attributes["type"] = TypeAttr(type)
        if cursor.accept("="):
            attributes["initial_value"] = cls._parse_data(cursor, type)
        attributes.update({**cursor.attr_dict(), **alignment_written(cursor)})
        return cls.from_parts([], [], attributes)

    @staticmethod
    def _parse_data(cursor: Cursor, type: Type) -> Attribute:
        """Dense data, whose type follows from the memref's; `uninitialized` is the unit attribute."""
        if cursor.accept("uninitialized"):
            return UnitAttr()
        return cursor.attribute(_data_type(type) if isinstance(type, MemRefType) else None)

    def verify_op(self) -> None:
        type, value = self.attr("type"), self.attributes.get("initial_value")
        if not isinstance(type, MemRefType) or not type.is_static:
            raise self.error(f"must be of a memref type with a static shape, not {type}")
        if isinstance(value, DenseAttr | DenseResourceAttr) and value.type != _data_type(type):
            raise self.error(f"data of type {value.type} for a {type}")
        if not isinstance(value, DenseAttr | DenseResourceAttr | UnitAttr | None):
            raise self.error(f"attribute 'initial_value' must be dense data, got {value}")

    def print_custom(self, printer: Printer) -> None:
        visibility = self.attributes.get("sym_visibility")
        printer.token(str(visibility) if visibility else "")
        printer.token("constant" if "constant" in self.attributes else "")
        printer.token(f"{SymbolRefAttr(str(self.attr('sym_name')))} : {self.attributes['type']}")
        value = self.attributes.get("initial_value")
        if isinstance(value, UnitAttr):
            printer.token("= uninitialized")
        elif value is not None:
            printer.token(f"= {value}".removesuffix(f" : {_data_type(self.attr('type'))}"))
        printer.token(
            printer.dictionary(self, "sym_name", "sym_visibility", "type", "initial_value", "constant")
        )


def _data_type(type: Type) -> TensorType:
    """The type of a global's data: the memref's, as a tensor."""
    assert isinstance(type, MemRefType)
    return TensorType(type.shape, type.element)


class GetGlobal(Op):
    """The memory of a `memref.global`."""

    name = "memref.get_global"
    traits = PURE
    assembly = "$name attr-dict `:` type($memory)"
    name_ = attr(SYMBOL_REF)
    memory = result(MEMREF)

    @property
    def symbol(self) -> str:
        return str(self.attr("name"))

    def verify_symbol(self, definition: Op) -> None:
        if not isinstance(definition, Global) or definition.attr("type") != self.result.type:
            raise self.error(f"@{self.symbol} is no global of type {self.result.type}")


class Load(Op):
    """One element."""

    name = "memref.load"
    traits = READS
    assembly = "$memory `[` $indices `]` attr-dict `:` type($memory)"
    memory = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    nontemporal = attr(BOOLEAN, optional=True)
    output = result()

    def infer(self) -> Sequence[Type]:
        return [memref_of(self.operands[0]).element]

    def verify_op(self) -> None:
        verify_indices(self, self.operands[0], self.operands[1:], self.result)


class Store(Op):
    """Writes one element."""

    name = "memref.store"
    assembly = "$value `,` $memory `[` $indices `]` attr-dict `:` type($memory)"
    value = operand()
    memory = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    nontemporal = attr(BOOLEAN, optional=True)

    def verify_op(self) -> None:
        verify_indices(self, self.operands[1], self.operands[2:], self.operands[0])


class Prefetch(Op):
    """Asks for the cache line of an element ahead of its use: a hint, which reads nothing.

    Unlike a load, it may name a place outside of the memory: a loop that prefetches some steps ahead runs
    past the end. `locality` goes from 0 (used once) to 3 (keep it in every cache).
    """

    name = "memref.prefetch"
    memory = operand(MEMREF)
    indices = operand(INDEX, variadic=True)
    isWrite = attr(BOOLEAN)
    localityHint = attr(within(i32, 0, 3))
    isDataCache = attr(BOOLEAN)

    @staticmethod
    def of(memory: Value, indices: Sequence[Value], locality: int = 3) -> Prefetch:
        """A prefetch for reading, into the data cache."""
        hint = IntegerAttr(locality, i32)
        return Prefetch(memory, indices, isWrite=False, localityHint=hint, isDataCache=True)

    def verify_op(self) -> None:
        rank = memref_of(self.operands[0]).rank
        if len(self.operands) - 1 != rank:
            raise self.error(f"needs {rank} indices, got {len(self.operands) - 1}")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        memory = cursor.value()
        indices = cursor.group("[").values()
        cursor.expect(",")
        write = cursor.accept("write")
        if not write:
            cursor.expect("read")
        cursor.expect(",")
        cursor.expect("locality")
        hint = cursor.group("<").integer()
        cursor.expect(",")
        data = cursor.accept("data")
        if not data:
            cursor.expect("instr")
        named = {"isWrite": write, "localityHint": IntegerAttr(hint, i32), "isDataCache": data}
        attributes = {**{k: attribute(v) for k, v in named.items()}, **cursor.attr_dict()}
        cursor.expect(":")
        start = cursor.at
        cursor.typed([memory], [cursor.type()], start)
        return cls.from_parts([memory, *indices], [], attributes)

    def print_custom(self, printer: Printer) -> None:
        access = "write" if self.attr("isWrite") else "read"
        cache = "data" if self.attr("isDataCache") else "instr"
        printer.token(f"{printer.name(self.operands[0])}[{printer.values(self.operands[1:])}],")
        printer.token(f"{access}, locality<{self.attr('localityHint')}>, {cache}")
        printer.token(printer.dictionary(self, "isWrite", "localityHint", "isDataCache"))
        printer.token(f": {self.operands[0].type}")


class SubView(SliceLike):
    """A part of memory: `[offsets] [sizes] [strides]`."""

    name = "memref.subview"
    traits = PURE
    assembly = f"$source {SLICE} attr-dict `:` type($source) `to` type($view)"
    source = operand(MEMREF)
    offsets = mixed_indices("static_offsets")
    sizes = mixed_indices("static_sizes")
    strides = mixed_indices("static_strides")
    view = result(MEMREF)

    @staticmethod
    def of(
        source: Value,
        offsets: Sequence[Index],
        sizes: Sequence[int],
        strides: Sequence[int] | None = None,
        shape: Sequence[int] | None = None,
    ) -> SubView:
        """The view of `shape` (default: `sizes`; unit dimensions may be dropped). Sizes and strides are static."""
        groups, attributes = slice_operands(offsets, sizes, strides)
        type = subview_type(
            memref_of(source),
            offsets,
            sizes,
            strides or [1] * len(sizes),
            sizes if shape is None else shape,
        )
        return SubView(source, *groups, results=[type], attributes=attributes)

    def verify_op(self) -> None:
        source, view = memref_of(self.operands[0]), memref_of(self.result)
        self.verify_slice(source.shape, view.shape)
        if self.sizes or self.strides:
            raise self.error("sizes and strides must be numbers")
        wanted = subview_type(
            source, self.mixed("offsets"), self.attr("static_sizes"), self.attr("static_strides"), view.shape
        )
        if wanted != view:
            raise self.error(f"makes a {wanted}, not a {view}")


class CollapseShape(Reassociation):
    """Merges neighbouring dimensions that have no gaps between them."""

    name = "memref.collapse_shape"
    traits = PURE
    assembly = "$source $reassociation attr-dict `:` type($source) `into` type($view)"
    source = operand(MEMREF)
    reassociation = attr(GROUPS)
    view = result(MEMREF)

    @staticmethod
    def of(source: Value, groups: Sequence[Sequence[int]], shape: Sequence[int]) -> CollapseShape:
        type = reshaped_type(memref_of(source), groups, shape)
        assert type is not None, f"{source.type} has gaps"
        return CollapseShape(source, reassociation=reassociation(groups), results=[type])

    def verify_op(self) -> None:
        self.verify_groups(memref_of(self.result).shape, memref_of(self.operands[0]).shape)
        _verify_reshape(self)


class ExpandShape(Reassociation):
    """Splits dimensions into neighbouring ones."""

    name = "memref.expand_shape"
    traits = PURE
    assembly = f"$source $reassociation {OUTPUT_SHAPE} attr-dict `:` type($source) `into` type($view)"
    source = operand(MEMREF)
    reassociation = attr(GROUPS)
    output_shape = mixed_indices("static_output_shape")
    view = result(MEMREF)

    @staticmethod
    def of(source: Value, groups: Sequence[Sequence[int]], shape: Sequence[int]) -> ExpandShape:
        type = reshaped_type(memref_of(source), groups, shape)
        assert type is not None, f"{source.type} has gaps"
        numbers = DenseArrayAttr(i64, tuple(shape))
        return ExpandShape(
            source, [], reassociation=reassociation(groups), static_output_shape=numbers, results=[type]
        )

    def verify_op(self) -> None:
        self.verify_expansion(memref_of(self.result).shape)
        self.verify_groups(memref_of(self.operands[0]).shape, memref_of(self.result).shape)
        _verify_reshape(self)


def _verify_reshape(op: Reassociation) -> None:
    source = memref_of(op.operands[0])
    wanted = reshaped_type(source, op.groups, memref_of(op.result).shape)
    if wanted is None:
        raise op.error(f"{source} has gaps")
    if wanted != op.result.type:
        raise op.error(f"makes a {wanted}, not a {op.result.type}")


class View(Op):
    """Typed memory at a byte offset of a buffer of i8."""

    name = "memref.view"
    traits = PURE
    assembly = "$source `[` $byte_shift `]` `[` $sizes `]` attr-dict `:` type($source) `to` type($view)"
    source = operand(MEMREF)
    byte_shift = operand(INDEX, doc="bytes")
    sizes = operand(INDEX, variadic=True)
    view = result(MEMREF)

    def verify_op(self) -> None:
        from mdsl.ir.types import i8

        source = memref_of(self.operands[0])
        if source.element != i8 or source.rank != 1 or source.strides is not None:
            raise self.error(f"views dense memory of i8 in one dimension, not {source}")
        view = memref_of(self.result)
        verify_dynamic(self, "sizes", self.sizes, view.shape)
        if view.strides is not None:
            raise self.error(f"makes dense memory, not {view}")
        if source.is_static and view.is_static and view.nbytes > source.nbytes:
            raise self.error(f"{view} has {view.nbytes} bytes, {source} only {source.nbytes}")


class Copy(Op):
    """Copies elements between memories of one shape."""

    name = "memref.copy"
    assembly = "$source `,` $target attr-dict `:` type($source) `to` type($target)"
    source = operand(MEMREF)
    target = operand(MEMREF)

    def verify_op(self) -> None:
        source, target = memref_of(self.operands[0]), memref_of(self.operands[1])
        if (source.shape, source.element) != (target.shape, target.element):
            raise self.error(f"copies {source} to {target}")


class Cast(Op):
    """The same memory under a type with more or fewer known numbers."""

    name = "memref.cast"
    traits = PURE
    assembly = "$source attr-dict `:` type($source) `to` type($view)"
    source = operand(MEMREF)
    view = result(MEMREF)

    def verify_op(self) -> None:
        source, view = memref_of(self.operands[0]), memref_of(self.result)
        known = DYNAMIC not in (source.offset, view.offset)
        if (source.shape, source.element, source.layout) != (view.shape, view.element, view.layout) or (
            known and source.offset != view.offset
        ):
            raise self.error(f"cannot see {source} as {view}: only the offset may become unknown")
