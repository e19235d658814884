"""pack: an unpack moves behind ops that only move data, so that they work on the packed layout too.

    pad(unpack(x))            ->  unpack(pad(x))
    concat(unpack(x), ...)    ->  unpack(concat(x, ...))
    extract_slice(unpack(x))  ->  unpack(extract_slice(x))
    expand_shape(unpack(x))   ->  unpack(expand_shape(x))

Where a slice or a part of a concatenation does not begin and end with blocks, lanes are copied from block to block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mdsl.dialects import linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.rewriting import remarks
from mdsl.rewriting.pack_layout import Tiles, fill_rest, pack_value, unpack_value
from mdsl.rewriting.structured import empty_like, transpose

MOVING = (tensor.Pad, tensor.Concat, tensor.ExtractSlice, tensor.ExpandShape, tensor.CollapseShape)
"""The ops that only move data."""


def move_behind(
    op: tensor.Pad | tensor.Concat | tensor.ExtractSlice | tensor.ExpandShape | tensor.CollapseShape,
    block: int,
) -> None:
    """Moves the unpack of `op`'s operand behind `op`, if `op` can do its work on the packed layout. What fills a block is
    `block` elements; larger ones hold all of a dimension."""
    match op:
        case tensor.Pad():
            _pad(op)
        case tensor.Concat():
            _concat(op, block)
        case tensor.ExtractSlice():
            _slice(op)
        case _:
            _reshape(op)


def move_transpose(op: linalg.Transpose) -> bool:
    """transpose(unpack(x)) -> unpack(transpose(x)) where each block is all of its dimension. Lanes then lie as the
    dimensions of the result do, so that merging these merges the blocks."""
    unpack = unpacked(op.inputs[0])
    if unpack is None or not op.results or len(unpack.tiles) < 2:
        return False
    shape, order, lanes = shaped_of(op.inputs[0]).shape, op.attr("permutation"), [*unpack.tiles]
    if any(shape[d] != tile for d, tile in unpack.tiles.items()):
        return False
    made = [d for d in order if d in lanes]
    tiles = {order.index(d): unpack.tiles[d] for d in made}
    places = [*order, *(len(shape) + lanes.index(d) for d in made)]
    builder = Builder.before(op)
    _replace(op, transpose(unpack.operands[0], places, builder, _packed_name(op)), tiles, builder)
    return True


def unpacked(value: Value) -> linalg.Unpack | None:
    """The unpack that makes `value`, if the outer dimensions keep their order in it."""
    owner = value.owner
    return owner if isinstance(owner, linalg.Unpack) and not owner.layout.order else None


def _replace(op: Op, packed: Value, tiles: Tiles, builder: Builder) -> None:
    """Replaces `op` by the unpacked `packed`."""
    blocks = ", ".join(f"dimension {d} by {size}" for d, size in tiles.items())
    remarks.applied(op, f"works on blocks: {blocks}", tiles={str(d): size for d, size in tiles.items()})
    op.replace_by(unpack_value(packed, op.result, [*tiles], [*tiles.values()], builder).result)


def _packed_name(op: Op) -> str | None:
    return f"{op.result.name}_packed" if op.result.name else None


def _pad(op: tensor.Pad) -> None:
    """Where the padded dimensions are not blocked."""
    unpack = unpacked(op.operands[0])
    if unpack is None or len(op.operands) != 1 or op.padding_value.owner is op.body:
        return
    low, high = op.attr("static_low"), op.attr("static_high")
    tiles = unpack.tiles
    if any(low[p] or high[p] for p in tiles):
        return
    builder = Builder.before(op)
    extra = [0] * len(tiles)
    padded = tensor.Pad.of(unpack.operands[0], [*low, *extra], [*high, *extra], op.padding_value)
    _replace(op, builder.value(padded, _packed_name(op)), tiles, builder)


# Shapes ---------------------------------------------------------------------------------------------------


def _reshape(op: tensor.ExpandShape | tensor.CollapseShape) -> None:
    """Where each block is the innermost part of what its dimension is merged with, or split into."""
    unpack = unpacked(op.operands[0])
    groups = op.groups
    if unpack is None or not groups:
        return
    collapses = isinstance(op, tensor.CollapseShape)
    fine = shaped_of(unpack.result if collapses else op.result).shape
    found = _gathered(unpack.tiles, groups) if collapses else unpack.tiles
    parts = {d: _parts(fine, groups[d], tile) for d, tile in found.items()}
    tiles = {d: tile for own in parts.values() for d, tile in own.items()}
    if not all(parts.values()) or (collapses and [*tiles.items()] != [*unpack.tiles.items()]):
        return
    numbers = iter(range(len(fine), len(fine) + len(tiles)))
    packed_groups = [*groups, *([next(numbers) for _ in own] for own in parts.values())]
    builder = Builder.before(op)
    if collapses:
        new: Op = tensor.CollapseShape.of(unpack.operands[0], packed_groups)
    else:
        shape = linalg.packed_shape(fine, [*tiles], [*tiles.values()], ())
        new = tensor.ExpandShape.of(unpack.operands[0], packed_groups, shape)
    _replace(op, builder.value(new, _packed_name(op)), found if collapses else tiles, builder)


def _gathered(tiles: Tiles, groups: Sequence[Sequence[int]]) -> Tiles:
    """The blocks of merged dimensions: each as large as those of its parts together."""
    found: Tiles = {}
    for dim, tile in tiles.items():
        at = next(i for i, group in enumerate(groups) if dim in group)
        found[at] = found.get(at, 1) * tile
    return found


def _parts(shape: Sequence[int], group: Sequence[int], tile: int) -> Tiles:
    """A block of the dimensions `group` together as blocks of each, whole ones but for the outermost; none if it is
    no such thing."""
    real = [d for d in group if shape[d] != 1] or [group[0]]
    if len(real) == 1:
        return {real[0]: tile}
    found: Tiles = {}
    for dim in reversed(real):
        part = min(tile, shape[dim])
        if shape[dim] % part or tile % part:
            return {}
        found = {dim: part, **found}
        tile //= part
        if tile == 1:
            return found
    return {}


# Parts ----------------------------------------------------------------------------------------------------


def _slice(op: tensor.ExtractSlice) -> None:
    """Whole blocks are a slice of the blocks; other runs of a single blocked dimension are copied."""
    unpack = unpacked(op.operands[0])
    whole, part = shaped_of(op.operands[0]).shape, shaped_of(op.result).shape
    offsets, sizes, strides = (op.mixed(w) for w in ("offsets", "sizes", "strides"))
    if unpack is None or len(part) != len(whole) or list(part) != sizes:
        return
    tiles = unpack.tiles
    if any(strides[d] != 1 or not isinstance(offsets[d], int) for d in tiles):
        return
    starts = {d: offset for d in tiles if isinstance(offset := offsets[d], int)}
    aligned = [
        starts[d] % t == 0 and (part[d] % t == 0 or starts[d] + part[d] == whole[d]) for d, t in tiles.items()
    ]
    builder = Builder.before(op)
    value = unpack.operands[0]
    if all(aligned):
        extra = len(tiles)
        outer = [starts[d] // tiles[d] if d in tiles else offsets[d] for d in range(len(whole))]
        shape = linalg.packed_shape(part, [*tiles], [*tiles.values()], ())
        cut = tensor.ExtractSlice.of(value, [*outer, *[0] * extra], shape, [*strides, *[1] * extra])
        _replace(op, builder.value(cut, _packed_name(op)), tiles, builder)
        return
    plain = all(offsets[d] == 0 and part[d] == whole[d] for d in range(len(whole)) if d not in tiles)
    if len(tiles) == 1 and plain:
        (dim,) = tiles
        tiles = {dim: min(tiles[dim], part[dim])}
        pieces = [(unpack, starts[dim])]
        _replace(op, _gather(op, dim, tiles[dim], pieces, builder), tiles, builder)


def _concat(op: tensor.Concat, block: int) -> None:
    """Parts of whole blocks are joined as blocks: each is then computed in its place."""
    dim, total = op.attr("dim"), shaped_of(op.result).shape
    sources = [unpacked(v) for v in op.operands]
    layouts = [s.tiles for s in sources if s is not None]
    if not layouts or any(list(t) != list(layouts[0]) for t in layouts):
        return
    tiles = max(layouts, key=lambda t: list(t.values()))
    if dim in tiles and len(tiles) > 1:
        return
    starts = [sum(shaped_of(v).shape[dim] for v in op.operands[:i]) for i in range(len(op.operands))]
    builder = Builder.before(op)
    whole = [s is not None and _is_whole(s, dim, block) for s in sources]
    if all(whole):
        lanes = tensor.Concat([s.operands[0] for s in sources if s], dim=len(total))
        _replace(op, builder.value(lanes, _packed_name(op)), {dim: total[dim]}, builder)
        return
    if any(whole):
        parts = [(_as_unpacked(v, {dim: block}, builder), 0) for v in op.operands]
        _replace(op, _gather(op, dim, total[dim], parts, builder), {dim: total[dim]}, builder)
        return
    if any(t != tiles for t in layouts) or (dim in tiles and any(s % tiles[dim] for s in starts)):
        if [*tiles] == [dim] and _is_used_blocked(op):
            tiles = {dim: min(max(tiles[dim], *(t[dim] for t in layouts)), total[dim])}
            parts = [(_as_unpacked(v, tiles, builder), 0) for v in op.operands]
            _replace(op, _gather(op, dim, tiles[dim], parts, builder), tiles, builder)
        return
    # The last part may be less than a block, and then fills the rest of one with zeros.
    packed = [_as_unpacked(v, tiles, builder, whole=True).operands[0] for v in op.operands]
    _replace(op, builder.value(tensor.Concat(packed, dim=dim), _packed_name(op)), tiles, builder)


def _is_whole(unpack: linalg.Unpack, dim: int, block: int) -> bool:
    """True if all of dimension `dim`, and nothing else, is one block that is larger than others."""
    tiles, size = unpack.tiles, shaped_of(unpack.result).shape[dim]
    return [*tiles] == [dim] and tiles[dim] == size > block


def _is_used_blocked(op: Op) -> bool:
    """True if one of the op's users may work on blocks, so that moving lanes is worth while."""
    blocked = (tensor.Pad, tensor.Concat, tensor.ExtractSlice, linalg.LinalgOp)
    return any(isinstance(u, blocked) and not isinstance(u, linalg.Transpose) for u in op.result.users)


