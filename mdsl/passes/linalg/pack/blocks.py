"""pack: which loops of an op are cut into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from mdsl.dialects import linalg
from mdsl.ir.affine import Dim
from mdsl.ir.core import BlockArgument, Builder, Op
from mdsl.ir.typed import shaped_of
from mdsl.passes.linalg.pack.move import unpacked
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data
from mdsl.rewriting.pack_layout import Tiles
from mdsl.rewriting.structured import with_maps
from mdsl.target import cost


def with_lanes(op: linalg.LinalgOp) -> linalg.LinalgOp:
    """The contraction, with its operands exchanged where its result is asked for in blocks whose lanes come from the first."""
    image, weight, out = op.maps
    lane = [*asked_tiles(op)][-1:]
    plain = image.is_projected_permutation and weight.is_projected_permutation
    if not lane or not plain or lane[0] in weight.dims() or lane[0] not in image.dims():
        return op
    first, second, start = op.operands
    (new,) = with_maps(op, [second, first, start], [weight, image, out], op.iterators, Builder.before(op))
    op.replace_by(new, rename=True)
    assert isinstance(new.owner, linalg.LinalgOp)
    return new.owner


def asked_tiles(op: linalg.LinalgOp) -> Tiles:
    """The loops of a sum of products, cut as its only reader asks for its result, in whole blocks; so is the gradient of a
    parameter that stays in blocks."""
    users, loops = list(op.result.users), op.maps[-1].dim_positions()
    pack = users[0] if len(users) == 1 else None
    if not isinstance(pack, linalg.Pack) or loops is None or not op.sums_products:
        return {}
    if pack.layout.order or pack.padding_value is not None:
        return {}
    found = {loops[d]: tile for d, tile in pack.tiles.items()}
    plain = all(isinstance(e, Dim) or not e.dims() & found.keys() for m in op.maps for e in m.results)
    return found if plain else {}


def moves_argument(op: linalg.LinalgOp) -> bool:
    """True for an op that puts elements of an argument in blocks into another order, for a contraction that reads them in blocks of
    its own as a rule."""
    unpack = unpacked(op.operands[0]) if only_moves(op) else None
    return unpack is not None and isinstance(unpack.operands[0], BlockArgument)


def only_moves(op: linalg.LinalgOp) -> bool:
    """True for an op of one input that computes nothing."""
    if isinstance(op, linalg.Transpose | linalg.Copy):
        return True
    single = (
        isinstance(op, linalg.Generic) and len(op.inputs) == len(op.results) == 1 and not op.reduction_dims
    )
    return single and list(op.body.terminator.operands) == [op.body.args[0]]


def blocked_loops(op: linalg.LinalgOp, block: int) -> Tiles:
    """The loops to block. For products: the innermost one that only the second operand and the output share
    (columns, output channels), and the channels that are summed where the image has pixels innermost. For a
    filter a channel: the channels. Empty if there is none."""
    image, weight, out = op.maps
    if not (out.is_projected_permutation and weight.is_projected_permutation):
        return {}
    sizes = op.loop_sizes()
    columns = [d for d in (out.dim_positions() or ()) if d in weight.dims() and d not in image.dims()]
    if min(sizes) < 1:
        return {}
    if not columns:
        found = _channel_tiles(op, block)
        if not found:
            remarks.missed(
                op, "is not packed: it has no columns or channels, outside of the pixels, to block"
            )
        return found
    asked = asked_tiles(op)
    if asked and [*asked][-1] in columns:
        return asked
    rows = prod(sizes[d] for d in out.dim_positions() or () if d not in columns)
    if rows < cost.ROWS_WORTH_PACKING and constant_data(op.operands[1]) is None:
        remarks.missed(op, f"is not packed: {rows} rows would use what is packed at run time", rows=rows)
        return {}
    column = columns[-1]
    if sizes[column] <= block and all(m.results[-1] == Dim(column) for m in (weight, out)):
        remarks.missed(op, "is not packed: its columns are one vector already")
        return {}
    return {**_summed_tiles(op, block), column: _column_tile(op, sizes[column], block)}


def _column_tile(op: linalg.LinalgOp, columns: int, block: int) -> int:
    """The columns of a block. Constants get columns of zeros where these make it faster to load; to add them at run time costs more."""
    known = constant_data(op.operands[1]) is not None
    return cost.lanes_loaded(columns, block) if known else min(block, columns)


def _summed_tiles(op: linalg.LinalgOp, block: int) -> Tiles:
    """The reduction loop over what lies outside of the pixels in the image: it is blocked in a convolution,
    and wherever the image comes blocked."""
    image, weight, _ = op.maps
    sizes = op.loop_sizes()
    plain = [e.position for e in image.results if isinstance(e, Dim)]
    found = {d: min(block, sizes[d]) for d in op.reduction_dims if d in plain and d in weight.dims()}
    found.update({d: sizes[d] for d in found if _comes_whole(op, d)})
    if image.is_projected_permutation:
        source = unpacked(op.operands[0])
        blocked = [plain[p] for p in source.tiles] if source else []
        found = {d: t for d, t in found.items() if d in blocked and d != plain[-1]}
    if len(found) > 1 or (any(sizes[d] % t for d, t in found.items()) and not op.sums_products):
        return {}
    return found


def _channel_tiles(op: linalg.LinalgOp, block: int) -> Tiles:
    """The channels of a depthwise convolution: a loop that all operands have, where pixels lie inside of it."""
    image, weight, out = op.maps
    if image.is_projected_permutation:
        return {}
    plain = [e.position for e in image.results[:-1] if isinstance(e, Dim)]
    channels = [d for d in plain if d in weight.dims() and d in (out.dim_positions() or ())]
    shared = weight.dims() & out.dims()
    if not channels or image.results[-1].dims() & shared:
        return {}
    size = op.loop_sizes()[channels[-1]]
    return {channels[-1]: size if _comes_whole(op, channels[-1]) else min(block, size)}


def _comes_whole(op: linalg.LinalgOp, dim: int) -> bool:
    """True if all of loop `dim` is one block of the first operand as it comes."""
    source, place = unpacked(op.operands[0]), op.maps[0].results.index(Dim(dim))
    return source is not None and source.tiles.get(place) == op.loop_sizes()[dim]


def inherited_tiles(op: linalg.LinalgOp) -> Tiles:
    """The blocking that op's inputs were unpacked from, if the op can work on it."""
    found: Tiles = {}
    maps = op.maps
    for value, map in zip(op.inputs, maps, strict=False):
        unpack = unpacked(value)
        for position, tile in (unpack.tiles if unpack else {}).items():
            expr = map.results[position]
            if not isinstance(expr, Dim) or found.setdefault(expr.position, tile) != tile:
                return {}
    fits = all(dim in op.parallel_dims and _plain_everywhere(dim, op) for dim in found)
    return found if fits else {}


