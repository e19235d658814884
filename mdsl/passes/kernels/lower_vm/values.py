"""lower-vm: what the values of a function have become, and its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import arith, mvm
from mdsl.dialects.affine import Apply
from mdsl.ir.affine import Arithmetic
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.registry import operations
from mdsl.ir.types import IndexType, MemRefType, ShapedType
from mdsl.passes.kernels.lower_vm.address import Address, Affine, Registers, combined


class Values:
    """What the values of one function have become, and where code is being written."""

    def __init__(self, func: mvm.Func, args: Sequence[Value]) -> None:
        self.func = func
        self.registers = Registers(func.body)
        self.values: dict[Value, Value] = {}
        self.indices: dict[Value, Affine] = {}
        self.addresses = {old: Address(new, Affine()) for old, new in zip(args, func.args, strict=True)}
        self.builder = Builder(func.body)

    def learn(self, old: Value, new: Value) -> None:
        if isinstance(old.type, IndexType):
            self.indices[old] = Affine(0, ((new, 1),))
        else:
            self.values[old] = new

    def alias(self, new: Value, old: Value) -> None:
        """`new` is the number that `old` is."""
        if isinstance(old.type, IndexType):
            self.indices[new] = self.indices[old]
        else:
            self.values[new] = self.values[old]

    def index(self, value: Value) -> Affine:
        return self.indices[value]

    def form(self, bound: int | Value) -> Affine:
        return Affine(bound) if isinstance(bound, int) else self.index(bound)

    def register(self, value: Value) -> Value:
        return (
            self.registers.get(self.index(value)) if isinstance(value.type, IndexType) else self.values[value]
        )

    def compute(self, op: Op) -> None:
        """Scalar arithmetic; index arithmetic stays symbolic while it is affine."""
        check_places(op)
        if isinstance(op.results[0].type, ShapedType):
            raise op.error("vectors live in micro-kernels only")
        result = op.results[0]
        affine = self.affine(op) if isinstance(result.type, IndexType) else None
        if affine is not None:
            self.indices[result] = affine
            return
        copy = type(op).from_parts([self.register(v) for v in op.operands], [result.type], op.attributes)
        entry = Builder(self.func.body, self.func.body.first, op.location)
        builder = entry if isinstance(op, arith.Constant) else self.builder
        self.learn(result, builder.value(copy, result.name))

    def affine(self, op: Op) -> Affine | None:
        if isinstance(op, arith.Constant):
            return Affine(int(arith.constant_of(op.result) or 0))
        if not all(isinstance(v.type, IndexType) for v in op.operands):
            return None
        return combined(op.name, *(self.index(v) for v in op.operands)) if len(op.operands) == 2 else None

    def apply(self, op: Apply) -> None:
        forms = [self.index(v) for v in op.operands]
        arithmetic = Arithmetic.of_ops(Affine, self.combine)
        self.indices[op.result] = op.attr("map").apply(forms, arithmetic)[0]

    def combine(self, name: str, left: Affine, right: Affine) -> Affine:
        """An op on indices: symbolic where it is affine, else in a register."""
        found = combined(name, left, right)
        if found is not None:
            return found
        op = operations()[name](self.registers.get(left), self.registers.get(right))
        return Affine(0, ((self.builder.value(op, "at"), 1),))


def check_places(op: Op) -> None:
    """Raises for memory that is chosen while the program runs."""
    if any(isinstance(r.type, MemRefType) for r in op.results):
        raise op.error("the VM has no pointers: which memory is meant must be known at compile time")
