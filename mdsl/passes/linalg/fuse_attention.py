"""fuse-attention: two matrix products and the softmax between them become one micro-kernel a block of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.order import Order
from mdsl.analysis.rows import Rows, frame_bytes, row_bytes, shared_dims
from mdsl.dialects import arith, linalg
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineMap
from mdsl.ir.core import Builder, Value
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.linalg.fuse_rows import follows, group, grow, widest_region
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data
from mdsl.rewriting.structured import empty_like, transpose, with_maps
from mdsl.target.target import MAX_FRAME_BYTES, Target


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Group a matrix product, what normalises its rows, and the matrix product that reads them.

    Before (b: batches and heads, m: queries, n: keys, d and e: channels):

        %s = linalg.generic ((b, m, d), (b, n, d) -> (b, m, n)) ins(%q, %k : ...) -> tensor<12x128x128xf32>
        %max = linalg.generic ((b, m, n) -> (b, m)) ins(%s : ...) -> tensor<12x128xf32>
        %exp = linalg.generic (exp(s - max)) ins(%s, %max : ...) -> tensor<12x128x128xf32>
        %sum = linalg.generic ((b, m, n) -> (b, m)) ins(%exp : ...) -> tensor<12x128xf32>
        %p = linalg.generic (exp / sum) ins(%exp, %sum : ...) -> tensor<12x128x128xf32>
        %o = linalg.generic ((b, m, n), (b, n, e) -> (b, m, e)) ins(%p, %v : ...) -> tensor<12x128x32xf32>

    After:

        %kt = linalg.transpose ins(%k : ...) -> tensor<12x32x128xf32>
        %o = ukernel.region -> tensor<12x128x32xf32> {
          %s = linalg.generic ((b, m, d), (b, d, n) -> (b, m, n)) ins(%q, %kt : ...)
          %max = ...
          %exp = ...
          %sum = ...
          %product = linalg.generic ((b, m, n), (b, n, e) -> (b, m, e)) ins(%exp, %v : ...)
          %o = linalg.generic (product / sum) ins(%product, %sum : ...)
          ukernel.yield %o : tensor<12x128x32xf32>
        }

    All of it is cut along batches, heads and queries, so that the scores of a block of queries never leave
    the cache: memory grows with the number of keys, not with its square (Rabe and Staats, "Self-attention
    Does Not Need O(n^2) Memory", 2021; Dao et al., "FlashAttention", 2022, whose running maximum serves
    where a row of scores does not fit the cache; here it does). As there, rows are divided by their sum last, when
    they have the channels' width. Masks, scales and whatever else stands between the products belong to it.
    """

    name: ClassVar[str] = "fuse-attention"
    level: ClassVar[str | None] = "linalg"
    subject = "product of two computed matrices that follows a softmax"

    late_division: bool = option(True, "divide the rows by their sum behind the second product")

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            for op in func.body.ops:
                if op.block is func.body and isinstance(op, linalg.LinalgOp) and _multiplies(op):
                    self._visit(op, context.target)
            drop_unused(func)

    def _visit(self, second: linalg.LinalgOp, target: Target) -> None:
        if not _is_attention(widest_region(_root(second), _belongs, Order())):
            return
        members = _members(second, target)
        if not _is_attention(members):
            remarks.missed(
                second, "is not one kernel with the scores before it: a block of rows does not fit the cache"
            )
            return
        others = (op for op in members if op is not second)
        remarks.fused(second, "is one kernel with the scores and the softmax before it", *others)
        if self.late_division:
            second = _divide_late(second) or second
        for op in _members(second, target):
            if op.is_contraction and op is not second:
                _let_columns_be_contiguous(op)
        group(_members(_let_columns_be_contiguous(second), target))


def _multiplies(op: linalg.LinalgOp) -> bool:
    """True for a product of two computed matrices; weights are better packed."""
    return (
        op.is_contraction
        and len(op.results) == 1
        and all(m.is_projected_permutation for m in op.maps)
        and all(constant_data(v) is None for v in op.inputs)
    )


def _is_attention(members: Sequence[linalg.LinalgOp]) -> bool:
    """True if there are two products, and something that reduces rows between them."""
    products = [op for op in members if op.is_contraction]
    return len(products) > 1 and any(op.reduction_dims and not op.is_contraction for op in members)


def _root(second: linalg.LinalgOp) -> linalg.LinalgOp:
    """The last of the elementwise ops that follow the product `second`, or itself."""
    root = second
    while len(root.result.users) == 1:
        (user,) = root.result.users
        if not isinstance(user, linalg.LinalgOp) or not user.is_elementwise or user.block is not second.block:
            break
        if not user.maps[user.operands.index(root.result)].is_permutation or len(user.results) != 1:
            break
        root = user
    return root


