"""pack: a pack moves in front of the op whose result it packs, if that computes or moves element by element.

    pack(f(%x))  ->  f(pack(%x))

What is packed then is a tensor that comes in rows anyhow, an argument as a rule, and `f` stands next to the op on blocks that
reads it, into which `fuse` merges it.
"""

from __future__ import annotations

from collections.abc import Iterator

from mdsl.dialects import linalg, tensor
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Op, Value
from mdsl.passes.linalg.pack.blocks import moves_argument
from mdsl.passes.linalg.pack.move import unpacked
from mdsl.rewriting import remarks
from mdsl.rewriting.pack_layout import Tiles, pack_op


def raise_packs(func: Op) -> None:
    """Moves each pack of what an op without sums makes for it alone, of no more than one tensor of that size, in front of the
    op. Not where the op may be the end of a contraction or of a chain of ops, and be computed with these."""
    places = {op: place for place, op in enumerate(func.body.ops)}
    for pack in reversed([*places]):
        op = pack.operands[0].owner if isinstance(pack, linalg.Pack) else None
        if not isinstance(pack, linalg.Pack) or not isinstance(op, linalg.LinalgOp):
            continue
        tiles = _tiles(op, pack)
        if tiles:
            remarks.applied(op, f"works on the blocks that {remarks.name_of(pack)} makes of its result", pack)
            _bring_in_front(pack_op(op, tiles), places[op], places)


def _bring_in_front(op: linalg.LinalgOp, at: int, places: dict[Op, int]) -> None:
    """Packs that were made for ops behind `op`, which took the place `at`, and serve it too, come in front of it. `places` are where ops
    stood at first; what is new, or was moved, has the place of the op that it is in front of."""
    packs: dict[linalg.Pack, Op] = {}
    for pack, reader in sorted((p for v in op.inputs for p in _pack_of(v, op)), key=lambda p: p[1] is op):
        packs.setdefault(pack, reader)
    for pack in sorted((pack for pack in packs if places.get(pack, at) > at), key=lambda pack: places[pack]):
        for moved in (*(v.owner for v in pack.operands[1:]), pack):
            if isinstance(moved, Op) and op.block is not None:
                op.block.insert(moved.detach(), packs[pack])
    places.update((pack, min(places.get(pack, at), at)) for pack in packs)


def _pack_of(value: Value, reader: Op) -> Iterator[tuple[linalg.Pack, Op]]:
    """The pack that `reader` reads as `value`, or that a border which was made for it is put around, with what reads it itself."""
    while isinstance(pad := value.owner, tensor.Pad):
        value, reader = pad.operands[0], pad
    if isinstance(value.owner, linalg.Pack):
        yield value.owner, reader


def _tiles(op: linalg.LinalgOp, pack: linalg.Pack) -> Tiles:
    """The loops of `op` that `pack` cuts; none where it stays behind it."""
    if op.reduction_dims or len(op.results) != 1 or [*op.result.users] != [pack]:
        return {}
    if (
        pack.layout.order
        or pack.padding_value is not None
        or any(isinstance(i, linalg.IndexOp) for i in op.body.ops)
    ):
        return {}
    large = [v for v, m in zip(op.inputs, op.maps, strict=False) if m.dims() == {*op.parallel_dims}]
    if len(large) > 1 or any(
        isinstance(v.owner, linalg.LinalgOp) or (unpacked(v) and not moves_argument(op)) for v in large
    ):
        return {}
    loops = op.maps[-1].dim_positions()
    tiles = {loops[d]: tile for d, tile in pack.tiles.items()} if loops else {}
    return tiles if all(_keeps_blocks(m, loop) for loop in tiles for m in op.maps) else {}


def _keeps_blocks(map: AffineMap, loop: int) -> bool:
    """True if blocks of the loop are blocks of the operand: it is one of its dimensions, or none."""
    return sum(loop in e.dims() for e in map.results) == map.results.count(Dim(loop)) <= 1
