"""linalg.pack and linalg.unpack as plain tensor ops, for the passes that lower a layout change."""

from __future__ import annotations

from mdsl.dialects import linalg, tensor
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import ShapedType, TensorType, i64
from mdsl.rewriting.pack_layout import fill_rest


def lower_relayout(op: linalg.Pack | linalg.Unpack, builder: Builder) -> Value:
    """Builds what `op` computes, at `builder`, and returns it; the caller replaces and erases `op`.

    pack becomes tensor.expand_shape and linalg.transpose into its destination; unpack becomes
    linalg.transpose, tensor.collapse_shape and linalg.copy into its destination. Where blocks do not divide
    a dimension, the whole blocks and the rest each go their own way: the elements are moved once.
    A destination that is a `tensor.empty` is not copied into: the reshaped value takes its place.
    """
    plain = shaped_of(op.operands[0 if isinstance(op, linalg.Pack) else 1]).shape
    ragged = [d for d, t in op.tiles.items() if plain[d] % t]
    if not ragged:
        if isinstance(op, linalg.Pack):
            return _lower_pack(op, op.operands[0], op.operands[1], builder)
        return _lower_unpack(op, op.operands[0], op.operands[1], builder)
    return _Ragged(op, ragged[0], builder).lower()


class _Ragged:
    """A layout change in which blocks of `tile` do not divide the dimension `dim`: its whole blocks, then the rest
    as one shorter block."""

    def __init__(self, op: linalg.Pack | linalg.Unpack, dim: int, builder: Builder) -> None:
        self.op = op
        self.builder = builder
        self.name = op.result.name or "packed"
        self.packs = isinstance(op, linalg.Pack)
        self.plain, self.packed = (
            shaped_of(v) for v in (op.operands[:2] if self.packs else op.operands[1::-1])
        )
        self.dim, self.tiles = dim, op.tiles
        order = op.layout.order or tuple(range(self.plain.rank))
        self.place = order.index(dim), self.plain.rank + op.layout.positions.index(dim)

    def lower(self) -> Value:
        """All parts written into the destination."""
        size, tile = self.plain.shape[self.dim], self.tiles[self.dim]
        whole, rest = divmod(size, tile)
        result = self.op.operands[1]
        if whole:
            result = self._part(result, (0, whole), tile, whole * tile)
        result = self._part(result, (whole, 1), rest, rest)
        if not isinstance(self.op, linalg.Pack):
            return result
        assert self.op.padding_value is not None, "blocks lack something"
        return fill_rest(result, self.place, rest, self.op.padding_value, self.name, self.builder)

    def _part(self, dest: Value, blocks: tuple[int, int], tile: int, size: int) -> Value:
        """`dest` with the elements of `blocks` (first, number), of which `tile` lanes hold something."""
        start, source = blocks[0] * self.tiles[self.dim], self.op.operands[0]
        plain = self._slice(self.plain, [(self.dim, start, size)])
        packed = self._slice(self.packed, [(self.place[0], *blocks), (self.place[1], 0, tile)])
        given, wanted = (plain, packed) if self.packs else (packed, plain)
        part = self.builder.value(tensor.ExtractSlice.of(source, *given), f"{source.name}_part")
        target = self.builder.value(tensor.ExtractSlice.of(dest, *wanted), f"{self.name}_part")
        tiles = {**self.tiles, self.dim: tile}
        if self.packs:
            made = self._relayout(linalg.Pack, part, target, tiles)
        else:
            made = self._relayout(linalg.Unpack, part, target, tiles)
        return self.builder.value(tensor.InsertSlice.of(made, dest, *wanted), self.name)

    def _relayout(
        self, kind: type[linalg.Pack | linalg.Unpack], source: Value, dest: Value, tiles: dict[int, int]
    ) -> Value:
        padding = [self.op.padding_value] if isinstance(self.op, linalg.Pack) else []
        step = kind.make(source, dest, [*tiles], [*tiles.values()], self.op.layout.order, *padding)
        self.builder.value(step, f"{self.name}_part")
        value = lower_relayout(step, self.builder)
        step.erase()
        return value

    @staticmethod
    def _slice(type: ShapedType, cuts: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
        """Offsets and sizes of the part that `cuts` (dimension, start, size) leave of a tensor."""
        starts, sizes = [0] * type.rank, list(type.shape)
        for d, start, size in cuts:
            starts[d], sizes[d] = start, size
        return starts, sizes


def _lower_pack(op: linalg.Pack, source: Value, dest: Value, builder: Builder) -> Value:
    name = source.name or "packed"
    groups, split, order = _split(op, shaped_of(source).shape)
    expanded = builder.value(tensor.ExpandShape.of(source, groups, split), f"{name}_tiles")
    return _into(expanded, dest, order, builder, op.result.name or f"{name}_packed")


def _lower_unpack(op: linalg.Unpack, source: Value, dest: Value, builder: Builder) -> Value:
    """The tiles in order are the destination with its dimensions split."""
    name = op.result.name or "unpacked"
    groups, split, order = _split(op, shaped_of(dest).shape)
    if isinstance(dest.owner, tensor.Empty):
        type = TensorType(tuple(split), shaped_of(dest).element)
        tiles = builder.value(tensor.Empty([], results=[type]), f"{name}_init")
    else:
        tiles = builder.value(tensor.ExpandShape.of(dest, groups, split), f"{name}_init")
    back = [order.index(d) for d in range(len(order))]
    ordered = _into(source, tiles, back, builder, f"{name}_tiles")
    return builder.value(tensor.CollapseShape.of(ordered, groups), f"{name}_whole")


def _into(value: Value, dest: Value, order: list[int], builder: Builder, name: str) -> Value:
    """`value` permuted into `dest`; the value itself where nothing moves and nobody waits for `dest`."""
    type = shaped_of(dest)
    shape = shaped_of(value).shape
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


def _split(
    op: linalg.Pack | linalg.Unpack, padded: tuple[int, ...]
) -> tuple[list[list[int]], list[int], list[int]]:
    """How the plain dimensions split: their groups, the split shape, and its order on the packed side."""
    tiles = op.tiles
    groups: list[list[int]] = []
    split: list[int] = []
    for d, size in enumerate(padded):
        parts = [size // tiles[d], tiles[d]] if d in tiles else [size]
        groups.append(list(range(len(split), len(split) + len(parts))))
        split += parts
    outer = op.layout.order or range(len(padded))
    order = [*(groups[d][0] for d in outer), *(groups[d][1] for d in tiles)]
    return groups, split, order
