"""rebatch: a network for one number of samples becomes one for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import DIMS, PARAMETER, STATE, FuncOp
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.attributes import ArrayAttr, Attribute, StringAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType
from mdsl.passes.base import Context, Pass, functions, option


@dataclass(frozen=True)
class Rebatch(Pass):
    """Give a network another number of samples.

    Before:

        func.func @main(%x: tensor<1x8xf32>) -> tensor<1x8xf32> {
          %y = nn.relu %x : (tensor<1x8xf32>) -> tensor<1x8xf32>

    After, with size=64:

        func.func @main(%x: tensor<64x8xf32>) -> tensor<64x8xf32> {
          %y = nn.relu %x : (tensor<64x8xf32>) -> tensor<64x8xf32>

    The first dimension of the arguments (but for parameters and states) gets the size, those of results follow. What a reshape
    writes is taken to have the samples in its first dimension. An open first dimension gets the size, too.
    """

    name: ClassVar[str] = "rebatch"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "argument with samples"

    size: int = option(1, "how many samples", least=1)

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            with rewriting(function, "rebatch"):
                _rebatch(function, self.size)


def _rebatch(function: FuncOp, size: int) -> None:
    changed: set[Value] = set()
    olds: set[int] = set()
    attributes = function.arg_attributes()
    for argument, given in zip(function.args, attributes, strict=True):
        type = argument.type
        if isinstance(type, TensorType) and type.rank and not {PARAMETER, STATE} & given.keys():
            olds.add(type.shape[0])
            argument.type = TensorType((size, *type.shape[1:]), type.element)
            changed.add(argument)
            _name_dims(given)
    function.set_arg_attributes(attributes)
    if not olds or olds == {size}:
        return
    if len(olds) > 1:
        found = ", ".join("?" if n == DYNAMIC else str(n) for n in sorted(olds))
        raise function.error(f"@{function.symbol}: its arguments have different numbers of samples ({found})")
    (old,) = olds
    for op in function.body.ops:
        if any(v in changed for v in op.operands) and op.results:
            _infer(op, old, size, changed)
    function.update_type()


def _name_dims(attributes: dict[str, Attribute]) -> None:
    """The first dimension has a size now, and needs no name."""
    names = attributes.pop(DIMS, None)
    if isinstance(names, ArrayAttr):
        rest = [a for a in names.values[1:] if isinstance(a, StringAttr)]
        if any(a.value for a in rest):
            attributes[DIMS] = ArrayAttr((StringAttr(""), *rest))


def _infer(op: Op, old: int, size: int, changed: set[Value]) -> None:
    if not isinstance(op, NnOp):
        raise op.error(
            f"the types of '{op.name}' do not follow from its operands': only nn ops can be rebatched"
        )
    if isinstance(op, nn.Reshape | nn.Broadcast | nn.Cast):
        op.result.type = _written(op, old, size)
    for result, type in zip(op.results, op.infer(), strict=True):
        result.type = type
        changed.add(result)


def _written(op: NnOp, old: int, size: int) -> TensorType:
    """What a result type that is written becomes."""
    type = tensor_of(op.result)
    if isinstance(op, nn.Cast):
        return TensorType(tensor_of(op.operands[0]).shape, type.element)
    first, *rest = type.shape or (0,)
    if old == DYNAMIC:
        return TensorType((size if first == DYNAMIC else first, *rest), type.element)
    if isinstance(op, nn.Broadcast):
        return TensorType((size if first == old else first, *rest), type.element)
    if not first or first % old:
        raise op.error(f"its result {type} does not have the {old} samples in its first dimension")
    return TensorType((first // old * size, *rest), type.element)
