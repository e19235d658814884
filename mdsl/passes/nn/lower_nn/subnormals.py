"""lower-nn: weights of products have no subnormal numbers, with which processors multiply a hundred times as slowly.

Training with weight decay leaves filters of them. Taking them for zero changes a product by less than 1.2e-38 times the largest input
(of 64-bit floats 2.3e-308 times): less than a sum is rounded by, if it is not as small itself. The subnormal numbers of f16 are
multiplied as f32, where they are normal ones; those of bf16 are subnormal there too.
"""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Builder, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import Type, bf16, f32, f64
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name

_NORMAL: dict[Type, np.floating] = {
    bf16: np.finfo(np.float32).tiny,
    f32: np.finfo(np.float32).tiny,
    f64: np.finfo(np.float64).tiny,
}
"""The smallest positive normal numbers of what products are computed in."""

_SHARE = 1 << 16
"""Elements that are looked at together: they stay in the caches."""


def without_subnormals(op: NnOp, normal: dict[Value, Value]) -> None:
    """Gives a product zeros for the subnormal numbers of its constant factors. `normal` has what earlier products read instead
    of each: a weight that several products share stays one."""
    if not isinstance(op, nn.Conv2d | nn.Linear | nn.Matmul):
        return
    factors = [*op.operands[:2]]
    for value in factors:
        if value not in normal:
            normal[value] = _normal(op, value)
    op.operands = [*map(normal.__getitem__, factors), *op.operands[2:]]
    for value in dict.fromkeys(factors):
        if isinstance(value.owner, Constant) and not value.users:
            value.owner.erase()


def _normal(op: NnOp, value: Value) -> Value:
    """`value`, or a constant beside it."""
    type, data = tensor_of(value), constant_data(value)
    least = _NORMAL.get(type.element)
    if least is None or data is None or 0 in data.strides or not data.flags.c_contiguous:
        return value
    flat, changed = data.reshape(-1), None
    for start in range(0, flat.size, _SHARE):
        share = np.abs(flat[start : start + _SHARE])
        if np.any((share < least) & (share > 0)):
            changed = flat.copy() if changed is None else changed
            changed[start : start + _SHARE][share < least] = 0
    if changed is None:
        return value
    remarks.applied(op, f"takes subnormal numbers of {resource_name(value)} for zero")
    name = fresh_resource(op, f"{resource_name(value)}_normal")
    attr = tensor_attribute(changed.reshape(data.shape), type, name)
    assert isinstance(value.owner, Constant)
    new = Constant(value=attr, results=[type])
    return Builder.after(value.owner).value(new, f"{value.name}_normal" if value.name else None)
