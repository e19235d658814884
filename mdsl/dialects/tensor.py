"""tensor: shapes and parts of tensors. Upstream's names, operands and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from mdsl.ir.attributes import ArrayAttr, Attribute, DenseArrayAttr, IntegerAttr
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    GROUPS,
    INDEX,
    INDICES,
    INT,
    PURE,
    SCALAR,
    STATIC_TENSOR,
    TENSOR,
    TERMINATOR,
    attr,
    operand,
    region,
    result,
    same_element,
    same_type,
)
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i64, index
from mdsl.ir.verifier import infer_results

if TYPE_CHECKING:
    from mdsl.syntax.cursor import Cursor
    from mdsl.syntax.printer import Printer

Index = Value | int


def split_indices(entries: Sequence[Index]) -> tuple[list[Value], DenseArrayAttr]:
    """Offsets, sizes or strides as upstream stores them: the values, and all entries as numbers."""
    values = [e for e in entries if isinstance(e, Value)]
    return values, DenseArrayAttr(i64, tuple(DYNAMIC if isinstance(e, Value) else e for e in entries))


def join_indices(values: Sequence[Value], numbers: Sequence[int]) -> list[Index]:
    """The inverse of `split_indices`."""
    remaining = iter(values)
    return [next(remaining) if n == DYNAMIC else n for n in numbers]


def verify_dynamic(
    op: Op, what: str, values: Sequence[Value], numbers: Sequence[int], mark: int = DYNAMIC
) -> None:
    """There must be a value for each number that only the run will know."""
    wanted = sum(n == mark for n in numbers)
    if len(values) != wanted:
        raise op.error(f"{len(values)} values for {wanted} unknown {what}")


def slice_operands(
    offsets: Sequence[Index], sizes: Sequence[Index], strides: Sequence[Index] | None
) -> tuple[list[list[Value]], dict[str, Attribute]]:
    """Operand groups and attributes of a slice; `strides` default to 1."""
    parts = [split_indices(e) for e in (offsets, sizes, strides or [1] * len(offsets))]
    names = ("static_offsets", "static_sizes", "static_strides")
    return [p[0] for p in parts], {n: p[1] for n, p in zip(names, parts, strict=True)}


SLICE = "indices($offsets, $static_offsets) indices($sizes, $static_sizes) indices($strides, $static_strides)"
"""How a slice op writes its offsets, sizes and strides."""


class SliceLike(Op):
    """What slices share: offsets, sizes and strides, each a number or a value."""

    def mixed(self, which: str) -> list[Index]:
        """`offsets`, `sizes` or `strides` as numbers and values."""
        return join_indices(getattr(self, which), self.attr(f"static_{which}"))

    def verify_slice(self, shape: Sequence[int], part: Sequence[int]) -> None:
        """The slice must lie in `shape` and be of shape `part` (unit dimensions may be dropped)."""
        numbers = [self.attr(f"static_{w}") for w in ("offsets", "sizes", "strides")]
        if any(len(n) != len(shape) for n in numbers):
            raise self.error(f"needs {len(shape)} offsets, sizes and strides")
        for which, known in zip(("offsets", "sizes", "strides"), numbers, strict=True):
            verify_dynamic(self, which, getattr(self, which), known)
        for dim, offset, size, stride in zip(shape, *numbers, strict=True):
            if stride < 1 and stride != DYNAMIC:
                raise self.error(f"strides must be positive, got {stride}")
            if min(n for n in (0, offset, size) if n != DYNAMIC) < 0:
                raise self.error(f"the offset {offset} and the size {size} must not be negative")
            known = DYNAMIC not in (offset, size, stride)
            if known and dim >= 0 and size > 0 and not 0 <= offset + (size - 1) * stride < dim:
                raise self.error(f"[{offset}] [{size}] [{stride}] leaves a dimension of {dim}")
        sizes = [s for s in numbers[1] if s != DYNAMIC]
        if len(sizes) == len(shape) and not same_but_units(sizes, part):
            raise self.error(f"a slice of sizes {sizes} is not of shape {list(part)}")


def same_but_units(full: Sequence[int], reduced: Sequence[int]) -> bool:
    """True if `reduced` is `full` with some dimensions of 1 dropped."""
    remaining = list(reduced)
    for size in full:
        if remaining and remaining[0] == size:
            remaining.pop(0)
        elif size != 1:
            return False
    return not remaining


class Empty(Op):
    """A tensor whose elements nobody has written yet; a destination."""

    name = "tensor.empty"
    traits = PURE
    sizes = operand(INDEX, variadic=True)
    output = result(TENSOR)

    def verify_op(self) -> None:
        verify_dynamic(self, "sizes", self.operands, self.result.type.shape, DYNAMIC)  # type: ignore[attr-defined]

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        sizes = cursor.group("(").values()
        attributes = cursor.attr_dict()
        cursor.expect(":")
        return cls.from_parts(sizes, [cursor.type()], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.parts.append(f"({printer.values(self.operands)})")
        printer.token(printer.attributes(self.attributes) if self.attributes else "")
        printer.token(f": {self.result.type}")


class ExtractSlice(SliceLike):
    """A part of a tensor: `[offsets] [sizes] [strides]`."""

    name = "tensor.extract_slice"
    traits = PURE
    assembly = f"$source {SLICE} attr-dict `:` type($source) `to` type($output)"
    source = operand(TENSOR)
    offsets = operand(INDEX, variadic=True)
    sizes = operand(INDEX, variadic=True)
    strides = operand(INDEX, variadic=True)
    static_offsets = attr(INDICES)
    static_sizes = attr(INDICES)
    static_strides = attr(INDICES)
    output = result(TENSOR)
    relations = (same_element("source", "output"),)

    @staticmethod
    def of(
        source: Value,
        offsets: Sequence[Index],
        sizes: Sequence[Index],
        strides: Sequence[Index] | None = None,
        shape: Sequence[int] | None = None,
    ) -> ExtractSlice:
        """The slice as a tensor of `shape` (default: `sizes`)."""
        groups, attributes = slice_operands(offsets, sizes, strides)
        own = [s if isinstance(s, int) else DYNAMIC for s in sizes]
        type = TensorType(tuple(own if shape is None else shape), tensor_of(source).element)  # type: ignore[attr-defined]
        return ExtractSlice(source, *groups, results=[type], attributes=attributes)

    def verify_op(self) -> None:
        self.verify_slice(self.operands[0].type.shape, self.result.type.shape)  # type: ignore[attr-defined]


class InsertSlice(SliceLike):
    """The destination with one part replaced by the source."""

    name = "tensor.insert_slice"
    traits = PURE
    assembly = f"$source `into` $dest {SLICE} attr-dict `:` type($source) `into` type($dest)"
    source = operand(TENSOR)
    dest = operand(TENSOR)
    offsets = operand(INDEX, variadic=True)
    sizes = operand(INDEX, variadic=True)
    strides = operand(INDEX, variadic=True)
    static_offsets = attr(INDICES)
    static_sizes = attr(INDICES)
    static_strides = attr(INDICES)
    output = result(TENSOR)
    relations = same_element("source", "dest"), same_type("dest", "output")

    @staticmethod
    def of(
        source: Value,
        dest: Value,
        offsets: Sequence[Index],
        sizes: Sequence[Index],
        strides: Sequence[Index] | None = None,
    ) -> InsertSlice:
        groups, attributes = slice_operands(offsets, sizes, strides)
        return InsertSlice(source, dest, *groups, attributes=attributes)

    def infer(self) -> Sequence[Type]:
        return [self.operands[1].type]

    def verify_op(self) -> None:
        self.verify_slice(self.operands[1].type.shape, self.operands[0].type.shape)  # type: ignore[attr-defined]


class ParallelInsertSlice(SliceLike):
    """Writes a part of a shared destination; stands in `scf.forall.in_parallel`."""

    name = "tensor.parallel_insert_slice"
    assembly = f"$source `into` $dest {SLICE} attr-dict `:` type($source) `into` type($dest)"
    source = operand(TENSOR)
    dest = operand(TENSOR)
    offsets = operand(INDEX, variadic=True)
    sizes = operand(INDEX, variadic=True)
    strides = operand(INDEX, variadic=True)
    static_offsets = attr(INDICES)
    static_sizes = attr(INDICES)
    static_strides = attr(INDICES)
    relations = (same_element("source", "dest"),)

    @staticmethod
    def of(
        source: Value,
        dest: Value,
        offsets: Sequence[Index],
        sizes: Sequence[int],
        strides: Sequence[Index] | None = None,
    ) -> ParallelInsertSlice:
        groups, attributes = slice_operands(offsets, sizes, strides)
        return ParallelInsertSlice(source, dest, *groups, results=[], attributes=attributes)

    def verify_op(self) -> None:
        self.verify_slice(self.operands[1].type.shape, self.operands[0].type.shape)  # type: ignore[attr-defined]


def _groups(op: Op) -> list[list[int]]:
    """`reassociation` as lists of dimensions."""
    found = op.attributes["reassociation"]
    assert isinstance(found, ArrayAttr)
    return [
        [v.value for v in g.values if isinstance(v, IntegerAttr)] for g in found if isinstance(g, ArrayAttr)
    ]


OUTPUT_SHAPE = "`output_shape` indices($output_shape, $static_output_shape)"
"""How expand_shape writes its result's shape."""


