"""flatten-conv: a 1x1 convolution is a matrix product over pixels, however they are arranged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from mdsl.analysis.regions import place_of_pair
from mdsl.dialects import linalg, tensor
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.reassociation import merged_dims
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting.structured import empty_like, with_maps


@dataclass(frozen=True)
class FlattenConv(Pass):
    """Merge the rows and columns of a 1x1 convolution with stride 1, and of what follows it, into one loop over pixels.

    Before:

        %y = linalg.conv_2d_nchw_fchw ins(%x, %w : tensor<1x64x7x7xf32>, tensor<32x64x1x1xf32>) outs(%zero : tensor<1x32x7x7xf32>) -> tensor<1x32x7x7xf32>

    After (d2 counts 49 pixels):

        %x_pixels = tensor.collapse_shape %x [[0], [1], [2, 3]] : tensor<1x64x7x7xf32> into tensor<1x64x49xf32>
        %y_pixels = linalg.generic {indexing_maps = [(d0, d1, d2, d3, d4, d5) -> (d0, d3, d2), ...]} ins(%x_pixels, %w : ...) outs(%zero_pixels : ...) -> tensor<1x32x49xf32>
        %y = tensor.expand_shape %y_pixels [[0], [1], [2, 3]] output_shape [1, 32, 7, 7] : tensor<1x32x49xf32> into tensor<1x32x7x7xf32>

    Tiles are then as long as the registers allow, not as an image's rows do: 49 pixels are 4 tiles of about 13.
    Elementwise ops that only this convolution feeds are flattened with it, so that `fuse` still finds them.
    A convolution whose result gets a border stays as it is: it writes straight into the inside of the
    bordered image, which has gaps between its rows.
    """

    name: ClassVar[str] = "flatten-conv"
    level: ClassVar[str | None] = "linalg"
    subject = "1x1 convolution with stride 1"

    def run(self, module: ModuleOp, context: Context) -> None:
        for func in functions(module):
            for op in func.body.ops:
                if isinstance(op, linalg.LinalgOp) and op.block is not None and op.is_contraction:
                    _flatten(op)
            drop_unused(func)


@dataclass(frozen=True)
class _Member:
    """An op to flatten: its loops over rows and over columns."""

    op: linalg.LinalgOp
    rows: int
    columns: int


def _flatten(op: linalg.LinalgOp) -> None:
    pixels = _pixels(op)
    if pixels is None:
        return
    chain = _chain(_Member(op, *pixels))
    if any(isinstance(user, tensor.Pad) for user in chain[-1].op.result.users):
        return
    known: dict[Value, Value] = {}
    for member in chain:
        known[member.op.result] = _flat_op(member, known)
    last = chain[-1]
    at = last.op.maps[-1].results.index(Dim(last.rows))
    shape = shaped_of(last.op.result).shape
    flat = known[last.op.result]
    expand = tensor.ExpandShape.of(flat, merged_dims(len(shape), at), shape)
    last.op.replace_by(Builder.after(flat.owner).value(expand))  # type: ignore[arg-type]
    for member in reversed(chain[:-1]):
        member.op.erase()


def _pixels(op: linalg.LinalgOp) -> tuple[int, int] | None:
    """The loops over rows and columns of a convolution whose window is one pixel and whose stride is 1."""
    image, weight, out = op.maps
    sizes = op.loop_sizes()
    if image.is_projected_permutation or not out.is_projected_permutation:
        return None
    moving = [_lone_loop(e, sizes) for e in image.results]
    pairs = [
        (at, rows, columns)
        for at, (rows, columns) in enumerate(pairwise(moving))
        if rows is not None and columns is not None and rows not in weight.dims() and columns not in weight.dims()
        and min(sizes[rows], sizes[columns]) > 1
    ]  # fmt: skip
    fits = [
        (rows, columns)
        for at, rows, columns in pairs
        if _is_whole(op.operands[0], at, [sizes[rows], sizes[columns]])
        and place_of_pair(out, rows, columns) is not None
    ]
    return fits[0] if len(fits) == 1 else None


def _lone_loop(expr: AffineExpr, sizes: Sequence[int]) -> int | None:
    """The parallel loop that the expression is, but for loops of one iteration."""
    linear = expr.coefficients()
    if linear is None or linear[1]:
        return None
    real = [(d, factor) for d, factor in linear[0].items() if sizes[d] != 1]
    return real[0][0] if len(real) == 1 and real[0][1] == 1 else None


def _is_whole(value: Value, at: int, sizes: Sequence[int]) -> bool:
    """True if the loops run over all of the dimensions `at` and `at + 1`, which lie side by side in memory."""
    owner, shape = value.owner, shaped_of(value).shape
    source = shaped_of(owner.operands[0]).shape if isinstance(owner, tensor.ExtractSlice) else shape
    return (
        list(shape[at : at + 2]) == list(sizes) and source[-len(shape) :][at : at + 2] == shape[at : at + 2]
    )


def _chain(first: _Member) -> list[_Member]:
    """The convolution and the elementwise ops behind it, each the only user of the one before."""
    chain = [first]
    while True:
        last = chain[-1]
        user = next(iter(last.op.result.users), None)
        if len(last.op.result.users) != 1 or not isinstance(user, linalg.LinalgOp):
            return chain
        at = place_of_pair(last.op.maps[-1], last.rows, last.columns)
        position = list(user.operands).index(last.op.result)
        map = user.maps[position]
        if not user.is_elementwise or len(user.results) != 1 or at is None or not map.is_permutation:
            return chain
        rows, columns = (map.results[at + i] for i in range(2))
        assert isinstance(rows, Dim) and isinstance(columns, Dim)
        member = _Member(user, rows.position, columns.position)
        if not _can_follow(member):
            return chain
        chain.append(member)


def _can_follow(member: _Member) -> bool:
    """True if each operand has rows and columns side by side, or neither."""
    pair = {member.rows, member.columns}
    counted = any(isinstance(i, linalg.IndexOp) for i in member.op.body.ops)
    return not counted and all(
        not pair & m.dims() or place_of_pair(m, member.rows, member.columns) is not None
        for m in member.op.maps
    )


# Building -------------------------------------------------------------------------------------------------


def _flat_op(member: _Member, known: dict[Value, Value]) -> Value:
    """The result of the op with one loop over pixels in the place of `rows`."""
    op, builder = member.op, Builder.before(member.op)
    sizes = op.loop_sizes()
    operands: list[Value] = []
    maps: list[AffineMap] = []
    for value, map in zip(op.operands, op.maps, strict=True):
        moving = [_lone_loop(e, sizes) for e in map.results]
        if member.rows in moving:
            at = moving.index(member.rows)
            operands.append(known[value] if value in known else _flat_value(value, at, builder))
            results = [Dim(member.rows) if d == at else e for d, e in enumerate(map.results) if d != at + 1]
        else:
            operands.append(value)
            results = list(map.results)
        maps.append(_without(member.columns, AffineMap(map.num_dims, 0, tuple(results))))
    iterators = [kind for d, kind in enumerate(op.iterators) if d != member.columns]
    kept = [d for d in range(op.num_loops) if d != member.columns]
    (new,) = with_maps(op, operands, maps, iterators, builder, kept)
    new.name = f"{op.result.name}_pixels" if op.result.name else None
    return new


def _without(loop: int, map: AffineMap) -> AffineMap:
    """The map over the loops that remain when `loop`, which it does not use, is gone."""
    remaining: list[AffineExpr] = [Dim(d if d < loop else max(d - 1, 0)) for d in range(map.num_dims)]
    return map.compose(remaining, map.num_dims - 1)


def _flat_value(value: Value, at: int, builder: Builder) -> Value:
    """`value` with the dimensions `at` and `at + 1` as one; an accumulator is made in that shape."""
    type, owner = shaped_of(value), value.owner
    groups = merged_dims(type.rank, at)
    name = f"{value.name}_pixels" if value.name else None
    if isinstance(owner, linalg.Fill | tensor.Empty):
        shape = (*type.shape[:at], type.shape[at] * type.shape[at + 1], *type.shape[at + 2 :])
        start = empty_like(TensorType(shape, type.element), builder, name)
        return start if isinstance(owner, tensor.Empty) else _fill(owner, start, builder, name)
    if isinstance(owner, tensor.ExpandShape) and owner.groups == groups:
        return owner.operands[0]
    return builder.value(tensor.CollapseShape.of(value, groups), name)


def _fill(fill: linalg.Fill, start: Value, builder: Builder, name: str | None) -> Value:
    return builder.value(linalg.Fill.make(fill.inputs, [start]), name)
