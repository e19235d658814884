"""rebatch: a network for one number of samples becomes one for another."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from mdsl.dialects import nn, scf, tensor
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import DIMS, PARAMETER, STATE, FuncOp
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.attributes import ArrayAttr, Attribute, StringAttr
from mdsl.ir.core import Block, BlockArgument, Builder, Op, Value, VerifyError
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.nn.rebatch.trial import same_alone
from mdsl.rewriting.constants import constant_data


@dataclass(frozen=True)
class Rebatch(Pass):
    """Give a network another number of samples.

    Before:

        func.func @main(%x: tensor<1x8xf32>) -> tensor<1x8xf32> {
          %y = nn.relu %x : (tensor<1x8xf32>) -> tensor<1x8xf32>

    After, with size=64:

        func.func @main(%x: tensor<64x8xf32>) -> tensor<64x8xf32> {
          %y = nn.relu %x : (tensor<64x8xf32>) -> tensor<64x8xf32>

    The first dimension of the arguments (but for parameters and states) gets the size, and what is computed of them follows, wherever the
    samples lie in it: behind the steps of a recurrent layer's loop, or in one dimension with these. What stands beside samples and is
    the same for each, a first state or a token, is broadcast. An open first dimension gets the size, too.
    """

    name: ClassVar[str] = "rebatch"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "argument with samples"

    size: int = option(1, "how many samples", least=1)

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            outward = _outward(function, self.size)
            with rewriting(function, "rebatch"):
                _rebatch(function, self.size, outward)


def _outward(function: FuncOp, size: int) -> bool:
    """Whether, where types do not tell, samples between other dimensions go into one dimension with what lies around them: the first
    answer with which the network computes of several samples what it computes of each. Raises VerifyError if there is none."""
    for outward in (False, True):
        try:
            made = _rebatch(function.clone(), size, outward)
            if made is None or not made.unsure or made.old == DYNAMIC:
                return outward
            trial = function.clone()
            _rebatch(trial, 2 * made.old, outward)
        except VerifyError:
            if outward:
                raise
            continue
        if same_alone(function, trial, made.old):
            return outward
    raise function.error(
        f"@{function.symbol}: its types do not tell where the samples lie; a model may be exported with their number left open"
    )


def _rebatch(function: FuncOp, size: int, outward: bool) -> _Rebatching | None:
    olds: set[int] = set()
    attributes = function.arg_attributes()
    changed: dict[Value, TensorType] = {}
    for argument, given in zip(function.args, attributes, strict=True):
        type = argument.type
        if isinstance(type, TensorType) and type.rank and not {PARAMETER, STATE} & given.keys():
            olds.add(type.shape[0])
            changed[argument] = type
            argument.type = TensorType((size, *type.shape[1:]), type.element)
            _name_dims(given)
    function.set_arg_attributes(attributes)
    if not olds or olds == {size}:
        return None
    if len(olds) > 1:
        found = ", ".join("?" if n == DYNAMIC else str(n) for n in sorted(olds))
        raise function.error(f"@{function.symbol}: its arguments have different numbers of samples ({found})")
    old = olds.pop()
    if old == 0:
        raise function.error(f"@{function.symbol}: of 0 samples its types do not tell where they lie")
    made = _Rebatching(old, size, changed, outward)
    made.block(function.body)
    function.update_type()
    return made


def _name_dims(attributes: dict[str, Attribute]) -> None:
    """The first dimension has a size now, and needs no name."""
    names = attributes.pop(DIMS, None)
    if isinstance(names, ArrayAttr):
        rest = [a for a in names.values[1:] if isinstance(a, StringAttr)]
        if any(a.value for a in rest):
            attributes[DIMS] = ArrayAttr((StringAttr(""), *rest))


def _with(type: TensorType, axis: int, extent: int) -> TensorType:
    """The type with another extent along a dimension."""
    return TensorType((*type.shape[:axis], extent, *type.shape[axis + 1 :]), type.element)


class _Rebatching:
    """Gives values their types for `size` samples instead of `old`; `was` are those that have changed, with their types before."""

    def __init__(self, old: int, size: int, was: dict[Value, TensorType], outward: bool) -> None:
        self.old, self.size, self.was, self.outward = old, size, was, outward
        self.unsure = False
        self.outer: dict[Value, int] = {}
        """Of values with more than samples in one dimension: how many elements of it lie around the samples (steps, say)."""

    def block(self, block: Block) -> None:
        for op in block.ops:
            if op.results and any(v in self.was for inner in op.walk() for v in inner.operands):
                self.op(op)

    def op(self, op: Op) -> None:
        match op:
            case scf.For():
                self.loop(op)
            case tensor.ExtractSlice():
                self.extract(op)
            case tensor.InsertSlice():
                self.insert(op)
            case NnOp():
                self.nn(op)
            case _:
                raise op.error(
                    f"the types of '{op.name}' do not follow from its operands': only nn ops and their loops can be rebatched"
                )

    # Values ---------------------------------------------------------------------------------------------------

    def before(self, value: Value) -> TensorType:
        """The type of a value for the old number of samples."""
        return self.was.get(value) or tensor_of(value)

    def change(self, value: Value, type: TensorType, outer: int = 1) -> None:
        if self.before(value) != type:
            self.was[value], value.type = self.before(value), type
            self.outer[value] = outer

    def axis(self, value: Value) -> int:
        """The dimension with the samples of a value that has changed."""
        pairs = zip(self.was[value].shape, tensor_of(value).shape, strict=True)
        return next(d for d, (old, new) in enumerate(pairs) if old != new)

    def stretched(self, op: Op, value: Value, axis: int) -> Value:
        """`value`, which is the same for each sample, for all of them. Raises VerifyError where it is not."""
        builder, type = Builder.before(op), tensor_of(value)
        wanted = _with(type, axis, self.size)
        if isinstance(value.owner, tensor.Empty):
            return builder.value(tensor.Empty(results=[wanted]), value.name)
        if isinstance(value.owner, nn.Broadcast):
            value = value.owner.operands[0]
            at = axis + tensor_of(value).rank - type.rank
            if at < 0 or tensor_of(value).shape[at] == 1:
                return builder.value(nn.Broadcast(value, results=[wanted]), f"{value.name}_all")
        data = constant_data(value)
        if type.shape[axis] != 1:
            if data is None or (data != data.take([0], axis)).any():
                raise op.error(f"%{value.name}: {type} has numbers of its own for each of {self.old} samples")
            value = builder.value(nn.Slice(value, starts=[0], ends=[1], axes=[axis]), f"{value.name}_one")
        return builder.value(nn.Broadcast(value, results=[wanted]), f"{value.name}_all")

    # Ops ------------------------------------------------------------------------------------------------------

    def nn(self, op: NnOp) -> None:
        if isinstance(op, nn.Concat | nn.Scatter):
            self.agree(op)
        if isinstance(op, nn.Reshape):
            self.reshape(op)
            return
        if isinstance(op, nn.Broadcast | nn.Cast):
            self.change(op.result, self.written(op))
        old = [self.before(r) for r in op.results]
        first = next(v for v in op.operands if v in self.was)
        for result, before, type in zip(op.results, old, op.infer(), strict=True):
            assert isinstance(type, TensorType)
            self.change(result, type, self.outer.get(first, 1))
            if result in self.was and before.shape[self.axis(result)] == self.old:
                self.outer[result] = 1

    def written(self, op: nn.Broadcast | nn.Cast) -> TensorType:
        """What a result type that is written becomes."""
        type, source = self.before(op.result), op.operands[0]
        if isinstance(op, nn.Cast):
            return TensorType(tensor_of(source).shape, type.element)
        at = self.axis(source) + type.rank - tensor_of(source).rank
        return _with(type, at, self.size) if type.shape[at] in (self.old, DYNAMIC) else type

    def agree(self, op: nn.Concat | nn.Scatter) -> None:
        """Operands that have to have as many samples as those that have changed."""
        axis = self.axis(next(v for v in op.operands if v in self.was))
        if axis == op.attr("axis") % tensor_of(op.result).rank:
            return
        for number, value in enumerate(op.operands):
            if value not in self.was and tensor_of(value).shape[axis] == self.old:
                op.operands = [
                    self.stretched(op, v, axis) if k == number else v for k, v in enumerate(op.operands)
                ]

    def reshape(self, op: nn.Reshape) -> None:
        """Samples keep their place among the elements, which are in one order before and after; a dimension of its own is theirs rather than
        one with others."""
        source, type = op.operands[0], self.before(op.result)
        if self.old == DYNAMIC:
            opened = type.rank > 0 and type.shape[0] == DYNAMIC
            self.change(op.result, _with(type, 0, self.size) if opened else type)
            return
        shape, axis = self.was[source].shape, self.axis(source)
        around = prod(shape[:axis]) * self.outer.get(source, 1)
        found: list[tuple[bool, int, int, int, int]] = []
        users = [user for user in op.result.users if isinstance(user, nn.Concat)]
        joined = {user.attr("axis") % type.rank for user in users}  # layers' states, not samples
        for place, extent in enumerate(type.shape):
            share, rest = divmod(around, prod(type.shape[:place]) or 1)
            if not rest and share and extent and extent % (share * self.old) == 0:
                alone = extent == self.old
                odd = place != axis if alone else place == type.rank - 1  # features stay as they are
                odd += 2 * (place in joined)
                order = place if alone or self.outward else -place
                found.append((not alone, odd, order, place, share))
        if not found:
            raise op.error(f"its result {type} has the {self.old} samples in no dimension")
        merged, _, _, place, share = min(found)
        self.unsure |= sum(other == merged for other, *_ in found) > 1
        new = _with(type, place, type.shape[place] // self.old * self.size)
        self.change(op.result, new, share if merged else 1)

    # Loops ----------------------------------------------------------------------------------------------------

    def loop(self, op: scf.For) -> None:
        """What is carried has the samples that the body makes of it: it is gone through until nothing changes any more."""
        end = op.body.terminator
        for init, argument in zip(op.operands[3:], op.carried, strict=True):
            if init in self.was:
                self.change(argument, tensor_of(init), self.outer.get(init, 1))
            elif self.old > 1 and self.old in tensor_of(init).shape:  # a first state
                type = tensor_of(init)
                self.change(argument, _with(type, type.shape.index(self.old), self.size))
        count = -1
        while count != len(self.was):
            count = len(self.was)
            self.block(op.body)
            for value, argument in zip(end.operands, op.carried, strict=True):
                if value in self.was:
                    self.change(argument, tensor_of(value), self.outer.get(value, 1))
        inits = list(op.operands[3:])
        for number, (init, argument) in enumerate(zip(inits, op.carried, strict=True)):
            if argument in self.was and init not in self.was:
                inits[number] = self.stretched(op, init, self.axis(argument))
        op.operands = [*op.operands[:3], *inits]
        for argument, result in zip(op.carried, op.results, strict=True):
            if argument in self.was:
                self.change(result, tensor_of(argument), self.outer.get(argument, 1))

    def extract(self, op: tensor.ExtractSlice) -> None:
        source, sizes = op.operands[0], op.mixed("sizes")
        if op.result in self.was:
            return
        axis, old = self.axis(source), tensor_of(op.result)
        if sizes[axis] != self.was[source].shape[axis]:
            raise op.error(f"takes a part of what has the {self.old} samples in dimension {axis}")
        dropped = [d for d, s in enumerate(sizes) if s == 1 and d != axis][: len(sizes) - old.rank]
        sizes[axis] = tensor_of(source).shape[axis]
        shape = [s for d, s in enumerate(sizes) if d not in dropped and isinstance(s, int)]
        new = tensor.ExtractSlice.of(source, op.mixed("offsets"), sizes, op.mixed("strides"), shape)
        made = Builder.before(op).value(new, op.result.name)
        self.was[made], self.outer[made] = old, self.outer.get(source, 1)
        op.replace_by(made, rename=True)

    def insert(self, op: tensor.InsertSlice) -> None:
        source, dest = op.operands[:2]
        if op.result in self.was or source not in self.was:
            if dest in self.was and source not in self.was:
                raise op.error(f"writes what has no samples into what has {self.size}")
            return
        type, sizes, offsets = self.before(dest), op.mixed("sizes"), op.mixed("offsets")
        single = [d for d, s in enumerate(sizes) if s == 1]
        single.sort(key=lambda d: not isinstance(offsets[d], Value) and type.shape[d] == 1)
        dropped = single[: len(sizes) - tensor_of(source).rank]
        axis = [d for d in range(len(sizes)) if d not in dropped][self.axis(source)]
        if sizes[axis] != type.shape[axis]:
            raise op.error(f"writes a part of what has the {self.old} samples in dimension {axis}")
        sizes[axis] = tensor_of(source).shape[self.axis(source)]
        if isinstance(dest, BlockArgument):
            self.change(dest, _with(type, axis, tensor_of(source).shape[self.axis(source)]))
        elif dest not in self.was:
            dest = self.stretched(op, dest, axis)
        new = tensor.InsertSlice.of(source, dest, offsets, sizes, op.mixed("strides"))
        made = Builder.before(op).value(new, op.result.name)
        self.was[made], self.outer[made] = type, self.outer.get(source, 1)
        op.replace_by(made, rename=True)