class Reassociation(Op):
    """What expand_shape and collapse_shape share; `tensor` and `memref` have both."""

    @property
    def groups(self) -> list[list[int]]:
        """For each dimension of the smaller rank, those of the larger that it stands for."""
        return _groups(self)

    def verify_groups(self, small: Sequence[int], large: Sequence[int]) -> None:
        if not small and not self.groups and all(d == 1 for d in large):
            return  # one element, as a tensor of rank 0
        flat = [d for g in self.groups for d in g]
        if flat != list(range(len(large))) or len(self.groups) != len(small):
            raise self.error(
                f"reassociation {self.groups} does not map {len(large)} dimensions to {len(small)}"
            )
        for size, group in zip(small, self.groups, strict=True):
            parts = [large[d] for d in group]
            if (DYNAMIC in parts) != (size == DYNAMIC) or (size != DYNAMIC and prod(parts) != size):
                raise self.error(f"dimensions {_shown(parts)} do not make {_shown([size])}")

    def verify_expansion(self, values: Sequence[Value], numbers: Sequence[int], shape: Sequence[int]) -> None:
        """`output_shape` says what the result's type says."""
        verify_dynamic(self, "sizes", values, numbers)
        if tuple(numbers) != tuple(shape):
            raise self.error(f"output_shape {_shown(numbers)} is not {_shown(shape)}")