def is_better_plain(op: linalg.LinalgOp, tiles: Tiles) -> bool:
    """True if one more tensor as large as the result would be packed, and that unpacked: to unpack what comes in blocks
    is cheaper. So are updates of weights, which are as large as their gradients."""
    if not op.is_elementwise or not _is_read_plain(op):
        return False
    large = [(v, m) for v, m in zip(op.inputs, op.maps, strict=False) if m.dims() == {*op.parallel_dims}]
    come = [
        isinstance(v.owner, linalg.Unpack | linalg.Fill) or constant_data(v) is not None for v, _ in large
    ]
    return any(
        not known and moves_data(shaped_of(v).shape, {m.results.index(Dim(d)): t for d, t in tiles.items()})
        for known, (v, m) in zip(come, large, strict=True)
    )


def moves_data(shape: Sequence[int], tiles: Tiles) -> bool:
    """True if a pack of a tensor in rows moves elements: not where its last dimension is split into whole blocks."""
    return any(prod(shape[d + 1 :]) != 1 or shape[d] % tile for d, tile in tiles.items())


def _is_read_plain(op: linalg.LinalgOp) -> bool:
    """True if the op's result, and what elementwise ops make of it, is only returned."""
    seen: set[Op] = {op}
    left: list[Op] = [op]
    while left:
        users = {user for result in left.pop().results for user in result.users if not user.has("terminator")}
        if not all(isinstance(user, linalg.LinalgOp) and user.is_elementwise for user in users):
            return False
        left += users - seen
        seen |= users
    return True


def _plain_everywhere(dim: int, op: linalg.LinalgOp) -> bool:
    """True if `dim` occurs in the maps only as itself, and in those of all results."""
    return all(isinstance(e, Dim) or dim not in e.dims() for m in op.maps for e in m.results) and all(
        dim in m.dims() for m in op.maps[len(op.inputs) :]
    )
