"""pack: the first operand of products is transposed where the steps of its rows lie too far apart for the first-level cache.

The gradient of a weight multiplies an activation that is read by columns: %dw[i, j] is the sum over k of %x[k, i] * %dy[k, j].
A block of a few rows i uses as many elements of the cache line of each step k. Where lines so far apart do not stay until the next rows
come for the rest of them, or the same rows for the next panel of columns, each of these fetches all of them again. Transposed once,

    %x_transposed = linalg.transpose ins(%x : tensor<1024x384xf32>) ... permutation = [1, 0]

the rows lie one behind the other, and a line has several steps of a row.
"""

from __future__ import annotations

from math import prod

from mdsl.dialects import linalg
from mdsl.ir.affine import AffineMap
from mdsl.ir.core import Builder
from mdsl.ir.naming import name_wished
from mdsl.ir.typed import shaped_of
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data
from mdsl.rewriting.structured import transpose, with_maps
from mdsl.target import cost
from mdsl.target.target import ELEMENT_BYTES, Target


def transpose_rows(op: linalg.LinalgOp, target: Target) -> linalg.LinalgOp:
    """The contraction on a transposed first operand, in the place of `op`; `op` itself where its steps lie near enough."""
    order = _order(op, target)
    if order is None:
        return op
    value = op.operands[0]
    remarks.applied(
        op,
        f"reads %{name_wished(value)} transposed: its steps lie too far apart to stay in the first-level cache",
    )
    builder = Builder.before(op)
    name = f"{value.name}_transposed" if value.name else None
    transposed = transpose(value, order, builder, name)
    positions = op.maps[0].dim_positions() or ()
    maps = [AffineMap.select(op.num_loops, [positions[p] for p in order]), *op.maps[1:]]
    (new,) = with_maps(op, [transposed, *op.operands[1:]], maps, op.iterators, builder)
    op.replace_by(new, rename=True)
    assert isinstance(new.owner, linalg.LinalgOp)
    return new.owner


def _order(op: linalg.LinalgOp, target: Target) -> list[int] | None:
    """The dimensions of the first operand, those that are summed last; None where it may stay as it is."""
    image, weight, out = op.maps
    positions = image.dim_positions()
    if not image.is_projected_permutation or not positions or not weight.is_projected_permutation:
        return None
    row, sizes = positions[-1], op.loop_sizes()
    summed = [p for p, d in enumerate(positions) if d in op.reduction_dims]
    if row not in out.dims() or row in weight.dims() or not summed or 0 in sizes:
        return None
    if constant_data(op.operands[0]) is not None:
        return None
    type, lanes = shaped_of(op.operands[0]), target.lanes(str(shaped_of(op.result).element))
    columns = prod(sizes[d] for d in weight.dims() & out.dims() - image.dims())
    apart = prod(type.shape[summed[-1] + 1 :]) * ELEMENT_BYTES[str(type.element)]
    lines = prod(type.shape[p] for p in summed) * min(apart, target.core.line) // target.core.line
    if not cost.worth_transposing(lines, apart, columns / lanes, target):
        return None
    return [*(p for p in range(len(positions)) if p not in summed), *summed]