def _as_unpacked(value: Value, tiles: Tiles, builder: Builder, whole: bool = False) -> linalg.Unpack:
    """The unpack that makes `value`; where there is none, `value` is packed and unpacked again, in blocks that are no
    larger than it is, unless these are to be `whole`."""
    found = unpacked(value)
    if found is not None:
        return found
    sizes = [t if whole else min(t, shaped_of(value).shape[d]) for d, t in tiles.items()]
    unpack = unpack_value(pack_value(value, [*tiles], sizes, (), builder), value, [*tiles], sizes, builder)
    unpack.result.name = value.name
    return unpack


# Lanes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """`lanes` lanes in each of `blocks` neighbouring blocks, from (block, lane) `source` to `target`."""

    source: tuple[int, int]
    target: tuple[int, int]
    blocks: int
    lanes: int


def _runs(first: int, source_tile: int, start: int, target_tile: int, count: int) -> list[_Run]:
    """What moves `count` elements of a blocked dimension, from place `first` of the source to `start` of the target."""
    found: list[_Run] = []
    at = 0
    while at < count:
        source, target = divmod(first + at, source_tile), divmod(start + at, target_tile)
        lanes = min(source_tile - source[1], target_tile - target[1], count - at)
        at += lanes
        for i, run in enumerate(found):
            follows = [
                (old[0] + run.blocks, old[1]) == new
                for old, new in ((run.source, source), (run.target, target))
            ]
            if run.lanes == lanes and all(follows):
                found[i] = _Run(run.source, run.target, run.blocks + 1, lanes)
                break
        else:
            found.append(_Run(source, target, 1, lanes))
    return found