def _shown(shape: Sequence[int]) -> list[int | str]:
    return ["?" if size == DYNAMIC else size for size in shape]


def reassociation(groups: Sequence[Sequence[int]]) -> ArrayAttr:
    return ArrayAttr(tuple(ArrayAttr(tuple(IntegerAttr(d) for d in g)) for g in groups))


def groups_between(small: Sequence[int], large: Sequence[int]) -> list[list[int]] | None:
    """The reassociation that makes `small` of `large`, if there is one."""
    groups: list[list[int]] = []
    at = 0
    for size in small:
        group: list[int] = []
        product = 1
        while at < len(large) and (not group or product < size):
            product *= large[at]
            group.append(at)
            at += 1
        if product != size:
            return None
        groups.append(group)
    if at < len(large):
        if any(d != 1 for d in large[at:]):
            return None
        if groups:
            groups[-1].extend(range(at, len(large)))
    return groups


class CollapseShape(Reassociation):
    """Merges neighbouring dimensions."""

    name = "tensor.collapse_shape"
    traits = PURE
    assembly = "$source $reassociation attr-dict `:` type($source) `into` type($output)"
    source = operand(TENSOR)
    reassociation = attr(GROUPS)
    output = result(TENSOR)
    relations = (same_element("source", "output"),)

    @staticmethod
    def of(source: Value, groups: Sequence[Sequence[int]]) -> CollapseShape:
        type = tensor_of(source)
        shape = tuple(prod(type.shape[d] for d in g) for g in groups)
        return CollapseShape(
            source, reassociation=reassociation(groups), results=[TensorType(shape, type.element)]
        )

    def verify_op(self) -> None:
        self.verify_groups(self.result.type.shape, self.operands[0].type.shape)  # type: ignore[attr-defined]