def _members(second: linalg.LinalgOp, target: Target) -> list[linalg.LinalgOp]:
    """What can be one region with the product `second`: the elementwise ops that follow it, and what comes before."""

    def fits(members: Sequence[linalg.LinalgOp], rows: Rows) -> bool:
        # Some rows must be left that keys and values lack, so that several rows share what is loaded of them.
        cut = rows.dims - shared_dims(members, rows)
        near = row_bytes(members, rows) <= target.core.l2_bytes // 2
        return bool(cut) and near and frame_bytes(members, rows) <= MAX_FRAME_BYTES

    return grow(_root(second), _belongs, Order(), fits)


def _belongs(op: linalg.LinalgOp) -> bool:
    """True for products of computed matrices, reductions, and elementwise ops but for a layer's epilogue."""
    if isinstance(op, linalg.Fill | linalg.Transpose) or len(op.results) != 1:
        return False
    if op.reduction_dims:
        return _multiplies(op) or (not op.is_contraction and all(m.is_projected_permutation for m in op.maps))
    return op.is_elementwise and not follows(op, lambda producer: not _multiplies(producer))


def _divide_late(product: linalg.LinalgOp) -> linalg.LinalgOp | None:
    """(x / s) * v -> (x * v) / s where `s` has one element a row; returns the new product."""
    share = product.inputs[0].owner
    if not isinstance(share, linalg.LinalgOp) or list(product.inputs[0].users) != [product]:
        return None
    operands = _quotient(share)
    if operands is None or not isinstance(product.outputs[0].owner, linalg.Fill):
        return None
    (x, x_map), (divisor, divisor_map) = operands
    made, read = share.maps[-1].dim_positions(), product.maps[0].dim_positions()
    out = product.maps[-1].dim_positions()
    assert made is not None and read is not None and out is not None
    # The loop of the product for each of the division.
    loop = {d: read[made.index(d)] for d in range(share.num_loops)}
    rows = [loop[d] for d in divisor_map]
    if not set(rows) <= set(out) or len(x_map) != share.num_loops:
        return None
    builder = Builder.before(product)
    maps = [AffineMap.select(product.num_loops, [loop[d] for d in x_map]), *product.maps[1:]]
    (whole,) = with_maps(product, [x, *product.operands[1:]], maps, product.iterators, builder)
    name = product.result.name
    whole.name = f"{name}_product" if name else None
    rank = len(out)
    divided = linalg.Generic.make(
        [whole, divisor],
        [empty_like(product.result.type, builder, f"{name}_init" if name else None)],
        [
            AffineMap.identity(rank),
            AffineMap.select(rank, [out.index(d) for d in rows]),
            AffineMap.identity(rank),
        ],
        [linalg.PARALLEL] * rank,
    )
    divided.location = product.location
    quotient = Builder(divided.body).value(arith.DivF(*divided.body.args[:2]), "share")
    divided.body.append(linalg.Yield([quotient], results=[]))
    product.replace_by(builder.value(divided, name), rename=True)
    share.erase()
    owner = whole.owner
    assert isinstance(owner, linalg.LinalgOp)
    return owner


def _quotient(op: linalg.LinalgOp) -> list[tuple[Value, tuple[int, ...]]] | None:
    """Of an elementwise division of two tensors, and nothing else: dividend and divisor, and their maps."""
    first = op.body.first
    if not op.is_elementwise or not isinstance(first, arith.DivF) or first.next is not op.body.terminator:
        return None
    found: list[tuple[Value, tuple[int, ...]]] = []
    arguments = op.body.args[: len(op.inputs)]
    for value in first.operands:
        if value not in arguments:
            return None
        position = arguments.index(value)  # type: ignore[arg-type]
        dims = op.maps[position].dim_positions()
        if dims is None:
            return None
        found.append((op.inputs[position], dims))
    return found


def _let_columns_be_contiguous(op: linalg.LinalgOp) -> linalg.LinalgOp:
    """The product with its second operand transposed where the columns, along which vectors lie, are not its
    last dimension; otherwise `op` itself."""
    out, read = op.maps[-1].dim_positions(), op.maps[1].dim_positions()
    if not out or not read or out[-1] not in read or read[-1] == out[-1]:
        return op
    column = out[-1]
    order = [*(d for d, loop in enumerate(read) if loop != column), read.index(column)]
    builder = Builder.before(op)
    value = op.inputs[1]
    name = f"{value.name}_transposed" if value.name else None
    moved = transpose(value, order, builder, name)
    maps = [op.maps[0], op.maps[1].permuted(order), *op.maps[2:]]
    (product,) = with_maps(op, [op.inputs[0], moved, *op.outputs], maps, op.iterators, builder)
    op.replace_by(product, rename=True)
    assert isinstance(product.owner, linalg.LinalgOp)
    return product.owner
