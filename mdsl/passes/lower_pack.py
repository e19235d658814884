"""linalg.pack and linalg.unpack as plain tensor ops, for the passes that lower a layout change."""

from __future__ import annotations

from mdsl.dialects import arith, linalg, tensor
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Builder, Value
from mdsl.ir.types import TensorType, i64, is_float


def lower_relayout(op: linalg.Pack | linalg.Unpack, builder: Builder) -> Value:
    """Builds what `op` computes, at `builder`, and returns it; the caller replaces and erases `op`.

    pack becomes (tensor.pad), tensor.expand_shape and linalg.transpose into its destination; unpack becomes
    linalg.transpose, tensor.collapse_shape, (tensor.extract_slice) and linalg.copy into its destination.
    A destination that is a `tensor.empty` is not copied into: the reshaped value takes its place.
    """
    return _lower_pack(op, builder) if isinstance(op, linalg.Pack) else _lower_unpack(op, builder)


def _lower_pack(op: linalg.Pack, builder: Builder) -> Value:
    source, dest = op.operands[:2]
    plain, packed = _tensor(source), _tensor(dest)
    name = source.name or "packed"
    padded = _padded_shape(op, plain.shape)
    if padded != plain.shape:
        high = [p - s for p, s in zip(padded, plain.shape, strict=True)]
        zero = 0.0 if is_float(plain.element) else 0
        border = op.padding_value or builder.value(arith.Constant.of(zero, plain.element), "zero")
        source = builder.value(tensor.Pad.of(source, [0] * plain.rank, high, border), f"{name}_padded")
    groups, split, order = _split(op, padded)
    expanded = builder.value(tensor.ExpandShape.of(source, groups, split), f"{name}_tiles")
    return _into(expanded, dest, order, builder, op.result.name or f"{name}_packed", packed)


def _lower_unpack(op: linalg.Unpack, builder: Builder) -> Value:
    source, dest = op.operands[:2]
    plain = _tensor(dest)
    name = op.result.name or "unpacked"
    padded = _padded_shape(op, plain.shape)
    groups, split, order = _split(op, padded)
    back = [order.index(d) for d in range(len(order))]
    type = TensorType(tuple(split), plain.element)
    if back != sorted(back):
        empty = builder.value(tensor.Empty([], results=[type]), f"{name}_init")
        source = _into(source, empty, back, builder, f"{name}_tiles", type)
    whole = builder.value(tensor.CollapseShape.of(source, groups), f"{name}_whole")
    if padded != plain.shape:
        whole = builder.value(tensor.ExtractSlice.of(whole, [0] * plain.rank, plain.shape), f"{name}_part")
    return _into(whole, dest, list(range(plain.rank)), builder, name, plain)


def _into(
    value: Value, dest: Value, order: list[int], builder: Builder, name: str, type: TensorType
) -> Value:
    """`value` permuted into `dest`; the value itself where nothing moves and nobody waits for `dest`."""
    assert type == dest.type
    shape = _tensor(value).shape
    moved = [d for d in order if shape[d] != 1]
    if order != sorted(order) and moved == sorted(moved):
        # Only dimensions of 1 move: the elements stay where they are.
        flat = builder.value(tensor.CollapseShape.of(value, [list(range(len(shape)))]), f"{name}_flat")
        value, order = (
            builder.value(tensor.ExpandShape.of(flat, [list(range(len(shape)))], type.shape), name),
            sorted(order),
        )
    if order != sorted(order):
        permutation = DenseArrayAttr(i64, tuple(order))
        return builder.value(linalg.Transpose.make([value], [dest], permutation=permutation), name)
    if isinstance(dest.owner, tensor.Empty):
        return value
    return builder.value(linalg.Copy.make([value], [dest]), name)


def _padded_shape(op: linalg.Pack | linalg.Unpack, plain: tuple[int, ...]) -> tuple[int, ...]:
    tiles = dict(zip(op.attr("inner_dims_pos"), op.attr("static_inner_tiles"), strict=True))
    return tuple(-(-size // tiles.get(d, 1)) * tiles.get(d, 1) for d, size in enumerate(plain))


def _split(
    op: linalg.Pack | linalg.Unpack, padded: tuple[int, ...]
) -> tuple[list[list[int]], list[int], list[int]]:
    """How the plain dimensions split: their groups, the split shape, and its order on the packed side."""
    positions = op.attr("inner_dims_pos")
    tiles = dict(zip(positions, op.attr("static_inner_tiles"), strict=True))
    groups: list[list[int]] = []
    split: list[int] = []
    for d, size in enumerate(padded):
        parts = [size // tiles[d], tiles[d]] if d in tiles else [size]
        groups.append(list(range(len(split), len(split) + len(parts))))
        split += parts
    outer = op.attr("outer_dims_perm") or range(len(padded))
    order = [*(groups[d][0] for d in outer), *(groups[d][1] for d in positions)]
    return groups, split, order


def _tensor(value: Value) -> TensorType:
    assert isinstance(value.type, TensorType)
    return value.type
