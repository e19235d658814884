"""pack: groups of a convolution that are narrower than a block share one, each with some of its lanes.

A convolution of 32 groups of 4 channels is, on blocks of 16, one of 8 blocks of 4 groups of 4 channels: blocks of the
same image, taken as 4 x 4. As a dense one, with zeros in 16 x 16 weights, it would take as many multiplications, and
an infinity or NaN of one group times such a zero would reach the others.

Groups of 34 channels fill no blocks either. In blocks of their own, of 3 x 16, they would compute 14 lanes for nothing, and
leave gaps that keep a shuffle from reading across groups. They share one block of all channels: a pixel's channels lie
side by side, and vectors end where the group does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdsl.analysis.regions import place_of_pair
from mdsl.dialects import linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.dialects.reassociation import merged_dims
from mdsl.ir.affine import AffineExpr, AffineMap, Dim
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import shaped_of
from mdsl.ir.types import TensorType
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.rewriting.pack_layout import pack_op
from mdsl.rewriting.structured import empty_like, with_maps


def share_blocks(op: linalg.LinalgOp, block: int) -> set[Op]:
    """Replaces `op`, and elementwise ops behind it, by ones on blocks of several groups, if its groups are narrower or
    do not fill blocks. Gives the contraction on blocks, which needs no others."""
    groups = _Groups.of(op)
    number = groups.in_block(block) if groups else 1
    if groups is None or number == 1 or not isinstance(op.outputs[0].owner, linalg.Fill):
        return set()
    remarks.applied(op, f"has blocks of {number} groups", groups=number)
    return {_share(op, groups, number)}


@dataclass(frozen=True)
class _Groups:
    """Loops of a grouped contraction: over groups, and over the resulting channels of a group."""

    group: int
    made: int
    image: tuple[int, ...]
    """The loops over the image's channels, in its order: over groups, and the summed ones before and behind."""
    sizes: list[int]

    @staticmethod
    def of(op: linalg.LinalgOp) -> _Groups | None:
        """None for any other contraction, and for weights that are not constant."""
        if not isinstance(op, linalg.Generic) or constant_data(op.operands[1]) is None:
            return None
        image, _, out = op.maps
        image, weight, out = op.maps
        order = [e.position if isinstance(e, Dim) else None for e in weight.results[:2]]
        group, made = order if len(order) == 2 else (None, None)
        if group is None or made is None or {group, made} - set(op.parallel_dims) or made in image.dims():
            return None
        summed = {e.position for e in image.results if isinstance(e, Dim)} & {*op.reduction_dims}
        channels = _channels(image, group, summed)
        if len(channels) < 2 or not {*channels} >= summed or not weight.is_projected_permutation:
            return None
        columns = (weight.dims() & out.dims()) - image.dims()
        if place_of_pair(out, group, made) is None or columns != {made}:
            return None
        return _Groups(group, made, channels, op.loop_sizes())

    def in_block(self, block: int) -> int:
        """How many groups share a block: as many as fill one, as channels and as results; 1 where each fills blocks of
        its own; where neither is so, all, in one block of all channels."""
        groups, made = self.sizes[self.group], self.sizes[self.made]
        summed = self.sizes[self.image[-1]] if self.image[:-1] == (self.group,) else 0
        if summed == made and block % made == 0 and groups % (block // made) == 0:
            return block // made
        return 1 if summed and summed % block == 0 and made % block == 0 else groups


def _channels(image: AffineMap, group: int, summed: set[int]) -> tuple[int, ...]:
    """The loops over neighbouring dimensions of the image, `group` and `summed` ones, each just once."""
    plain = [e.position if isinstance(e, Dim) else -1 for e in image.results]
    used = [d for e in image.results for d in e.dims()]
    wanted = {d for d in (group, *summed) if used.count(d) == 1}
    if group not in wanted or group not in plain:
        return ()
    first = last = plain.index(group)
    while first and plain[first - 1] in wanted:
        first -= 1
    while last + 1 < len(plain) and plain[last + 1] in wanted:
        last += 1
    return tuple(plain[first : last + 1])


def _share(op: linalg.LinalgOp, groups: _Groups, number: int) -> linalg.LinalgOp:
    """The loop over groups becomes one over blocks and, behind it, one over the groups in a block."""
    fill, loop, data = op.outputs[0].owner, groups.group, constant_data(op.operands[1])
    assert isinstance(fill, linalg.Fill) and data is not None
    builder = Builder.before(op)
    places = [m.results.index(Dim(loop)) for m in op.maps]
    parts = (groups.sizes[loop] // number, number)
    given = _split(op.operands[0], places[0], parts, builder)
    weight = _constant(op, op.operands[1], _split_data(data, places[1], parts), builder)
    start = _split_start(op.result, fill.outputs[0].name, places[2], parts, builder)
    zero = builder.value(linalg.Fill.make(fill.inputs, [start]), fill.result.name)
    new = _with_split_loop(op, [given, weight, zero], loop, parts, builder)
    packed = new.owner
    assert isinstance(packed, linalg.LinalgOp)
    tiles = {d + (d >= loop): number if d == loop else groups.sizes[d] for d in (*groups.image, groups.made)}
    _replace(op, new, places[2], parts)
    return pack_op(packed, tiles)


Parts = tuple[int, ...]
"""The sizes of the dimensions that one dimension becomes."""


def _split_shape(shape: Sequence[int], at: int, parts: Parts) -> tuple[int, ...]:
    return (*shape[:at], *parts, *shape[at + 1 :])


def _split_data(data: np.ndarray, at: int, parts: Parts) -> np.ndarray:
    return np.asarray(data).reshape(_split_shape(data.shape, at, parts))


def _split_dims(rank: int, at: int, parts: Parts) -> list[list[int]]:
    """The reassociation of `rank` dimensions of which `at` becomes several."""
    more = len(parts) - 1
    return [[*range(at, at + more + 1)] if d == at else [d + more * (d > at)] for d in range(rank)]


def _split_map(map: AffineMap, loop: int, parts: Parts) -> AffineMap:
    """The map with loop `loop`, which occurs in it as itself, as several."""
    dims = _split_dims(map.num_dims, loop, parts)
    wider = map.compose([Dim(own[0]) for own in dims], map.num_dims + len(parts) - 1)
    results: list[AffineExpr] = []
    for expr in wider.results:
        results += [Dim(d) for d in dims[loop]] if expr == Dim(loop) else [expr]
    return AffineMap(wider.num_dims, 0, tuple(results))


def _with_split_loop(
    op: linalg.LinalgOp, operands: Sequence[Value], loop: int, parts: Parts, builder: Builder
) -> Value:
    kinds = [*op.iterators[:loop], *[op.iterators[loop]] * len(parts), *op.iterators[loop + 1 :]]
    (new,) = with_maps(op, operands, [_split_map(m, loop, parts) for m in op.maps], kinds, builder)
    return new


def _split_start(like: Value, name: str | None, at: int, parts: Parts, builder: Builder) -> Value:
    """An empty tensor for a result that has dimension `at` of `like` in parts."""
    type = shaped_of(like)
    return empty_like(TensorType(_split_shape(type.shape, at, parts), type.element), builder, name)


def _split(value: Value, at: int, parts: Parts, builder: Builder) -> Value:
    shape, owner = shaped_of(value).shape, value.owner
    groups, source = _split_dims(len(shape), at, parts), value
    if isinstance(owner, tensor.ExpandShape) and owner.groups == merged_dims(len(shape), at):
        source = owner.operands[0]  # groups and channels come from one dimension, which is split in three
        groups = [
            [*groups[at], *groups[at + 1]] if d == at else own for d, own in enumerate(groups) if d != at + 1
        ]
    expand = tensor.ExpandShape.of(source, groups, _split_shape(shape, at, parts))
    return builder.value(expand, value.name)


def _constant(op: Op, old: Value, array: np.ndarray, builder: Builder) -> Value:
    type = TensorType(array.shape, shaped_of(old).element)
    attr = tensor_attribute(array, type, fresh_resource(op, f"{resource_name(old)}_grouped"))
    return builder.value(Constant(value=attr, results=[type]), old.name)


def _replace(op: Op, new: Value, at: int, parts: Parts) -> None:
    """Puts `new`, with dimension `at` in parts, in the place of the result of `op`, and does so with the elementwise
    ops that follow: merging groups and channels waits until they are done."""
    users, shape = list(op.result.users), shaped_of(op.result).shape
    user = users[0] if len(users) == 1 else None
    if isinstance(user, tensor.CollapseShape) and user.groups == merged_dims(len(shape), at):
        _replace(user, new, at, (*parts, shape[at + 1]))
        op.erase()
        return
    if isinstance(user, linalg.LinalgOp) and _is_plain(user, op.result):
        builder = Builder.before(user)
        inputs = [
            new if v is op.result else _split_input(user, v, m, at, parts, builder)
            for v, m in zip(user.inputs, user.maps, strict=False)
        ]  # fmt: skip
        start = _split_start(user.result, user.outputs[0].name, at, parts, builder)
        _replace(user, _with_split_loop(user, [*inputs, start], at, parts, builder), at, parts)
        op.erase()
        return
    builder = Builder.after(new.owner)  # type: ignore[arg-type]
    op.replace_by(builder.value(tensor.CollapseShape.of(new, _split_dims(len(shape), at, parts))))


def _is_plain(op: linalg.LinalgOp, given: Value) -> bool:
    """True for an elementwise op whose loops are the dimensions of its result and of `given`, and no data."""
    identity = AffineMap.identity(op.num_loops)
    return (
        op.is_elementwise
        and len(op.results) == 1
        and isinstance(op.outputs[0].owner, tensor.Empty)
        and all(
            m == identity for v, m in zip(op.operands, op.maps, strict=True) if v in (given, op.operands[-1])
        )
        and not any(isinstance(i, linalg.IndexOp) for i in op.body.ops)
    )


def _split_input(op: Op, value: Value, map: AffineMap, at: int, parts: Parts, builder: Builder) -> Value:
    if at not in map.dims():
        return value
    place, data = map.results.index(Dim(at)), constant_data(value)
    if data is None:
        return _split(value, place, parts, builder)
    return _constant(op, value, _split_data(data, place, parts), builder)
