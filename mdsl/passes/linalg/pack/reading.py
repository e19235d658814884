"""pack: a contraction reads blocks where they lie that an op in front of it only moves.

    f(move(pack(x)))  ->  f(pack(x))

So the gradient of a convolution's image reads the weight: it is a convolution with the filters from last to first, of which inputs and
outputs are exchanged. Where blocks are read from last to first, the sum runs over them the other way round: its loop counts down in
what else is read.
"""

from __future__ import annotations

from mdsl.dialects import linalg
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.rewriting import remarks
from mdsl.rewriting.structured import with_maps


def read_blocks(func: Op) -> None:
    """Lets each sum of products read what moved blocks were before."""
    for op in func.body.ops:
        if isinstance(op, linalg.LinalgOp) and op.is_contraction and op.sums_products:
            for position in range(len(op.inputs)):
                op = _read_through(op, position)


def _read_through(op: linalg.LinalgOp, position: int) -> linalg.LinalgOp:
    """The op that reads its operand `position` where that lies; `op` itself if nothing moves it, or another than whole blocks."""
    move = op.inputs[position].owner
    maps = _maps(op, position, move) if isinstance(move, linalg.Generic) and _moves_blocks(move) else None
    if maps is None:
        return op
    assert isinstance(move, linalg.Generic)
    remarks.applied(op, f"reads the blocks of {remarks.name_of(move)} where they lie", move)
    operands = [move.inputs[0] if at == position else value for at, value in enumerate(op.operands)]
    new = with_maps(op, operands, maps, op.iterators, Builder.before(op))
    op.replace_by(*new, rename=True)
    owner = new[0].owner
    assert isinstance(owner, linalg.LinalgOp)
    return owner


def _moves_blocks(op: linalg.Generic) -> bool:
    """True for an op that does nothing but put the blocks of a pack into another order."""
    if len(op.inputs) != 1 or len(op.results) != 1 or op.reduction_dims:
        return False
    copies = op.body.terminator.operands == [op.body.args[0]]
    source, made = op.maps
    pack = op.inputs[0].owner
    if not copies or not isinstance(pack, linalg.Pack) or made != AffineMap.identity(op.num_loops):
        return False
    lanes = len(pack.tiles)
    return source.results[-lanes:] == made.results[-lanes:]


def _maps(op: linalg.LinalgOp, position: int, move: linalg.Generic) -> list[AffineMap] | None:
    """The maps of `op` when it reads what `move` moves; None unless all of that is read, from first to last or, by a sum, from last to
    first."""
    read = op.maps[position]
    if not read.is_projected_permutation:
        return None
    sizes, found = op.loop_sizes(), move.maps[0].compose(read.results, op.num_loops)
    loops: list[AffineExpr] = [Dim(d) for d in range(op.num_loops)]
    order: list[int] = []
    for expr, extent in zip(found.results, _shape(move.inputs[0]), strict=True):
        factors, start = expr.coefficients() or ({}, 0)
        (loop,) = factors if len(factors) == 1 else (None,)
        if loop is None or sizes[loop] != extent:
            return None
        if (factors[loop], start) == (-1, extent - 1) and loop in op.reduction_dims:
            loops[loop] = Dim(loop) * -1 + start
        elif (factors[loop], start) != (1, 0):
            return None
        order.append(loop)
    maps = [m.compose(loops, op.num_loops) for m in op.maps]
    maps[position] = AffineMap.select(op.num_loops, order)
    return maps


def _shape(value: Value) -> tuple[int, ...]:
    return tuple(shaped_of(value).shape)