class ExpandShape(Reassociation):
    """Splits dimensions into neighbouring ones."""

    name = "tensor.expand_shape"
    traits = PURE
    assembly = f"$source $reassociation {OUTPUT_SHAPE} attr-dict `:` type($source) `into` type($output)"
    source = operand(TENSOR)
    output_shape = operand(INDEX, variadic=True)
    reassociation = attr(GROUPS)
    static_output_shape = attr(INDICES)
    output = result(TENSOR)
    relations = (same_element("source", "output"),)

    @staticmethod
    def of(source: Value, groups: Sequence[Sequence[int]], shape: Sequence[int]) -> ExpandShape:
        return ExpandShape(
            source,
            [],
            reassociation=reassociation(groups),
            static_output_shape=DenseArrayAttr(i64, tuple(shape)),
            results=[TensorType(tuple(shape), tensor_of(source).element)],
        )

    def verify_op(self) -> None:
        self.verify_expansion(self.output_shape, self.attr("static_output_shape"), self.result.type.shape)  # type: ignore[attr-defined]
        self.verify_groups(self.operands[0].type.shape, self.result.type.shape)  # type: ignore[attr-defined]


class Pad(Op):
    """The source with a border: `low[..] high[..]`; the region yields the border's value."""

    name = "tensor.pad"
    traits = PURE
    source = operand(TENSOR)
    low = operand(INDEX, variadic=True)
    high = operand(INDEX, variadic=True)
    static_low = attr(INDICES)
    static_high = attr(INDICES)
    output = result(TENSOR)
    body_region = region(arguments=True)
    relations = (same_element("source", "output"),)

    @staticmethod
    def of(source: Value, low: Sequence[int], high: Sequence[int], value: Value) -> Pad:
        """A border of the constant `value`."""
        type = tensor_of(source)
        shape = tuple(lo + d + hi for lo, d, hi in zip(low, type.shape, high, strict=True))
        block = Block([index] * type.rank)
        block.append(Yield(value, results=[]))
        return Pad(
            source,
            [],
            [],
            static_low=DenseArrayAttr(i64, tuple(low)),
            static_high=DenseArrayAttr(i64, tuple(high)),
            results=[TensorType(shape, type.element)],
            regions=[Region(block)],
        )

    @property
    def padding_value(self) -> Value:
        """What the region yields."""
        return self.body.terminator.operands[0]

    def verify_op(self) -> None:
        source, target = self.operands[0].type, self.result.type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        low, high = self.attr("static_low"), self.attr("static_high")
        verify_dynamic(self, "low numbers", self.low, low)
        verify_dynamic(self, "high numbers", self.high, high)
        if len(low) != source.rank or len(high) != source.rank or target.rank != source.rank:
            raise self.error(f"needs {source.rank} low and high numbers and a result of that rank")
        for lo, d, hi, size in zip(low, source.shape, high, target.shape, strict=True):
            if DYNAMIC not in (lo, d, hi, size) and lo + d + hi != size:
                raise self.error(f"{d} with {lo} before and {hi} behind is not {size}")
        end = self.body.last
        if [a.type for a in self.body.args] != [index] * source.rank:
            raise self.error(f"the body must take {source.rank} indices")
        if end is None or end.name != "tensor.yield" or end.operands[0].type != source.element:
            raise (end or self).error(f"the body must end in 'tensor.yield' with a {source.element}")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        source = cursor.value()
        lists: list[tuple[list[Value], list[int]]] = []
        for word in ("low", "high"):
            cursor.expect(word)
            lists.append(cursor.index_list())
        body = cursor.region()
        attributes: dict[str, Attribute] = {
            **cursor.attr_dict(),
            "static_low": DenseArrayAttr(i64, tuple(lists[0][1])),
            "static_high": DenseArrayAttr(i64, tuple(lists[1][1])),
        }
        cursor.expect(":")
        start = cursor.at
        cursor.typed([source], [cursor.type()], start)
        cursor.expect("to")
        attributes.update(cls.segments([[source], lists[0][0], lists[1][0]]))
        return cls.from_parts([source, *lists[0][0], *lists[1][0]], [cursor.type()], attributes, [body])

    def print_custom(self, printer: Printer) -> None:
        printer.token(printer.name(self.operands[0]))
        printer.token(f"low{printer.index_list(self.low, self.attr('static_low'))}")
        printer.token(f"high{printer.index_list(self.high, self.attr('static_high'))}")
        printer.region(self.regions[0], label=True)
        printer.token(f": {self.operands[0].type} to {self.result.type}")


