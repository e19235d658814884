"""pack: a structured op on plain operands as one on packed operands, whose result is unpacked again."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import arith, linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.rewriting.structured import empty_like, with_maps

Tiles = dict[int, int]
"""Loop dimension -> block. The last one becomes the innermost dimension of every operand that has it."""


def pack_op(op: linalg.LinalgOp, tiles: Tiles) -> linalg.LinalgOp:
    """Replaces `op` by one on packed operands, which it gives, whose results are unpacked. New loops come last, in order of
    `tiles`."""
    builder = Builder.before(op)
    outer = op.num_loops
    inner = {dim: outer + i for i, dim in enumerate(tiles)}
    maps = [_packed_map(m, inner, outer + len(tiles)) for m in op.maps]
    packed = [_packed_operand(op, position, tiles, builder) for position in range(len(op.operands))]
    orders = [_order(op, position) for position in range(len(op.operands))]
    maps = [
        _permuted(m, o, len(s)) for m, o, s in zip(maps, orders, (m.results for m in op.maps), strict=True)
    ]
    iterators = [*op.iterators, *(op.iterators[d] for d in tiles)]
    new = with_maps(op, packed, maps, iterators, builder)
    plain: list[Value] = []
    for value, result, map in zip(new, op.results, op.maps[len(op.inputs) :], strict=True):
        value.name = f"{result.name}_packed" if result.name else None
        plain.append(unpack_value(value, result, *_layout(map, tiles), builder).result)
    op.replace_by(*plain)
    owner = new[0].owner
    assert isinstance(owner, linalg.LinalgOp)
    return owner


def _packed_map(map: AffineMap, inner: dict[int, int], num_dims: int) -> AffineMap:
    """Outer results as before, then the inner loop of each blocked dimension that the map has."""
    present = [d for d in inner if Dim(d) in map.results]
    return AffineMap(num_dims, 0, (*map.results, *(Dim(inner[d]) for d in present)))


def _layout(map: AffineMap, tiles: Tiles) -> tuple[list[int], list[int]]:
    """Positions and sizes of the blocked dimensions in an operand."""
    present = [d for d in tiles if Dim(d) in map.results]
    return [map.results.index(Dim(d)) for d in present], [tiles[d] for d in present]


def _order(op: linalg.LinalgOp, position: int) -> list[int]:
    """outer_dims_perm of an operand: the blocks of a contraction's second operand lie outermost, so that
    the reduction walks through neighbouring memory; every other operand keeps its order."""
    if not op.is_contraction or position != 1:
        return []
    map = op.maps[1]
    parallel = [p for p, e in enumerate(map.results) if isinstance(e, Dim) and e.position in op.parallel_dims]
    rest = [p for p in range(len(map.results)) if p not in parallel]
    order = [*parallel, *rest]
    return [] if order == sorted(order) else order


def _permuted(map: AffineMap, order: Sequence[int], outer: int) -> AffineMap:
    if not order:
        return map
    results: list[AffineExpr] = [*(map.results[p] for p in order), *map.results[outer:]]
    return AffineMap(map.num_dims, 0, tuple(results))


def _packed_operand(op: linalg.LinalgOp, position: int, tiles: Tiles, builder: Builder) -> Value:
    value = op.operands[position]
    positions, sizes = _layout(op.maps[position], tiles)
    if not positions:
        return value
    if isinstance(value.owner, linalg.Fill | tensor.Empty):
        return _packed_init(value, positions, sizes, builder)
    return pack_value(value, positions, sizes, _order(op, position), builder)


def pack_value(
    value: Value, positions: Sequence[int], sizes: Sequence[int], order: Sequence[int], builder: Builder
) -> Value:
    """`value` packed; what its last blocks lack is 0. A border is put around the blocks, so that one pass
    brings the inside into its layout and into its place."""
    pad = value.owner
    if isinstance(pad, tensor.Pad) and not order and _is_around_blocks(pad, positions):
        extra = [0] * len(positions)
        inside = pack_value(pad.operands[0], positions, sizes, order, builder)
        low, high = [*pad.attr("static_low"), *extra], [*pad.attr("static_high"), *extra]
        padded = tensor.Pad.of(inside, low, high, pad.padding_value)
        return builder.value(padded, f"{value.name}_packed" if value.name else None)
    alike = [
        user
        for user in value.users
        if isinstance(user, linalg.Pack)
        and user.block is builder.block
        and user.layout == (tuple(positions), tuple(sizes), tuple(order))
        and pads_with_zeros(user)
    ]
    for pack in alike:
        if _is_in_front(pack, builder):
            return pack.result
    type = shaped_of(value)
    padding = None
    if any(type.shape[p] % s for p, s in zip(positions, sizes, strict=True)):
        padding = builder.value(Constant.of(0, type.element), "zero")
    dest = empty_like(
        TensorType(linalg.packed_shape(type.shape, positions, sizes, order), type.element),
        builder,
        f"{value.name}_packed_init" if value.name else None,
    )
    pack = linalg.Pack.make(value, dest, positions, sizes, order, padding)
    made = builder.value(pack, f"{value.name}_packed" if value.name else None)
    for behind in alike:
        behind.replace_by(made)
    return made


def _is_in_front(op: Op, builder: Builder) -> bool:
    """True if `op`, of the builder's block, lies in front of where that inserts."""
    after = op.next
    while after is not None and after is not builder.point:
        after = after.next
    return after is builder.point


