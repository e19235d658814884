"""Constant folding: pure ops on constants, evaluated by the reference interpreter's own semantics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mdsl.dialects.arith import Constant, constant_attribute
from mdsl.ir.attributes import (
    Attribute,
    DenseAttr,
    DenseResourceAttr,
    FloatAttr,
    IntegerAttr,
    tensor_attribute,
)
from mdsl.ir.core import Op, Value
from mdsl.ir.floats import to_numpy
from mdsl.ir.types import ShapedType, TensorType, dtype_of
from mdsl.reference.registry import meaning

_SCALAR_DIALECTS = ("arith", "math", "math_ext")


def fold_constants(op: Op) -> Sequence[Value | Attribute] | None:
    """The results of an arith or math op on constant scalars and splats; of a layout change of a constant tensor."""
    if not op.operands or op.regions or len(op.results) != 1:
        return None
    constants = [constant_data(v) for v in op.operands]
    if any(c is None for c in constants):
        return None
    dialect = op.name.split(".")[0]
    type = op.result.type
    found = meaning(op.name) if dialect in _SCALAR_DIALECTS else None
    if found is not None:
        return _fold_arithmetic(op, found[0], [c for c in constants if c is not None])
    if op.name in ("tensor.collapse_shape", "tensor.expand_shape") and isinstance(type, TensorType):
        data = constants[0]
        assert data is not None
        return [
            tensor_attribute(
                np.asarray(data).reshape(type.shape), type, fresh_resource(op, resource_name(op.operands[0]))
            )
        ]
    return None


def _fold_arithmetic(
    op: Op, function: Callable[..., Any], constants: list[np.ndarray]
) -> Sequence[Attribute] | None:
    type = op.result.type
    if isinstance(type, ShapedType):
        # Only splats: folding whole tensors is the work of the pass that wants their data.
        if any(c.ndim and any(c.strides) for c in constants):
            return None
        constants = [c.reshape(-1)[0] if c.ndim else c[()] for c in constants]
    else:
        constants = [c[()] for c in constants]
    with np.errstate(all="ignore"):
        value = function(op, *constants)
    return [constant_attribute(np.asarray(value)[()], type)]


def constant_data(value: Value) -> np.ndarray | None:
    """The data of a constant value (shape `()` for a scalar), None if it is not constant."""
    owner = value.owner
    if not isinstance(owner, Constant):
        return None
    attr = owner.attributes["value"]
    if isinstance(attr, DenseAttr):
        return attr.array
    if isinstance(attr, DenseResourceAttr):
        return None if attr.data is None else attr.array
    assert isinstance(attr, IntegerAttr | FloatAttr)
    return np.asarray(to_numpy(attr.value, dtype_of(attr.type)))


def resource_name(value: Value) -> str:
    """What to call data made from the constant `value`."""
    owner = value.owner
    attr = owner.attributes.get("value") if isinstance(owner, Op) else None
    return attr.name if isinstance(attr, DenseResourceAttr) else value.name or "constant"


def fresh_resource(near: Op, base: str) -> str:
    """`base`, with a number if the module around `near` has a resource of that name."""
    root = [near, *near.ancestors()][-1]
    if root not in _taken:
        attributes = (a for op in root.walk() for a in op.attributes.values())
        _taken[root] = {a.name for a in attributes if isinstance(a, DenseResourceAttr)}
    name, number = base, 0
    while name in _taken[root]:
        number += 1
        name = f"{base}_{number}"
    _taken[root].add(name)
    return name


_taken: WeakKeyDictionary[Op, set[str]] = WeakKeyDictionary()
"""The resource names of each module that was asked about: a module has hundreds, and is walked once."""
