"""pack: from one layout in blocks into another at once, where that only changes the order of dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from mdsl.dialects import linalg, tensor
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import transpose

Piece = tuple[int, int]
"""A part of a plain dimension: its blocks (0) or the elements of one (1)."""


def change_at_once(func: Op) -> None:
    """pack(unpack(x)) in another layout -> a transposition of x. The gradient of a convolution's weight sums over samples, and so
    wants these in blocks, besides the channels or in their place."""
    for op in func.body.ops:
        if not isinstance(op, linalg.Pack):
            continue
        unpack = op.operands[0].owner
        if not isinstance(unpack, linalg.Unpack) or not _is_regular(op, unpack):
            continue
        moved = _moved(op, unpack)
        remarks.applied(op, f"is {remarks.name_of(unpack)} before it was unpacked, transposed", unpack)
        op.replace_by(moved, rename=True)


def _is_regular(pack: linalg.Pack, unpack: linalg.Unpack) -> bool:
    """True if all blocks are full, and no dimension has blocks of two sizes."""
    plain = shaped_of(pack.operands[0]).shape
    tiles = [*pack.tiles.items(), *unpack.tiles.items()]
    return all(plain[d] % tile == 0 for d, tile in tiles) and all(
        pack.tiles.get(d, tile) == tile for d, tile in unpack.tiles.items()
    )


def _moved(pack: linalg.Pack, unpack: linalg.Unpack) -> Value:
    builder, source, name = Builder.before(pack), unpack.operands[0], pack.result.name
    plain, tiles = shaped_of(pack.operands[0]).shape, {**unpack.tiles, **pack.tiles}
    have, want = (_dimensions(op, len(plain), tiles) for op in (unpack, pack))
    order, wanted = ([piece for dimension in found for piece in dimension] for found in (have, want))
    if len(order) > len(have):
        sizes = [tiles[d] if part else plain[d] // tiles.get(d, 1) for d, part in order]
        split = tensor.ExpandShape.of(source, _groups(have), sizes)
        source = builder.value(split, f"{name}_split" if name else None)
    moved = transpose(source, [order.index(piece) for piece in wanted], builder, name)
    if len(wanted) > len(want):
        moved = builder.value(tensor.CollapseShape.of(moved, _groups(want)), name)
    return moved


def _dimensions(op: linalg.Pack | linalg.Unpack, rank: int, tiles: Mapping[int, int]) -> list[list[Piece]]:
    """The dimensions of a tensor in the blocks of `op`, each as the pieces that it has in either layout."""
    positions, _, order = op.layout
    whole = {*tiles} - {*positions}
    outer = [[(d, 0), (d, 1)] if d in whole else [(d, 0)] for d in order or range(rank)]
    return [*outer, *([(d, 1)] for d in positions)]


def _groups(dimensions: Sequence[Sequence[Piece]]) -> list[list[int]]:
    """The pieces' numbers, by dimension."""
    numbers = count()
    return [[next(numbers) for _ in pieces] for pieces in dimensions]