def unpack_value(
    packed: Value, plain: Value, positions: Sequence[int], sizes: Sequence[int], builder: Builder
) -> linalg.Unpack:
    """`packed` as a tensor like `plain`, which it may replace."""
    dest = empty_like(plain.type, builder, f"{plain.name}_plain" if plain.name else None)
    return builder.add(linalg.Unpack.make(packed, dest, positions, sizes))


def pads_with_zeros(pack: linalg.Pack) -> bool:
    """True if what the last blocks lack is 0, or they lack nothing."""
    return pack.padding_value is None or arith.constant_of(pack.padding_value) == 0


def fill_rest(
    blocks: Value, place: tuple[int, int], used: int, number: Value, name: str | None, builder: Builder
) -> Value:
    """`blocks` with `number` in the lanes of the last block from `used` on. `place` are the dimensions over blocks
    and over their lanes."""
    (block, lane), shape = place, shaped_of(blocks).shape
    offsets, sizes = [0] * len(shape), list(shape)
    offsets[block], sizes[block] = shape[block] - 1, 1
    offsets[lane], sizes[lane] = used, shape[lane] - used
    rest = builder.value(tensor.ExtractSlice.of(blocks, offsets, sizes), f"{name}_rest")
    filled = builder.value(linalg.Fill.make([number], [rest]), f"{name}_rest")
    return builder.value(tensor.InsertSlice.of(filled, blocks, offsets, sizes), name)


def _is_around_blocks(pad: tensor.Pad, positions: Sequence[int]) -> bool:
    """True for a border of one value along dimensions that are not blocked."""
    low, high = pad.attr("static_low"), pad.attr("static_high")
    static = len(pad.operands) == 1 and pad.padding_value.owner is not pad.body
    local = isinstance(pad.padding_value.owner, Op) and pad.padding_value.owner.block is pad.body
    return static and not local and not any(low[p] or high[p] for p in positions)


def _packed_init(value: Value, positions: Sequence[int], sizes: Sequence[int], builder: Builder) -> Value:
    """An accumulator that starts as a constant needs no packing: the same constant in the packed shape."""
    type = shaped_of(value)
    name = f"{value.name}_packed" if value.name else None
    packed = TensorType(linalg.packed_shape(type.shape, positions, sizes, ()), type.element)
    owner = value.owner
    if isinstance(owner, linalg.Fill):
        empty = empty_like(packed, builder, owner.outputs[0].name)
        return builder.value(linalg.Fill.make(owner.inputs, [empty]), name)
    return empty_like(packed, builder, name)