def _gather(
    op: Op, dim: int, tile: int, parts: Sequence[tuple[linalg.Unpack, int]], builder: Builder
) -> Value:
    """The packed result of `op`, put together from lanes of packed `parts`, each from its element `first` on.

    What the last block has too many is 0: later sums run over it.
    """
    type = shaped_of(op.result)
    shape = linalg.packed_shape(type.shape, [dim], [tile], ())
    name = _packed_name(op)
    whole = empty_like(TensorType(shape, type.element), builder, f"{name}_init" if name else None)
    start = 0
    for unpack, first in parts:
        (own,) = unpack.tiles.values()
        count = min(shaped_of(unpack.result).shape[dim] - first, type.shape[dim] - start)
        for run in _runs(first, own, start, tile, count):
            whole = _copy_run(run, unpack.operands[0], whole, dim, name, builder)
        start += count
    if type.shape[dim] % tile:
        zero = builder.value(Constant.of(0, type.element), "zero")
        whole = fill_rest(whole, (dim, len(shape) - 1), type.shape[dim] % tile, zero, name, builder)
    return whole


def _copy_run(run: _Run, source: Value, whole: Value, dim: int, name: str | None, builder: Builder) -> Value:
    shape = shaped_of(whole).shape
    sizes = [run.blocks if d == dim else s for d, s in enumerate(shape[:-1])] + [run.lanes]

    def place(at: tuple[int, int]) -> list[int]:
        return [at[0] if d == dim else 0 for d in range(len(shape) - 1)] + [at[1]]

    lanes = builder.value(tensor.ExtractSlice.of(source, place(run.source), sizes), f"{source.name}_lanes")
    target = builder.value(tensor.ExtractSlice.of(whole, place(run.target), sizes), f"{name}_lanes")
    copied = builder.value(linalg.Copy.make([lanes], [target]), f"{name}_copied")
    return builder.value(tensor.InsertSlice.of(copied, whole, place(run.target), sizes), name)
