"""linalg.pack and linalg.unpack as plain tensor ops, for the passes that lower a layout change."""

from __future__ import annotations

from mdsl.dialects import arith, linalg, tensor
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Builder, Value
from mdsl.ir.types import TensorType, i64, is_float


def lower_relayout(op: linalg.Pack | linalg.Unpack, builder: Builder) -> Value:
    """Builds what `op` computes, at `builder`, and returns it; the caller replaces and erases `op`.

    pack becomes tensor.expand_shape and linalg.transpose into its destination; unpack becomes
    linalg.transpose, tensor.collapse_shape and linalg.copy into its destination. Where blocks do not divide
    a dimension, the whole blocks and the rest each go their own way: the elements are moved once.
    A destination that is a `tensor.empty` is not copied into: the reshaped value takes its place.
    """
    plain = _tensor(op.operands[0 if isinstance(op, linalg.Pack) else 1]).shape
    tiles = _tiles(op)
    ragged = [d for d, t in tiles.items() if plain[d] % t]
    if not ragged:
        if isinstance(op, linalg.Pack):
            return _lower_pack(op, op.operands[0], op.operands[1], builder)
        return _lower_unpack(op, op.operands[0], op.operands[1], builder)
    return _Ragged(op, ragged[0], tiles, builder).lower()


def _tiles(op: linalg.Pack | linalg.Unpack) -> dict[int, int]:
    return dict(zip(op.attr("inner_dims_pos"), op.attr("static_inner_tiles"), strict=True))


class _Ragged:
    """A layout change in which blocks of `tile` do not divide the dimension `dim`: its whole blocks, then the rest
    as one shorter block."""

    def __init__(
        self, op: linalg.Pack | linalg.Unpack, dim: int, tiles: dict[int, int], builder: Builder
    ) -> None:
        self.op = op
        self.builder = builder
        self.name = op.result.name or "packed"
        self.packs = isinstance(op, linalg.Pack)
        self.plain, self.packed = (
            _tensor(v) for v in (op.operands[:2] if self.packs else op.operands[1::-1])
        )
        self.dim, self.tiles = dim, tiles
        order = list(op.attr("outer_dims_perm") or range(self.plain.rank))
        self.place = order.index(dim), self.plain.rank + list(tiles).index(dim)

    def lower(self) -> Value:
        """All parts written into the destination."""
        size, tile = self.plain.shape[self.dim], self.tiles[self.dim]
        whole, rest = divmod(size, tile)
        result = self.op.operands[1]
        if whole:
            result = self._part(result, (0, whole), tile, whole * tile)
        result = self._part(result, (whole, 1), rest, rest)
        return self._clear(result, whole, rest) if self.packs else result

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
        order = self.op.attr("outer_dims_perm")
        step = kind.make(source, dest, [*tiles], [*tiles.values()], order, *padding)
        self.builder.value(step, f"{self.name}_part")
        value = lower_relayout(step, self.builder)
        step.erase()
        return value

    def _clear(self, dest: Value, block: int, used: int) -> Value:
        """`dest` with the padding in the lanes of the last block that hold nothing."""
        zero = 0.0 if is_float(self.plain.element) else 0
        border = self.op.padding_value if isinstance(self.op, linalg.Pack) else None
        border = border or self.builder.value(arith.Constant.of(zero, self.plain.element), "zero")
        lanes = (self.place[1], used, self.tiles[self.dim] - used)
        place = self._slice(self.packed, [(self.place[0], block, 1), lanes])
        rest = self.builder.value(tensor.ExtractSlice.of(dest, *place), f"{self.name}_rest")
        cleared = self.builder.value(linalg.Fill.make([border], [rest]), f"{self.name}_rest")
        return self.builder.value(tensor.InsertSlice.of(cleared, dest, *place), self.name)

    @staticmethod
    def _slice(type: TensorType, cuts: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
        """Offsets and sizes of the part that `cuts` (dimension, start, size) leave of a tensor."""
        starts, sizes = [0] * type.rank, list(type.shape)
        for d, start, size in cuts:
            starts[d], sizes[d] = start, size
        return starts, sizes


def _lower_pack(op: linalg.Pack, source: Value, dest: Value, builder: Builder) -> Value:
    name = source.name or "packed"
    groups, split, order = _split(op, _tensor(source).shape)
    expanded = builder.value(tensor.ExpandShape.of(source, groups, split), f"{name}_tiles")
    return _into(expanded, dest, order, builder, op.result.name or f"{name}_packed")


def _lower_unpack(op: linalg.Unpack, source: Value, dest: Value, builder: Builder) -> Value:
    """The tiles in order are the destination with its dimensions split."""
    name = op.result.name or "unpacked"
    groups, split, order = _split(op, _tensor(dest).shape)
    if isinstance(dest.owner, tensor.Empty):
        type = TensorType(tuple(split), _tensor(dest).element)
        tiles = builder.value(tensor.Empty([], results=[type]), f"{name}_init")
    else:
        tiles = builder.value(tensor.ExpandShape.of(dest, groups, split), f"{name}_init")
    back = [order.index(d) for d in range(len(order))]
    ordered = _into(source, tiles, back, builder, f"{name}_tiles")
    return builder.value(tensor.CollapseShape.of(ordered, groups), f"{name}_whole")


def _into(value: Value, dest: Value, order: list[int], builder: Builder, name: str) -> Value:
    """`value` permuted into `dest`; the value itself where nothing moves and nobody waits for `dest`."""
    type = _tensor(dest)
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
