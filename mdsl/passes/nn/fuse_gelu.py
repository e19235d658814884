"""fuse-gelu: the product by which exporters write GELU becomes the op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import dtype_of
from mdsl.passes.base import Context, Pass
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Make one op of x/2 * (1 + erf(x / sqrt 2)).

    Before:

        %scaled = nn.div %x, %root_of_two : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>
        %error = nn.erf %scaled : (tensor<2x8xf32>) -> tensor<2x8xf32>
        %share = nn.add %error, %one : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>
        %product = nn.mul %x, %share : (tensor<2x8xf32>, tensor<2x8xf32>) -> tensor<2x8xf32>
        %y = nn.mul %product, %half : (tensor<2x8xf32>, tensor<f32>) -> tensor<2x8xf32>

    After:

        %y = nn.gelu %x : (tensor<2x8xf32>) -> tensor<2x8xf32>

    The op takes no division, and rounds once where the chain rounds after each step. The three factors may come in any
    order, as divisions too, where nothing else reads what is between. Hendrycks, Gimpel: Gaussian Error Linear Units
    (2016).
    """

    name: ClassVar[str] = "fuse-gelu"
    level: ClassVar[str | None] = "nn"
    subject = "nn.erf"

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in list(module.walk()):
            if isinstance(op, nn.Erf):
                _visit(op)


def _visit(erf: Op) -> None:
    scaled, share = _scaled(erf.operands[0]), _only_user(erf.result)
    if scaled is None or not _is_near(scaled[1], sqrt(0.5), erf.result):
        remarks.missed(erf, "is not of a value by the root of two")
        return
    if not isinstance(share, nn.Add) or _number(_other(share, erf.result)) != 1:
        remarks.missed(erf, "is not only read where 1 is added")
        return
    x = scaled[0]
    for product, factor, has_x in _products(share, x):
        if has_x and factor == 0.5 and product.result.type == x.type:
            remarks.fused(erf, f"is part of GELU, {remarks.name_of(product)}", product)
            _replace(product, x, [erf, share])
            return
    remarks.missed(erf, "is not multiplied by half of what it is the error function of")


def _products(share: Op, x: Value) -> Iterator[tuple[Op, float, bool]]:
    """The products in turn that `share` becomes part of: the op, the number in it, and whether `x` is a factor."""
    factor, has_x = 1.0, False
    op = share
    while isinstance(user := _only_user(op.result), nn.Mul | nn.Div):
        other = _other(user, op.result)
        number = _number(other)
        scaled = (x, 1.0) if other is x else _scaled(other)
        if isinstance(user, nn.Div):
            if number is None or user.operands[0] is not op.result:
                return
            factor /= number
        elif number is not None:
            factor *= number
        elif scaled is not None and scaled[0] is x and not has_x:
            factor, has_x = factor * scaled[1], True
        else:
            return
        op = user
        yield op, factor, has_x


def _replace(product: Op, x: Value, chain: list[Op]) -> None:
    """GELU for the last product; what only led to it goes."""
    while chain[-1] is not product:
        user = _only_user(chain[-1].result)
        assert user is not None
        chain.append(user)
    sources = [value.owner for op in chain for value in op.operands]
    gelu = Builder.before(product).value(nn.Gelu(x))
    product.replace_by(gelu)
    for op in [*reversed(chain[:-1]), *sources]:
        if (
            isinstance(op, Op)
            and op.block is not None
            and op.has("pure")
            and not any(r.users for r in op.results)
        ):
            op.erase()


def _scaled(value: Value) -> tuple[Value, float] | None:
    """(v, s) of `v * s`, `s * v` or `v / (1 / s)`, s being a number."""
    op = value.owner
    if not isinstance(op, nn.Mul | nn.Div):
        return None
    left, right = op.operands
    if (number := _number(right)) is not None:
        return left, 1 / number if isinstance(op, nn.Div) else number
    number = _number(left) if isinstance(op, nn.Mul) else None
    return None if number is None else (right, number)


def _number(value: Value) -> float | None:
    """The number that a constant of one element is, if it is one to multiply and divide by."""
    data = constant_data(value)
    if data is None or data.size != 1:
        return None
    number = float(data.reshape(-1)[0])
    return number if np.isfinite(number) and number else None


def _is_near(number: float, wanted: float, x: Value) -> bool:
    """Equal but for roundings to the elements' type."""
    place = float(np.spacing(np.ones((), dtype_of(tensor_of(x).element))))
    return abs(number / wanted - 1) <= 2 * place


def _other(op: Op, operand: Value) -> Value:
    left, right = op.operands
    return right if left is operand else left


def _only_user(value: Value) -> Op | None:
    users = list(value.users)
    return users[0] if len(users) == 1 else None
