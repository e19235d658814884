"""widen: products of 16-bit floats are computed on f32 operands, each converted once."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import tensor_attribute
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import bf16, f16, f32
from mdsl.passes.base import Context, Pass
from mdsl.rewriting.constants import constant_data, fresh_resource, resource_name
from mdsl.target import cost

Product = nn.Conv2d | nn.Matmul | nn.Linear


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
    not each time that it is multiplied, and a conversion becomes part of what computes the operand. Constants are
    converted now. A product of so few rows that reading its weights takes the time keeps them as narrow as they are.
    """

    name: ClassVar[str] = "widen"
    level: ClassVar[str | None] = "nn"

    def run(self, module: ModuleOp, context: Context) -> None:
        known: dict[tuple[Value, Block | None], Value] = {}
        for op in list(module.walk()):
            if isinstance(op, Product) and _is_narrow(op) and cost.worth_widening(_rows(op), context.target):
                _widen(op, known)


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


def _widen(op: Product, known: dict[tuple[Value, Block | None], Value]) -> None:
    builder = Builder.before(op)
    for value in op.operands:
        if (value, op.block) not in known:
            known[value, op.block] = _wide(value, op, builder)
    operands = [known[value, op.block] for value in op.operands]
    result = tensor_of(op.result)
    wide = type(op).from_parts(operands, [result.with_element(f32)], op.attributes, location=op.location)
    total = builder.value(wide, f"{op.result.name or 'product'}_wide")
    old = dict.fromkeys(op.operands)
    op.replace_by(builder.value(nn.Cast(total, results=[result]), op.result.name))
    for value in old:
        if isinstance(value.owner, Constant) and not value.users:
            value.owner.erase()


def _wide(value: Value, op: Op, builder: Builder) -> Value:
    """`value` as f32."""
    type = tensor_of(value).with_element(f32)
    name = f"{value.name or 'x'}_wide"
    data = constant_data(value)
    if data is None:
        return builder.value(nn.Cast(value, results=[type]), name)
    array = np.ascontiguousarray(data, np.float32)
    attr = tensor_attribute(array, type, fresh_resource(op, f"{resource_name(value)}_wide"))
    return builder.value(Constant(value=attr, results=[type]), name)
