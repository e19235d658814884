"""widen: products of 16-bit floats are computed on f32 operands, each converted once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, TypeGuard

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.nn.base import NnOp
from mdsl.dialects.nn.elementwise import Binary, Unary
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Block, Builder, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import bf16, dtype_of, f16, f32
from mdsl.passes.base import Context, Pass
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.target import cost

Product = nn.Conv2d | nn.Matmul | nn.Linear

_CHOOSING = nn.Relu | nn.MaxPool2d | nn.Concat | nn.Reshape | nn.Transpose
"""Ops whose elements are elements of their operands, or 0: the conversion may come before them."""

_Known = dict[tuple[Value, Block | None], Value]
"""The values that were converted, for each block that they are read in."""


@dataclass(frozen=True)
class Widen(Pass):
    """Compute convolutions and matrix products of 16-bit floats on f32 operands.

    Before:

        %y = nn.conv2d %x, %w : (tensor<1x3x8x8xf16>, tensor<4x3x3x3xf16>) -> tensor<1x4x6x6xf16>

    After:

        %x_wide = nn.cast %x : (tensor<1x3x8x8xf16>) -> tensor<1x3x8x8xf32>
        %w_wide = arith.constant dense_resource<w_wide> : tensor<4x3x3x3xf32>
        %y_wide = nn.conv2d %x_wide, %w_wide : (...) -> tensor<1x4x6x6xf32>
        %y = nn.cast %y_wide : (tensor<1x4x6x6xf32>) -> tensor<1x4x6x6xf16>

    Such a product is summed in f32 and rounded once, so that it is the same; but each element is converted once,
    not each time that it is multiplied, and a conversion becomes part of what computes the operand: it comes before
    ops that only choose among elements, and elementwise ops read what is stored for the products. Constants are
    converted now. A product of so few rows that reading its weights takes the time keeps them as narrow as they are.
    """

    name: ClassVar[str] = "widen"
    level: ClassVar[str | None] = "nn"
    subject = "product of 16-bit floats"

    def run(self, module: ModuleOp, context: Context) -> None:
        known: _Known = {}
        for op in list(module.walk()):
            if not isinstance(op, Product) or not _is_narrow(op):
                continue
            rows = _rows(op)
            if cost.worth_widening(rows, context.target):
                remarks.applied(op, f"is computed on f32 operands: each weight is used {rows:,} x", rows=rows)
                _widen(op, known)
            else:
                remarks.missed(
                    op,
                    f"keeps its operands: each weight is used {rows:,} x, before a wider one would arrive",
                    rows=rows,
                )


def _is_narrow(op: Product) -> bool:
    type = tensor_of(op.result)
    return type.element in (f16, bf16) and all(tensor_of(v).is_static for v in (*op.operands, op.result))


def _rows(op: Product) -> int:
    """How many rows share each element of the second operand."""
    shape = tensor_of(op.result).shape
    if isinstance(op, nn.Conv2d):
        return prod(shape) // tensor_of(op.weight).shape[0]
    if isinstance(op, nn.Matmul) and tensor_of(op.a).rank == 1:
        return 1
    columns = tensor_of(op.operands[1]).rank > 1
    rows = shape[:-1] if columns else shape
    shared = isinstance(op, nn.Linear) or tensor_of(op.b).rank <= 2
    return prod(rows) if shared else rows[-1]


def _widen(op: Product, known: _Known) -> None:
    builder = Builder.before(op)
    operands = [_wide(value, op, known) for value in op.operands]
    result = tensor_of(op.result)
    wide = type(op).from_parts(operands, [result.with_element(f32)], op.attributes, location=op.location)
    total = builder.value(wide, f"{op.result.name or 'product'}_wide")
    old = dict.fromkeys(op.operands)
    op.replace_by(builder.value(nn.Cast(total, results=[result]), op.result.name))
    for value in old:
        _drop(value)


def _wide(value: Value, op: NnOp, known: _Known) -> Value:
    """`value` as f32, for `op`."""
    key = value, op.block
    if key not in known:
        known[key] = _moved(value, op, known) or _converted(value, op)
    return known[key]


def _moved(value: Value, op: NnOp, known: _Known) -> Value | None:
    """What only `op` reads, of an op that chooses among elements: the same choice among f32 elements."""
    owner = value.owner
    if not _chooses(owner) or owner.block is not op.block or list(value.users) != [op]:
        return None
    operands = [_wide(v, owner, known) for v in owner.operands]
    type = tensor_of(value).with_element(f32)
    new = owner.__class__.from_parts(operands, [type], owner.attributes, location=owner.location)
    return Builder.before(owner).value(new, f"{value.name or 'x'}_wide")


def _chooses(op: object) -> TypeGuard[NnOp]:
    """Whether each element of the result is one of the operands', or a number that 16 bits hold exactly."""
    if not isinstance(op, nn.Clip):
        return isinstance(op, _CHOOSING)
    dtype = dtype_of(tensor_of(op.result).element)
    bounds = [op.attr(name) for name in ("min", "max")]
    return all(bound is None or float(np.array(bound, dtype)) == bound for bound in bounds)


def _converted(value: Value, op: NnOp) -> Value:
    """The conversion of `value`, right behind the op that computes it; elementwise ops read it instead, for
    what is stored twice is stored in a second pass."""
    type = tensor_of(value).with_element(f32)
    name = f"{value.name or 'x'}_wide"
    data = constant_data(value)
    if data is not None:
        array = np.ascontiguousarray(data, np.float32)
        attr = tensor_attribute(array, type, fresh_resource(op, f"{resource_name(value)}_wide"))
        return Builder.before(op).value(Constant(value=attr, results=[type]), name)
    owner = value.owner
    if not isinstance(owner, NnOp) or owner.block is not op.block or owner.next is None:
        return Builder.before(op).value(nn.Cast(value, results=[type]), name)
    others = (user for user in value.users if user is not op and user.block is op.block)
    users = [user for user in others if isinstance(user, Unary | Binary)]
    wide = Builder.before(owner.next).value(nn.Cast(value, results=[type]), name)
    for user in users:
        narrow = Builder.before(user).value(nn.Cast(wide, results=[value.type]), value.name)
        user.operands = [narrow if v is value else v for v in user.operands]
    return wide


def _drop(value: Value) -> None:
    """Erases what computes `value`, if nothing reads it."""
    owner = value.owner
    if (isinstance(owner, Constant) or _chooses(owner)) and not value.users:
        operands = owner.operands
        owner.erase()
        for operand in operands:
            _drop(operand)
