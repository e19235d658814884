"""tensor: shapes and parts of tensors. Upstream's names, operands and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from mdsl.dialects.indices import SLICE, Index, SliceLike, slice_operands, verify_indices
from mdsl.dialects.reassociation import OUTPUT_SHAPE, Reassociation, reassociation
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Block, Op, Region, Value
from mdsl.ir.declare import (
    DIMENSIONED,
    GROUPS,
    INDEX,
    INT,
    PURE,
    SCALAR,
    STATIC_TENSOR,
    TENSOR,
    TERMINATOR,
    attr,
    mixed_indices,
    operand,
    region,
    result,
    same_element,
    same_type,
)
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, Type, i64, index, shapes_agree
from mdsl.ir.verifier import verify_dynamic

if TYPE_CHECKING:
    pass


class Empty(Op):
    """A tensor whose elements nobody has written yet; a destination."""

    name = "tensor.empty"
    traits = PURE
    assembly = "`(` $sizes `)` attr-dict `:` type($output)"
    sizes = operand(INDEX, variadic=True)
    output = result(TENSOR)

    def verify_op(self) -> None:
        verify_dynamic(self, "sizes", self.operands, self.result.type.shape)  # type: ignore[attr-defined]


class ExtractSlice(SliceLike):
    """A part of a tensor: `[offsets] [sizes] [strides]`."""

    name = "tensor.extract_slice"
    traits = PURE
    assembly = f"$source {SLICE} attr-dict `:` type($source) `to` type($output)"
    source = operand(TENSOR)
    offsets = mixed_indices("static_offsets")
    sizes = mixed_indices("static_sizes")
    strides = mixed_indices("static_strides")
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
    offsets = mixed_indices("static_offsets")
    sizes = mixed_indices("static_sizes")
    strides = mixed_indices("static_strides")
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
    offsets = mixed_indices("static_offsets")
    sizes = mixed_indices("static_sizes")
    strides = mixed_indices("static_strides")
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
        loop = self.parent.parent if self.parent else None
        if self.parent is None or self.parent.name != "scf.forall.in_parallel" or loop is None:
            raise self.error("stands in 'scf.forall.in_parallel'")
        if self.operands[1] not in loop.body.args:
            raise self.error("writes only to what the loop shares (shared_outs)")


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
    reassociation = attr(GROUPS)
    output_shape = mixed_indices("static_output_shape")
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
        self.verify_expansion(self.result.type.shape)  # type: ignore[attr-defined]
        self.verify_groups(self.operands[0].type.shape, self.result.type.shape)  # type: ignore[attr-defined]


class Pad(Op):
    """The source with a border: `low[..] high[..]`; the region yields the border's value."""

    name = "tensor.pad"
    traits = PURE
    assembly = (
        "$source `low` `` indices($low, $static_low) `high` `` indices($high, $static_high) $body_region attr-dict "
        "`:` type($source) `to` type($output)"
    )
    source = operand(TENSOR)
    low = mixed_indices("static_low")
    high = mixed_indices("static_high")
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
        if len(low) != source.rank or len(high) != source.rank or target.rank != source.rank:
            raise self.error(f"needs {source.rank} low and high numbers and a result of that rank")
        for lo, d, hi, size in zip(low, source.shape, high, target.shape, strict=True):
            if DYNAMIC not in (lo, d, hi) and lo + d + hi != size:
                raise self.error(f"{d} with {lo} before and {hi} behind is not {size}")
        end = self.body.last
        if [a.type for a in self.body.args] != [index] * source.rank:
            raise self.error(f"the body must take {source.rank} indices")
        if end is None or end.name != "tensor.yield" or end.operands[0].type != source.element:
            raise (end or self).error(f"the body must end in 'tensor.yield' with a {source.element}")


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
    assembly = "$source `[` $indices `]` attr-dict `:` type($source)"
    source = operand(TENSOR)
    indices = operand(INDEX, variadic=True)
    output = result()

    def infer(self) -> Sequence[Type]:
        return [self.operands[0].type.element]  # type: ignore[attr-defined]

    def verify_op(self) -> None:
        verify_indices(self, self.operands[0], self.operands[1:], self.result)


class Insert(Op):
    """The destination with one element replaced."""

    name = "tensor.insert"
    traits = PURE
    assembly = "$scalar `into` $dest `[` $indices `]` attr-dict `:` type($dest)"
    scalar = operand()
    dest = operand(TENSOR)
    indices = operand(INDEX, variadic=True)
    output = result(TENSOR)
    relations = (same_type("dest", "output"),)

    def infer(self) -> Sequence[Type]:
        return [self.operands[1].type]

    def verify_op(self) -> None:
        verify_indices(self, self.operands[1], self.operands[2:], self.operands[0])


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
    assembly = "`dim` `(` $dim `)` operands attr-dict `:` functional-type"
    dim = attr(INT)
    inputs = operand(TENSOR, variadic=True)
    output = result(TENSOR)

    relations = (same_element("inputs", "output"),)

    def infer(self) -> Sequence[Type]:
        types = [tensor_of(v) for v in self.operands]
        dim, rank = self.attr("dim"), types[0].rank
        if not 0 <= dim < rank or any(t.rank != rank for t in types):
            raise self.error(f"cannot join {', '.join(map(str, types))} along dimension {dim}")
        shape: list[int] = []
        for d, sizes in enumerate(zip(*(t.shape for t in types), strict=True)):
            known = set(sizes) - {DYNAMIC}
            if d == dim:
                shape.append(DYNAMIC if DYNAMIC in sizes else sum(sizes))
            elif len(known) > 1:
                raise self.error(f"{', '.join(map(str, types))} differ in dimension {d}")
            else:
                shape.append(known.pop() if known else DYNAMIC)
        return [TensorType(tuple(shape), types[0].element)]

    def verify_op(self) -> None:
        if not self.operands:
            raise self.error("needs at least one tensor")
        (made,), written = self.infer(), tensor_of(self.result)
        assert isinstance(made, TensorType)
        if not shapes_agree(made.shape, written.shape):
            raise self.error(f"makes a {made}, not a {written}")


class CastOp(Op):
    """The same tensor under a type with more or fewer known dimensions."""

    name = "tensor.cast"
    traits = PURE
    assembly = "$source attr-dict `:` type($source) `to` type($output)"
    source = operand(TENSOR)
    output = result(TENSOR)
    relations = (same_element("source", "output"),)

    def verify_op(self) -> None:
        source, target = tensor_of(self.operands[0]), tensor_of(self.result)
        if not shapes_agree(source.shape, target.shape):
            raise self.error(f"cannot see {source} as {target}")


class DimOp(Op):
    """The size of one dimension."""

    name = "tensor.dim"
    traits = PURE
    assembly = "$source `,` $dimension attr-dict `:` type($source)"
    source = operand(DIMENSIONED)
    dimension = operand(INDEX)
    output = result(INDEX)

    def infer(self) -> Sequence[Type]:
        return [index]
