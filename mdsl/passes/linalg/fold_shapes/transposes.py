"""fold-shapes: transposes move past slices and elementwise ops, and into the indexing maps of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import linalg, tensor
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.rewriting.structured import empty_like, transpose, with_maps


def _transposed(value: Value) -> linalg.Transpose | None:
    """The transpose that makes `value`."""
    owner = value.owner
    return owner if isinstance(owner, linalg.Transpose) and owner.results else None


def slice_first(op: tensor.ExtractSlice) -> bool:
    """slice(transpose(x)) -> transpose(slice(x)): less is moved."""
    moved = _transposed(op.operands[0])
    shape = shaped_of(op.result).shape
    if moved is None or len(op.operands) > 1 or len(shape) != len(op.attr("static_sizes")):
        return False
    order = moved.attr("permutation")
    builder = Builder.before(op)
    offsets, sizes, strides = (
        [op.attr(f"static_{which}")[order.index(d)] for d in range(len(order))]
        for which in ("offsets", "sizes", "strides")
    )
    name = op.result.name
    part = tensor.ExtractSlice.of(moved.inputs[0], offsets, sizes, strides)
    source = builder.value(part, f"{name}_part" if name else None)
    op.replace_by(transpose(source, order, builder, name), rename=True)
    return True


def read_through(op: linalg.LinalgOp) -> bool:
    """An op that reads transpose(x) element by element reads x through another map."""
    if isinstance(op, linalg.Fill):
        return False
    for position, value in enumerate(op.inputs):
        moved = _transposed(value)
        if moved is None or not (op.maps[position].is_projected_permutation or not op.reduction_dims):
            continue
        order = moved.attr("permutation")
        builder = Builder.before(op)
        if isinstance(op, linalg.Transpose):
            both = [order[d] for d in op.attr("permutation")]
            op.replace_by(transpose(moved.inputs[0], both, builder, op.result.name), rename=True)
            return True
        maps = list(op.maps)
        # Dimension d of the transpose is dimension order[d] of its source.
        maps[position] = maps[position].permuted([order.index(d) for d in range(len(order))])
        operands = list(op.operands)
        operands[position] = moved.inputs[0]
        op.replace_by(*with_maps(op, operands, maps, op.iterators, builder), rename=True)
        return True
    return False


def compute_first(op: linalg.LinalgOp) -> bool:
    """f(transpose(x)), elementwise, for contractions only: f(x), and the contractions read it transposed."""
    readers = op.result.users if len(op.results) == 1 else []
    if not readers or not op.is_elementwise or isinstance(op, linalg.Transpose):
        return False
    orders = {m.dim_positions() for m in op.maps[: len(op.inputs)] if m.results}
    if len(orders) != 1 or not all(_can_read(user, op.result) for user in readers):
        return False
    order = orders.pop()
    if order is None or len(order) != op.num_loops or order == tuple(range(op.num_loops)):
        return False
    out = op.maps[-1].dim_positions()
    if out != tuple(range(op.num_loops)) or not isinstance(op.outputs[0].owner, tensor.Empty):
        return False
    builder = Builder.before(op)
    # Loop order[d] becomes loop d: x is read as it lies, and the result lies as x does.
    rank = len(order)
    loops = [Dim(order.index(d)) for d in range(rank)]
    maps = [m.compose(loops, rank) for m in op.maps[:-1]]
    maps.append(AffineMap.identity(rank))
    type = shaped_of(op.result)
    shape = TensorType(tuple(type.shape[d] for d in order), type.element)
    empty = empty_like(shape, builder, op.outputs[0].name)
    (new,) = with_maps(op, [*op.inputs, empty], maps, op.iterators, builder, order)
    new.serial = op.result.serial
    for user in list(readers):
        assert isinstance(user, linalg.LinalgOp)
        _reread(user, op.result, new, order)
    op.erase()
    return True


def _can_read(user: Op, value: Value) -> bool:
    """True for a contraction that reads `value` through plain dimensions, and does not write into it."""
    if not isinstance(user, linalg.LinalgOp) or not user.is_contraction or value in user.outputs:
        return False
    return all(
        m.is_projected_permutation for v, m in zip(user.operands, user.maps, strict=True) if v is value
    )


def _reread(user: linalg.LinalgOp, old: Value, new: Value, order: Sequence[int]) -> None:
    """Lets `user` read `new`, whose dimension d is dimension order[d] of `old`."""
    operands = [new if v is old else v for v in user.operands]
    maps = [m.permuted(order) if v is old else m for v, m in zip(user.operands, user.maps, strict=True)]
    user.replace_by(*with_maps(user, operands, maps, user.iterators, Builder.before(user)), rename=True)