class Yield(Op):
    """Ends the body of `tensor.pad`."""

    name = "tensor.yield"
    traits = TERMINATOR
    assembly = "$value attr-dict `:` type($value)"
    value = operand()


class Extract(Op):
    """One element."""

    name = "tensor.extract"
    traits = PURE
    source = operand(TENSOR)
    indices = operand(INDEX, variadic=True)
    output = result()

    def infer(self) -> Sequence[Type]:
        return [self.operands[0].type.element]  # type: ignore[attr-defined]

    def verify_op(self) -> None:
        verify_indices(self, self.operands[0], self.operands[1:], self.result)

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        source = cursor.value()
        indices = cursor.group("[").values()
        attributes = cursor.attr_dict()
        cursor.expect(":")
        start = cursor.at
        cursor.typed([source], [cursor.type()], start)
        op = cls.from_parts([source, *indices], [], attributes)
        infer_results(op)
        return op

    def print_custom(self, printer: Printer) -> None:
        print_access(self, printer, [], self.operands[0], self.operands[1:])


class Insert(Op):
    """The destination with one element replaced."""

    name = "tensor.insert"
    traits = PURE
    scalar = operand()
    dest = operand(TENSOR)
    indices = operand(INDEX, variadic=True)
    output = result(TENSOR)
    relations = (same_type("dest", "output"),)

    def infer(self) -> Sequence[Type]:
        return [self.operands[1].type]

    def verify_op(self) -> None:
        verify_indices(self, self.operands[1], self.operands[2:], self.operands[0])

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        scalar = cursor.value()
        cursor.expect("into")
        dest = cursor.value()
        indices = cursor.group("[").values()
        attributes = cursor.attr_dict()
        cursor.expect(":")
        start = cursor.at
        cursor.typed([dest], [cursor.type()], start)
        return cls.from_parts([scalar, dest, *indices], [dest.type], attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.token(f"{printer.name(self.operands[0])} into")
        print_access(self, printer, [], self.operands[1], self.operands[2:])


def verify_indices(op: Op, shaped: Value, indices: Sequence[Value], element: Value) -> None:
    """One index a dimension, and the element's type."""
    type = shaped.type
    if len(indices) != type.rank:  # type: ignore[attr-defined]
        raise op.error(f"{len(indices)} indices for {type}")
    if element.type != type.element:  # type: ignore[attr-defined]
        raise op.error(f"element of type {element.type} for {type}")


def print_access(
    op: Op, printer: Printer, lead: Sequence[Value], shaped: Value, indices: Sequence[Value], extra: str = ""
) -> None:
    """`%v, %m[%i, %j] {..} : type`."""
    front = "".join(f"{printer.name(v)}, " for v in lead)
    printer.token(f"{front}{printer.name(shaped)}[{printer.values(indices)}]")
    printer.token(printer.attributes(op.attributes) if op.attributes else "")
    printer.token(f": {shaped.type}{extra}")


class FromElements(Op):
    """A tensor of the operands, row-major."""

    name = "tensor.from_elements"
    traits = PURE
    assembly = "operands attr-dict `:` type($output)"
    elements = operand(SCALAR, variadic=True)
    output = result(STATIC_TENSOR)
    relations = (same_element("elements", "output"),)

    def verify_op(self) -> None:
        if self.result.type.size != len(self.operands):  # type: ignore[attr-defined]
            raise self.error(f"{len(self.operands)} elements for {self.result.type}")


class Splat(Op):
    """A tensor with one value everywhere."""

    name = "tensor.splat"
    traits = PURE
    assembly = "$input attr-dict `:` type($output)"
    input = operand(SCALAR)
    output = result(STATIC_TENSOR)
    relations = (same_element("input", "output"),)


class Concat(Op):
    """The operands joined along one dimension."""

    name = "tensor.concat"
    traits = PURE
    dim = attr(INT)
    inputs = operand(TENSOR, variadic=True)
    output = result(TENSOR)

    def infer(self) -> Sequence[Type]:
        types = [v.type for v in self.operands]
        first = types[0]
        assert isinstance(first, TensorType)
        dim = self.attr("dim")
        if not 0 <= dim < first.rank or any(
            not isinstance(t, TensorType) or t.rank != first.rank for t in types
        ):
            raise self.error(f"cannot join {', '.join(map(str, types))} along dimension {dim}")
        total = sum(t.shape[dim] for t in types if isinstance(t, TensorType))
        return [TensorType((*first.shape[:dim], total, *first.shape[dim + 1 :]), first.element)]

    def verify_op(self) -> None:
        if not self.operands:
            raise self.error("needs at least one tensor")
        if list(self.infer()) != [self.result.type]:
            raise self.error(f"makes a {self.infer()[0]}, not a {self.result.type}")

    @classmethod
    def parse_custom(cls, cursor: Cursor) -> Op:
        cursor.expect("dim")
        inner = cursor.group("(")
        dim = inner.integer()
        operands = cursor.values()
        attributes = {"dim": IntegerAttr(dim), **cursor.attr_dict()}
        cursor.expect(":")
        start = cursor.at
        type = cursor.function_type()
        cursor.typed(operands, type.inputs, start)
        return cls.from_parts(operands, type.results, attributes)

    def print_custom(self, printer: Printer) -> None:
        printer.token(
            f"dim({self.attr('dim')}) {printer.values(self.operands)} : {printer.function_type(self)}"
        )


class CastOp(Op):
    """The same tensor under a type with more or fewer known dimensions."""

    name = "tensor.cast"
    traits = PURE
    assembly = "$source attr-dict `:` type($source) `to` type($output)"
    source = operand(TENSOR)
    output = result(TENSOR)
    relations = (same_element("source", "output"),)

    def verify_op(self) -> None:
        source, target = self.operands[0].type, self.result.type
        assert isinstance(source, TensorType) and isinstance(target, TensorType)
        sizes = zip(source.shape, target.shape, strict=False)
        if source.rank != target.rank or any(DYNAMIC not in (a, b) and a != b for a, b in sizes):
            raise self.error(f"cannot see {source} as {target}")


class DimOp(Op):
    """The size of one dimension."""

    name = "tensor.dim"
    traits = PURE
    assembly = "$source `,` $dimension attr-dict `:` type($source)"
    source = operand(TENSOR)
    dimension = operand(INDEX)
    output = result(INDEX)

    def infer(self) -> Sequence[Type]:
        return [index]
