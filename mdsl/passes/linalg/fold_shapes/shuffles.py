"""fold-shapes: a shuffle of channels moves behind what works on each channel, and into the contraction that reads it.

A shuffle takes the channels of several groups in turn. Behind a depthwise convolution, a border or a formula it is the
same shuffle of the result, if the constants that differ from channel to channel are reordered now. A sum over all
channels may take them in any order; one over the channels of a group, of which each group of the shuffle has a run of
neighbours, is two loops, over the groups of the shuffle and over the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.rewriting.structured import transpose, with_maps


def move_shuffle(op: Op) -> bool:
    """Applies the first rule that fits; True if one did."""
    if isinstance(op, tensor.Pad):
        return _behind_pad(op)
    if isinstance(op, linalg.LinalgOp) and len(op.results) == 1:
        return _into_groups(op) or _behind(op)
    return False


@dataclass(frozen=True)
class _Shuffle:
    """Dimension `dim` of what is made of `source`, whose dimensions `dim` and `dim + 1`, `groups` of `channels`, it
    takes in the other order."""

    source: Value
    dim: int
    groups: int
    channels: int

    @staticmethod
    def of(value: Value) -> _Shuffle | None:
        """The shuffle that makes `value`, for one user."""
        merge = value.owner
        if not isinstance(merge, tensor.CollapseShape) or len(value.users) != 1:
            return None
        moved = merge.operands[0].owner
        if not isinstance(moved, linalg.Transpose) or not moved.results or len(moved.result.users) != 1:
            return None
        rank = len(shape := shaped_of(moved.inputs[0]).shape)
        pairs = [group[0] for group in merge.groups if len(group) > 1]
        if len(pairs) != 1 or merge.groups != merged_dims(rank, pairs[0]):
            return None
        at = pairs[0]
        order = [*range(at), at + 1, at, *range(at + 2, rank)]
        if [*moved.attr("permutation")] != order:
            return None
        return _Shuffle(moved.inputs[0], at, shape[at], shape[at + 1])

    def merged(self, builder: Builder) -> Value:
        """The channels in the order that they have without the shuffle."""
        groups = merged_dims(shaped_of(self.source).rank, self.dim)
        return builder.value(tensor.CollapseShape.of(self.source, groups), self.source.name)

    def of_result(self, value: Value, at: int, builder: Builder, name: str | None) -> Value:
        """The shuffle of dimension `at` of `value`."""
        shape = shaped_of(value).shape
        groups = merged_dims(len(shape) + 1, at)
        split = (*shape[:at], self.groups, self.channels, *shape[at + 1 :])
        parts = builder.value(tensor.ExpandShape.of(value, groups, split), name)
        order = [*range(at), at + 1, at, *range(at + 2, len(split))]
        moved = transpose(parts, order, builder, name)
        return builder.value(tensor.CollapseShape.of(moved, groups), name)

    def undone(self, data: np.ndarray, at: int) -> np.ndarray:
        """Dimension `at` of constant `data` in the order of the channels without the shuffle."""
        shape = data.shape
        parts = data.reshape(*shape[:at], self.channels, self.groups, *shape[at + 1 :])
        return np.ascontiguousarray(parts.swapaxes(at, at + 1)).reshape(shape)


def _behind_pad(op: tensor.Pad) -> bool:
    """pad(shuffle(x)) -> shuffle(pad(x)) where no channels are added."""
    shuffle = _Shuffle.of(op.operands[0])
    if shuffle is None or len(op.operands) != 1 or op.padding_value.owner is op.body:
        return False
    low, high = op.attr("static_low"), op.attr("static_high")
    if low[shuffle.dim] or high[shuffle.dim]:
        return False
    builder, name = Builder.before(op), op.result.name
    padded = tensor.Pad.of(shuffle.merged(builder), low, high, op.padding_value)
    op.replace_by(shuffle.of_result(builder.value(padded, name), shuffle.dim, builder, name), rename=True)
    return True


def _behind(op: linalg.LinalgOp) -> bool:
    """f(shuffle(x), constants) -> shuffle(f(x, reordered constants)); a sum over the channels needs no shuffle behind it."""
    found = _shuffled(op)
    if found is None:
        return False
    loop, shuffles = found
    operands: list[Value] = []
    builder = Builder.before(op)
    first = next(iter(shuffles.values()))
    for value, map in zip(op.operands, op.maps, strict=True):
        if value in shuffles:
            operands.append(shuffles[value].merged(builder))
        elif loop in map.dims() and value not in op.outputs:
            operands.append(_undone(op, value, map.results.index(Dim(loop)), first, builder))
        else:
            operands.append(value)
    name = op.result.name
    (new,) = with_maps(op, operands, op.maps, op.iterators, builder)
    if loop in op.parallel_dims:
        new = first.of_result(new, op.maps[-1].results.index(Dim(loop)), builder, name)
    op.replace_by(new, rename=True)
    return True


def _undone(op: Op, value: Value, at: int, shuffle: _Shuffle, builder: Builder) -> Value:
    return _constant(op, value, lambda data: shuffle.undone(data, at), builder)


def _shuffled(op: linalg.LinalgOp) -> tuple[int, dict[Value, _Shuffle]] | None:
    """The loop over channels and the operands that are shuffled along it, all in the same way, if the other operands
    that have it are constants, and nothing tells one channel from another but they."""
    shuffles = {v: s for v in op.inputs if (s := _Shuffle.of(v)) is not None}
    ways = {(s.groups, s.channels) for s in shuffles.values()}
    exprs = {m.results[shuffles[v].dim] for v, m in zip(op.inputs, op.maps, strict=False) if v in shuffles}
    expr = next(iter(exprs), None)
    if len(ways) != 1 or len(exprs) != 1 or not isinstance(expr, Dim) or isinstance(op, linalg.Transpose):
        return None
    loop = expr.position
    if any(isinstance(i, linalg.IndexOp) and i.attr("dim") == loop for i in op.body.ops):
        return None
    if loop in op.reduction_dims and not op.sums_products:
        return None
    for value, map in zip(op.operands, op.maps, strict=True):
        uses = [e for e in map.results if loop in e.dims()]
        known = value in shuffles or constant_data(value) is not None
        known = known or (value in op.outputs and isinstance(value.owner, linalg.Fill | tensor.Empty))
        if uses and (uses != [Dim(loop)] or not known):
            return None
    return loop, shuffles


def _into_groups(op: linalg.LinalgOp) -> bool:
    """A grouped contraction of shuffle(x) reads x, if each of its groups has as many channels of each of x's."""
    grouped = op.operands[0].owner
    if not isinstance(grouped, tensor.ExpandShape) or not op.is_contraction or not op.sums_products:
        return False
    shuffle = _Shuffle.of(grouped.operands[0])
    data = constant_data(op.operands[1])
    if shuffle is None or data is None or len(grouped.result.users) != 1:
        return False
    at, shape = shuffle.dim, shaped_of(grouped.result).shape
    if grouped.groups != merged_dims(len(shape), at) or shuffle.channels % shape[at]:
        return False
    image, weight, out = op.maps
    group, summed = (e.position if isinstance(e, Dim) else -1 for e in image.results[at : at + 2])
    if (
        place_of_pair(image, group, summed) is None
        or summed not in op.reduction_dims
        or group in op.reduction_dims
    ):
        return False
    if summed in out.dims() or weight.results.count(Dim(summed)) != 1 or not weight.is_projected_permutation:
        return False
    run, builder = shuffle.channels // shape[at], Builder.before(op)
    # Loop `summed` becomes one over the run, and behind it one over the groups of the shuffle.
    parts = (*shape[:at], shuffle.groups, shape[at], run, *shape[at + 2 :])
    source = builder.value(_regrouped(shuffle, parts, builder), op.operands[0].name)
    place = weight.results.index(Dim(summed))
    split = (*data.shape[:place], run, shuffle.groups, *data.shape[place + 1 :])
    filters = _constant(op, op.operands[1], lambda d: d.reshape(split), builder)
    maps = [_split(m, summed) for m in op.maps]
    wide = maps[0].results
    lanes = wide.index(Dim(summed))
    maps[0] = AffineMap(
        maps[0].num_dims,
        0,
        (*wide[: lanes - 1], Dim(summed + 1), wide[lanes - 1], Dim(summed), *wide[lanes + 2 :]),
    )
    kinds = [*op.iterators[: summed + 1], op.iterators[summed], *op.iterators[summed + 1 :]]
    (new,) = with_maps(op, [source, filters, op.operands[2]], maps, kinds, builder)
    op.replace_by(new, rename=True)
    return True


