"""Emission of a micro-kernel into an LLVM function: values so far, and ops that wait for their first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from llvmlite import ir

from mdsl.analysis.code_size import is_function
from mdsl.arithmetic import ops as arithmetic
from mdsl.arithmetic.lanes import LLVMType, LLVMValue
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.types import MemRefType, Type, VectorType, element_of

_POINTER = ir.PointerType()


def value_type(source: Type) -> LLVMType:
    """The LLVM type of a value in a kernel."""
    if isinstance(source, MemRefType):
        return _POINTER
    element = str(element_of(source))
    return arithmetic.llvm_type(element, source.size if isinstance(source, VectorType) else None)


class KernelEmitter:
    """Emits the ops of one kernel into an LLVM function; `values` maps what has been emitted."""

    def __init__(
        self, function: ir.Function, handlers: Mapping[str, Handler], fuel: LLVMValue | None = None
    ) -> None:
        self.function, self.fuel = function, fuel
        self.handlers = handlers
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.values: dict[Value, LLVMValue] = {}
        self.deferred: dict[Value, Op] = {}
        self._once: dict[tuple[object, ...], LLVMValue] = {}

    def __getitem__(self, value: Value) -> LLVMValue:
        """What has been emitted for `value`; a deferred op is emitted now."""
        op = self.deferred.pop(value, None)
        if op is not None:
            self.operation(op)
        return self.values[value]

    def once(self, make: Callable[..., LLVMValue], *operands: object) -> LLVMValue:
        """What `make` emits for these operands, here or where the block that is emitted, or one around it, wanted the same
        before: the accesses of a loop's body have most of their addresses in common."""
        found = self._once.get((make, *operands))
        if found is None:
            found = self._once[make, *operands] = make(self.builder, *operands)
        return found

    def block(self, block: Block) -> list[LLVMValue]:
        """Emit a block's ops; returns the operands of its terminator.

        Broadcasts of loaded scalars wait for their first use, but not past an op that may write memory.
        LLVM keeps to the order that it is given: if all the broadcasts of a reduction's step stood before
        its FMAs, they would take the accumulators' registers.
        """
        around, self._once = self._once, self._once.copy()
        try:
            return self._ops(block)
        finally:
            self._once = around

    def _ops(self, block: Block) -> list[LLVMValue]:
        for op, *others in _runs(block):
            if others:
                self._abreast([op, *others])
                continue
            if op.has("terminator"):
                if op.name == "ukernel.return":
                    self.builder.ret_void()
                results = [self[value] for value in op.operands]
                self.deferred.clear()  # what is left has no user
                return results
            if _is_deferrable(op):
                self.deferred[op.result] = op
                continue
            if not op.has("pure") and not op.has("reads"):
                for value in list(self.deferred):
                    self[value]
            self.operation(op)
        return []

    def _abreast(self, run: Sequence[Op]) -> None:
        """Emit one function of several operands, an instruction for each in turn: one after another, most of the
        time would pass in waiting for the results of the chain that such a function is."""
        for op in run:
            self[op.operands[0]]
        instructions = self.builder.block.instructions
        start = len(instructions)
        for op in run:
            self.operation(op)
        made = instructions[start:]
        length = len(made) // len(run)
        instructions[start:] = [each for step in range(length) for each in made[step::length]]

    def operation(self, op: Op) -> None:
        """Emit one op that is not a terminator."""
        handler = self.handlers.get(op.name)
        if handler is None:
            raise op.error("has no machine code; a micro-kernel must be lowered before it is compiled")
        result = handler(self, op)
        if result is not None:
            self.values[op.result] = result

    def combine(self, op_name: str, element: str, *operands: LLVMValue) -> LLVMValue:
        """An arithmetic op whose operands and result have one element type."""
        return arithmetic.emit(op_name, self.builder, operands, element, element)


def _runs(block: Block) -> Iterator[list[Op]]:
    """The block's ops in order: neighbours together that are one elementary function of vectors of one type."""
    run: list[Op] = []
    for op in block.ops:
        if run and not (_same_function(run[-1], op) and all(op.operands[0] is not o.result for o in run)):
            yield run
            run = []
        run.append(op)
    if run:
        yield run


def _same_function(one: Op, other: Op) -> bool:
    return (
        one.name == other.name
        and is_function(one)
        and len(one.operands) == 1
        and one.result.type == other.result.type
    )


def _is_deferrable(op: Op) -> bool:
    """A broadcast, or a load that is only broadcast, used in its own block alone."""
    if op.name == "memref.load":
        return bool(op.result.users) and all(user.name == "vector.broadcast" for user in op.result.users)
    return op.name == "vector.broadcast" and all(user.block is op.block for user in op.result.users)


Handler = Callable[[KernelEmitter, Op], "LLVMValue | None"]
