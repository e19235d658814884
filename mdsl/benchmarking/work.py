"""Static counts: a micro-kernel's arithmetic, and the bytes that a dispatch may touch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mdsl.analysis.footprints import KernelSignatures
from mdsl.analysis.intervals import Interval
from mdsl.bytecode.module import Buffer, Function, Module
from mdsl.bytecode.verify import verify
from mdsl.dialects import scf
from mdsl.dialects.arith import constant_of
from mdsl.ir.core import Block, Op
from mdsl.ir.types import FloatType, ShapedType, Type
from mdsl.syntax.parser import parse

_OPERATIONS = {"vector.fma": 2, "math.fma": 2}
"""Operations an element of the ops that do more than one."""


def kernel_flops(source: str) -> int:
    """The floating-point operations of one call of a kernel, given as IR text: an FMA counts two, a function
    of `math` one, comparisons and selections none. Of an `scf.if` the branch counts that does more; a loop
    whose bounds are not constant counts as one trip.
    """
    return sum(_flops(op.regions[0].block) for op in parse(source).body.ops if op.name == "ukernel.func")


def _flops(block: Block) -> int:
    total = 0
    for op in block.ops:
        if isinstance(op, scf.For):
            total += _trips(op) * _flops(op.body)
        elif isinstance(op, scf.If):
            total += max((_flops(region.block) for region in op.regions), default=0)
        else:
            total += _of_op(op)
    return total


def _of_op(op: Op) -> int:
    if op.name == "vector.reduction":
        return _elements(op.operands[0].type) - 1 if _is_float(op.operands[0].type) else 0
    if op.name in _OPERATIONS:
        return _OPERATIONS[op.name] * _elements(op.results[0].type)
    dialect, _, name = op.name.partition(".")
    computes = dialect == "math" or (dialect == "arith" and name.endswith("f") and name not in _MOVES)
    return _elements(op.results[0].type) if computes and _is_float(op.results[0].type) else 0


_MOVES = ("cmpf", "extf", "truncf")


def _trips(loop: scf.For) -> int:
    bounds = [constant_of(value) for value in loop.operands[:3]]
    if not all(isinstance(bound, int) for bound in bounds):
        return 1
    lower, upper, step = (int(bound) for bound in bounds if bound is not None)
    return max(-(-(upper - lower) // step), 0)


def _elements(type: Type) -> int:
    return prod(type.shape) if isinstance(type, ShapedType) else 1


def _is_float(type: Type) -> bool:
    return isinstance(type.element if isinstance(type, ShapedType) else type, FloatType)


@dataclass(frozen=True)
class Reaches:
    """The bytes that the arguments of dispatches span, over all trips of the loops around them: bytes between the
    first and the last that an argument may touch count, also those that a strided access skips."""

    buffers: Sequence[Buffer]
    spans: Mapping[int, Mapping[int, Sequence[Interval]]]
    """By the index of the dispatch's instruction, then by the buffer's number."""

    def constants(self, dispatches: Iterable[int]) -> int:
        """Bytes of constants that these dispatches touch together."""
        return self._together(dispatches, constant=True)

    def activations(self, dispatches: Iterable[int]) -> int:
        """Bytes of all else that these dispatches touch together."""
        return self._together(dispatches, constant=False)

    def _together(self, dispatches: Iterable[int], constant: bool) -> int:
        touched: dict[int, list[Interval]] = {}
        for index in dispatches:
            for buffer, spans in self.spans[index].items():
                if (self.buffers[buffer].kind == "constant") is constant:
                    touched.setdefault(buffer, []).extend(spans)
        return sum(map(_union, touched.values()))


def reaches(module: Module, signatures: KernelSignatures) -> Reaches:
    """What each dispatch of the module's main function may touch."""
    function = module.function()
    touched: dict[int, dict[int, list[Interval]]] = {
        index: {} for index, instruction in enumerate(function.code) if instruction.opcode == "dispatch"
    }

    def observe(where: Function, index: int, buffer: int, span: Interval) -> None:
        if where is function:
            touched[index].setdefault(buffer, []).append(span)

    verify(module, signatures, observe)
    return Reaches(module.buffers(function), touched)


def _union(intervals: list[Interval]) -> int:
    """How many numbers the intervals hold together."""
    total, end = 0, -1
    for low, high in sorted(intervals):
        total += max(high - max(low - 1, end), 0)
        end = max(end, high)
    return total