def _regrouped(shuffle: _Shuffle, shape: Sequence[int], builder: Builder) -> Op:
    """The channels of each group of what is shuffled in runs: those of `shape`."""
    rank = shaped_of(shuffle.source).rank
    groups = merged_dims(rank + 1, shuffle.dim + 1)
    return tensor.ExpandShape.of(shuffle.source, groups, shape)


def _split(map: AffineMap, loop: int) -> AffineMap:
    """The map with loop `loop`, where it occurs as itself, as two."""
    dims = [Dim(d + (d > loop)) for d in range(map.num_dims)]
    results: list[AffineExpr] = []
    for expr in map.compose(dims, map.num_dims + 1).results:
        results += [expr, Dim(loop + 1)] if expr == Dim(loop) else [expr]
    return AffineMap(map.num_dims + 1, 0, tuple(results))


def _constant(op: Op, old: Value, change: Callable[[np.ndarray], np.ndarray], builder: Builder) -> Value:
    """The constant `old`, changed."""
    data = constant_data(old)
    assert data is not None
    array = change(np.asarray(data))
    type = TensorType(array.shape, shaped_of(old).element)
    attr = tensor_attribute(array, type, fresh_resource(op, f"{resource_name(old)}_reordered"))
    return builder.value(Constant(value=attr, results=[type]), old.name)
