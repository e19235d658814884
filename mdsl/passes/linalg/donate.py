"""donate: what is computed element by element of a donated argument is written over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.regions import LAYOUTS
from mdsl.dialects import linalg, tensor, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.ir.affine import AffineMap
from mdsl.ir.core import BlockArgument, Builder, Op, OpResult, Value
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting import remarks


@dataclass(frozen=True)
class Donate(Pass):
    """Write the new value of a donated argument where the old one lies.

    Before:

        func.func @main(%w: tensor<8xf32> {tf.aliasing_output = 0 : i32}, %g: tensor<8xf32>) -> tensor<8xf32> {
          %init = tensor.empty() : tensor<8xf32>
          %new = linalg.generic {...} ins(%w, %g : ...) outs(%init : tensor<8xf32>) {
          ^bb0(%in: f32, %in_1: f32, %out: f32):
            %sum = arith.addf %in, %in_1 : f32

    After:

          %new = linalg.generic {...} ins(%g : ...) outs(%w : tensor<8xf32>) {
          ^bb0(%in_1: f32, %out: f32):
            %sum = arith.addf %out, %in_1 : f32

    Where the op that computes the result reads the argument only at the element that it writes, the argument becomes its
    destination. `bufferize` then computes in the argument's memory, if nothing reads the old value later; if something
    does, it works on a copy.
    """

    name: ClassVar[str] = "donate"
    level: ClassVar[str | None] = "linalg"
    subject = "donated argument"

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            for argument, number in function.donations().items():
                _donate(function, function.body.args[argument], number)


def _donate(function: FuncOp, argument: BlockArgument, number: int) -> None:
    made = _maker(function.body.terminator.operands[number])
    if made is None:
        remarks.missed(
            function, f"{remarks.value_name(argument)}: its new value is not computed element by element"
        )
        return
    op, out = made
    place = _read_at(op, out, argument)
    if place is None:
        remarks.missed(
            function, f"{remarks.value_name(argument)}: its new value does not read it element by element"
        )
        return
    _overwrite(op, place, out)
    remarks.applied(function, f"{remarks.value_name(argument)} is overwritten by its new value")


def _maker(value: Value) -> tuple[linalg.Generic, int] | None:
    """The elementwise op that computes `value`, and which of its results that is."""
    while isinstance(value, OpResult):
        op = value.op
        if isinstance(op, LAYOUTS):
            value = op.operands[0]
        elif isinstance(op, ukernel.RegionOp):
            value = op.body.terminator.operands[value.index]
        else:
            return (op, value.index) if isinstance(op, linalg.Generic) and not op.reduction_dims else None
    return None


def _read_at(op: linalg.Generic, out: int, argument: Value) -> int | None:
    """The place among the op's inputs of the argument, if that is read at the element that is written, and the old
    content of the destination is not."""
    maps, count = op.maps, len(op.inputs)
    written = maps[count + out]
    destination = op.outputs[out]
    if not isinstance(destination.owner, tensor.Empty) or not written.is_permutation:
        return None
    for place, value in enumerate(op.inputs):
        same = value.type == destination.type and maps[place] == written
        if same and _unshaped(value) is argument:
            return place
    return None


def _unshaped(value: Value) -> Value:
    while isinstance(value.owner, LAYOUTS):
        value = value.owner.operands[0]
    return value


def _overwrite(op: linalg.Generic, place: int, out: int) -> None:
    """Makes an input the op's destination."""
    inputs, outputs, maps = list(op.inputs), list(op.outputs), list(op.maps)
    old = outputs[out].owner
    outputs[out] = inputs.pop(place)
    maps.pop(place)
    new = _rebuilt(op, inputs, outputs, maps, place, out)
    op.replace_by(*new.results, rename=True)
    assert isinstance(old, Op)
    if not old.result.users:
        old.erase()


def _rebuilt(
    op: linalg.Generic, inputs: list[Value], outputs: list[Value], maps: list[AffineMap], place: int, out: int
) -> linalg.Generic:
    new = linalg.Generic.make(inputs, outputs, maps, op.iterators)
    Builder.before(op).add(new)
    arguments = list(op.body.args)
    read = arguments.pop(place)
    for old, argument in zip(arguments, new.body.args, strict=True):
        old.replace_by(argument)
        argument.name, argument.serial = old.name, old.serial
    read.replace_by(new.body.args[len(inputs) + out])
    for inner in list(op.body.ops):
        new.body.append(inner.detach())
    new.location = op.location
    return new
