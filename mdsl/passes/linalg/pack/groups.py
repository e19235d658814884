"""pack: groups of a convolution that are narrower than a block are merged, with zeros between them.

A convolution of 32 groups of 4 channels is, on blocks of 16, one of 8 groups of 16 whose weights are zero
outside of 4 x 4 squares. Vectors of 4 of 16 lanes would take as long, and the image would need another layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np

from mdsl.analysis.regions import empty_like, merged_dims, place_of_pair, shaped, with_maps
from mdsl.dialects import linalg, tensor
from mdsl.dialects.arith import Constant
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.types import TensorType
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name

_WORTH = 2.0
"""Multiplications, as a multiple of those that the narrow groups need, that keeping the layout may cost."""


def merge_groups(op: linalg.LinalgOp, block: int) -> None:
    """Replaces `op`, and elementwise ops behind it, by ones with fewer, wider groups if that is worth while."""
    groups = _Groups.of(op)
    number = groups.to_merge(block) if groups else 1
    if groups is not None and number > 1:
        _merge(op, groups, number)


@dataclass(frozen=True)
class _Groups:
    """Loops of a grouped contraction: over groups, and over summed and resulting channels in a group."""

    group: int
    summed: int
    made: int
    sizes: list[int]

    @staticmethod
    def of(op: linalg.LinalgOp) -> _Groups | None:
        """None for any other contraction, and for weights that are not constant."""
        if not isinstance(op, linalg.Generic) or constant_data(op.operands[1]) is None:
            return None
        image, _, out = op.maps
        order = [e.position if isinstance(e, Dim) else None for e in op.maps[1].results]
        if len(order) < 3 or None in order[:3]:
            return None
        group, made, summed = (d for d in order[:3] if d is not None)
        if summed not in op.reduction_dims or made in image.dims() or {group, made} - set(op.parallel_dims):
            return None
        if place_of_pair(image, group, summed) is None or place_of_pair(out, group, made) is None:
            return None
        return _Groups(group, summed, made, op.loop_sizes())

    def to_merge(self, block: int) -> int:
        """How many groups become one: the fewest that fill whole blocks; 1 if that does not pay or divide."""
        summed, made, groups = (self.sizes[d] for d in (self.summed, self.made, self.group))
        number = lcm(summed, made, block) // min(summed, made)
        fitting = [
            n for n in range(1, number + 1)
            if n * summed % block == 0 and n * made % block == 0 and groups % n == 0
        ]  # fmt: skip
        if not fitting or fitting[0] == 1:
            return 1

        def work(n: int) -> float:
            depth = n * summed if n * summed <= block else -(-n * summed // block) * block
            return depth * -(-n * made // block) * block / n

        return fitting[0] if work(fitting[0]) <= _WORTH * work(1) else 1


def _merge(op: linalg.LinalgOp, groups: _Groups, number: int) -> None:
    image, _, out = op.maps
    fill = op.outputs[0].owner
    at = place_of_pair(image, groups.group, groups.summed)
    made_at = place_of_pair(out, groups.group, groups.made)
    assert at is not None and made_at is not None
    if not isinstance(fill, linalg.Fill):
        return
    builder = Builder.before(op)
    given = _regrouped(op.operands[0], at, number, builder)
    weight = _merged_weight(op, number, builder)
    shape = _merged_shape(shaped(op.result).shape, made_at, number)
    start = empty_like(TensorType(shape, shaped(op.result).element), builder, fill.outputs[0].name)
    zero = builder.value(linalg.Fill.make(fill.inputs, [start]), fill.result.name)
    (new,) = with_maps(op, [given, weight, zero], op.maps, op.iterators, builder)
    _replace(op, new, made_at, number)


def _merged_shape(shape: Sequence[int], at: int, number: int) -> tuple[int, ...]:
    return (*shape[:at], shape[at] // number, shape[at + 1] * number, *shape[at + 2 :])


def _regrouped(value: Value, at: int, number: int, builder: Builder) -> Value:
    """`value` with `number` groups (dimension `at`) as one; its channels are the dimension behind."""
    shape = shaped(value).shape
    pairs = merged_dims(len(shape), at)
    owner = value.owner
    if isinstance(owner, tensor.ExpandShape) and owner.groups == pairs:
        joined = owner.operands[0]
    else:
        joined = builder.value(tensor.CollapseShape.of(value, pairs), f"{value.name}_joined")
    expand = tensor.ExpandShape.of(joined, pairs, _merged_shape(shape, at, number))
    return builder.value(expand, value.name)


def _merged_weight(op: linalg.LinalgOp, number: int, builder: Builder) -> Value:
    """(groups, made, summed, ...) -> (groups / n, n * made, n * summed, ...), zero between different groups."""
    data = constant_data(op.operands[1])
    assert data is not None
    groups, made, summed, *window = data.shape
    wide = np.zeros((groups // number, number, made, number, summed, *window), data.dtype)
    narrow = np.asarray(data).reshape(groups // number, number, made, summed, *window)
    for n in range(number):
        wide[:, n, :, n] = narrow[:, n]
    array = wide.reshape(groups // number, number * made, number * summed, *window)
    return _constant(op, op.operands[1], array, builder)


def _constant(op: Op, old: Value, array: np.ndarray, builder: Builder) -> Value:
    type = TensorType(array.shape, shaped(old).element)
    attr = tensor_attribute(array, type, fresh_resource(op, f"{resource_name(old)}_merged"))
    return builder.value(Constant(value=attr, results=[type]), old.name)


def _replace(op: linalg.LinalgOp, new: Value, at: int, number: int) -> None:
    """Puts `new`, with merged groups, in the place of the result of `op`, and merges the elementwise ops that follow."""
    users = list(op.result.users)
    user = users[0] if len(users) == 1 else None
    if isinstance(user, linalg.LinalgOp):
        inputs = _elementwise_inputs(op, user, new, at, number)
        if inputs is not None:
            builder = Builder.before(user)
            type = shaped(user.result)
            start = empty_like(
                TensorType(_merged_shape(type.shape, at, number), type.element),
                builder,
                user.outputs[0].name,
            )
            (made,) = with_maps(user, [*inputs, start], user.maps, user.iterators, builder)
            _replace(user, made, at, number)
            op.erase()
            return
    shape = shaped(op.result).shape
    pairs = merged_dims(len(shape), at)
    if isinstance(user, tensor.CollapseShape) and user.groups == pairs:
        user.replace_by(Builder.before(user).value(tensor.CollapseShape.of(new, pairs)))
        op.erase()
        return
    builder = Builder.after(new.owner)  # type: ignore[arg-type]
    joined = builder.value(tensor.CollapseShape.of(new, pairs), f"{op.result.name}_joined")
    op.replace_by(builder.value(tensor.ExpandShape.of(joined, pairs, shape)))


def _elementwise_inputs(
    op: linalg.LinalgOp, user: linalg.LinalgOp, new: Value, at: int, number: int
) -> list[Value] | None:
    """The inputs of the elementwise `user` on merged groups; None if one of them cannot be had."""
    identity = AffineMap.identity(user.num_loops)
    plain = user.is_elementwise and len(user.results) == 1 and isinstance(user.outputs[0].owner, tensor.Empty)
    if not plain or any(isinstance(i, linalg.IndexOp) for i in user.body.ops) or user.maps[-1] != identity:
        return None
    inputs: list[Value] = []
    for value, map in zip(user.inputs, user.maps, strict=False):
        place, data = place_of_pair(map, at, at + 1), constant_data(value)
        if value is op.result and map == identity:
            inputs.append(new)
        elif not {at, at + 1} & map.dims():
            inputs.append(value)
        elif place is not None and data is not None:
            array = np.asarray(data).reshape(_merged_shape(data.shape, place, number))
            inputs.append(_constant(user, value, array, Builder.before(user)))
        else:
            return None
    return inputs
