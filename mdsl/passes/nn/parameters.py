"""parameters: a network's weights become arguments, so that they can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import PARAMETER, FuncOp
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.attributes import DenseAttr, DenseResourceAttr, UnitAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.declare import fields_of
from mdsl.ir.naming import FreeNames
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, is_float, wide
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks
from mdsl.rewriting.constants import constant_data, resource_name

ROLES = ("weight", "bias", "scale", "shift")
"""Operands that are parameters of a layer, by name."""

STATISTICS = ("mean", "variance", "running_mean", "running_variance")
"""Operands that a layer observes in training."""


@dataclass(frozen=True)
class Parameters(Pass):
    """Make arguments of a network's weights.

    Before:

        func.func @main(%x: tensor<4x8xf32>) -> tensor<4x2xf32> {
          %w = arith.constant dense_resource<w> : tensor<2x8xf32>
          %y = nn.linear %x, %w : (tensor<4x8xf32>, tensor<2x8xf32>) -> tensor<4x2xf32>

    After:

        func.func @main(%x: tensor<4x8xf32>, %w: tensor<2x8xf32> {mdsl.parameter}) -> tensor<4x2xf32> {
          %y = nn.linear %x, %w : (tensor<4x8xf32>, tensor<2x8xf32>) -> tensor<4x2xf32>

    Those are constant tensors of floats in resources, and whatever a layer reads as its weight, bias, scale or shift; where constants are
    marked `mdsl.parameter` (as in an imported model), those alone. None is what reaches the results only through ops
    without slope, such as a comparison: a mask. The mean and the variance of a normalisation become arguments too, but are not marked: they are observed, not trained.
    With `master` 16-bit weights are arguments of f32, which are rounded where they are read: steps that are too
    small for 16 bits add up in these (master weights). An argument is called as its resource. What the numbers are, the program no longer says: who calls it does.
    """

    name: ClassVar[str] = "parameters"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "weight"

    master: bool = option(False, "arguments of f32 for weights of 16 bits")

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            lift(function, self.master)


def lift(function: FuncOp, master: bool = False) -> dict[str, np.ndarray]:
    """Makes arguments of the function's weights, with `master` none of 16 bits; returns what they were, by the arguments' names: those whose data
    is there. A matrix that is written as one number has none."""
    data: dict[str, np.ndarray] = {}
    names = FreeNames(argument.name for argument in function.args)
    told = says_parameters(function)
    for constant in [op for op in function.body.ops if isinstance(op, Constant)]:
        if not is_float(constant.result.type) or not isinstance(constant.result.type, TensorType):
            continue
        array = constant_data(constant.result)
        for name, uses, trained in _weights(constant, told):
            name = names.take(name)
            type = tensor_of(constant.result)
            kept = type.with_element(wide(type.element)) if master else type
            argument = function.add_argument(kept, name, {PARAMETER: UnitAttr()} if trained else {})
            if kept != type:
                rounded = nn.Cast(argument, results=[type])
                argument = Builder.after(constant).value(rounded, f"{name}_{type.element}")
            for user, place in uses:
                user.operands = [argument if k == place else v for k, v in enumerate(user.operands)]
            remarks.applied(constant, f"is the argument %{name}")
            if array is not None and not _is_place(constant):
                data[name] = array
        if not constant.result.users:
            constant.erase()
    return data


def says_parameters(function: FuncOp) -> bool:
    """True if the function's constants say which of them are parameters."""
    return any(isinstance(op, Constant) and PARAMETER in op.attributes for op in function.body.ops)


def _is_place(constant: Constant) -> bool:
    """True for a matrix that is written as one number: a place for a weight."""
    value, type = constant.attributes["value"], tensor_of(constant.result)
    return isinstance(value, DenseAttr) and value.is_splat and type.rank > 1 and type.size > 1


def _weights(constant: Constant, told: bool) -> Iterator[tuple[str, list[tuple[Op, int]], bool]]:
    """The arguments to make of a constant: name, where they are read, whether they are trained. A resource is one weight,
    whoever shares it; a number written in the program is one for each layer that reads it, and nothing elsewhere. Where the program has
    `told` which are parameters, no other one is."""
    value = constant.result
    uses = [(user, k) for user in value.users for k, v in enumerate(user.operands) if v is value]
    roles = [_role(*use) for use in uses]
    if told and PARAMETER not in constant.attributes:
        trained = ()
    elif isinstance(constant.attributes["value"], DenseResourceAttr):
        if set(roles) & set(STATISTICS) or _has_slope(value):
            yield resource_name(value), uses, not set(roles) & set(STATISTICS)
        return
    else:
        trained = ROLES
    for (user, place), role in zip(uses, roles, strict=True):
        if role in trained or role in STATISTICS:
            own = f"{user.results[0].name or user.name.split('.')[1]}_{role}"
            yield value.name if len(uses) == 1 and value.name else own, [(user, place)], role in ROLES


def _has_slope(value: Value) -> bool:
    """True if what a value is used for depends on it smoothly: not only through truth values and whole numbers."""
    seen, ahead = {value}, [value]
    while ahead:
        for user in ahead.pop().users:
            if not isinstance(user, NnOp):
                return True
            found = [r for r in user.results if is_float(r.type) and r not in seen]
            seen.update(found)
            ahead += found
    return False


def _role(user: Op, place: int) -> str:
    """As what a layer reads an operand: the name that its declaration has for it."""
    if not isinstance(user, NnOp):
        return ""
    names = [f.name for f in fields_of(type(user), "operand")]
    return names[place] if place < len(names) else ""


def roles_of(value: Value) -> set[str]:
    """As what layers read a value, or what it is rounded to."""
    found = {_role(user, k) for user in value.users for k, v in enumerate(user.operands) if v is value}
    return found.union(*(roles_of(user.result) for user in value.users if isinstance(user, nn.Cast)))
