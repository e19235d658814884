"""The JIT: a function becomes a native function, made from the same table as the interpreter, and so does the body of
each parallel loop.

Blocks become basic blocks, registers local variables that LLVM keeps in machine registers; what a parallel loop's
body reads is handed to it in the worker's registers. Micro-kernels
are called through the table of their addresses, so that the code does not depend on where they lie and can
be kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir

from mdsl.analysis.intervals import INTEGER_BITS
from mdsl.arithmetic import ops as arithmetic
from mdsl.bytecode.machine import (
    I8,
    I64,
    POINTER,
    CallArgument,
    load_element,
    store_element,
    stored_type,
)
from mdsl.bytecode.module import Argument, BufferArgument, Function
from mdsl.bytecode.structure import Step, body_of, live_registers, resolve
from mdsl.codegen import native
from mdsl.codegen.llvm_target import triple_of
from mdsl.target.target import ELEMENT_BYTES, Target
from mdsl.vm.memory import ARGUMENT_SLOTS, buffer_slot
from mdsl.vm.native_machine import ENTRY, NativeMachine, slot_bits
from mdsl.vm.variant import PLAIN, Variant


def compile_function(
    function: Function, variant: Variant = PLAIN, target: Target | None = None
) -> native.NativeCode:
    """The native code of a verified function, for `target` or the host. Its symbol `main` is an entry (see `native_machine.ENTRY`) whose code
    is the table of the kernels' addresses."""
    return native.compile_module(to_llvm(function, variant), ["main"], target=target)


def to_llvm(function: Function, variant: Variant = PLAIN) -> str:
    """The LLVM IR of a verified function, before optimisation."""
    module = ir.Module(context=ir.Context())
    module.triple = triple_of(Target.host())
    steps = resolve(function)
    _FunctionMachine(_entry(module, "main"), function, steps, variant).emit(range(len(steps)))
    return str(module)


def _entry(module: ir.Module, name: str) -> ir.Function:
    entry = ir.Function(module, ENTRY, name)
    entry.attributes.add("nounwind")
    return entry


class _FunctionMachine(NativeMachine):
    """Operands are constants; registers are stack slots, which LLVM's first pass turns into SSA values."""

    def __init__(self, main: ir.Function, function: Function, steps: list[Step], variant: Variant) -> None:
        self.main, self.function, self.steps, self.variant = main, function, steps, variant
        self.kernels, self.registers, self.buffers, self.context_pointer = main.args
        self.entry = ir.IRBuilder(main.append_basic_block("entry"))
        self.slots: dict[int, ir.Value] = {}
        self.bases: dict[int, ir.Value] = {}
        self.blocks: dict[int, ir.Block] = {}
        slots = self.entry.alloca(I64, ARGUMENT_SLOTS, name="arguments")
        self._arguments = self.entry.bitcast(slots, POINTER)
        self.body = main.append_basic_block("body")
        self.builder = ir.IRBuilder(self.body)
        self.index = 0

    @property
    def step(self) -> Step:
        return self.steps[self.index]

    def emit(self, part: range) -> None:
        """Emit the instructions of a part of the code. The entry block is closed last: it fills up as slots are
        needed."""
        own = self._without_bodies(part)
        self.blocks = {label: self.main.append_basic_block(f"at{label}") for label in self._labels(own)}
        for self.index in own:
            block = self.blocks.get(self.index)
            if block is not None:
                if not self.builder.block.is_terminated:
                    self.builder.branch(block)
                self.builder.position_at_end(block)
            self.step.opcode.emit(self)
        self.entry.branch(self.body)

    def emit_body(self, part: range, counter: int, live: list[int]) -> None:
        """Emit the body of a parallel loop, which finds these registers in its worker's."""
        for register in (counter, *live):
            element = self.function.registers[register]
            value = self.entry.load(self._place(self.entry, register), typ=stored_type(element), align=8)
            self.entry.store(value, self._slot(register, element))
        self.emit(part)

    def share(self, lower: ir.Value, trips: ir.Value) -> None:
        """The body is a function of its own; the registers that it reads are put where the others find them."""
        module, body = self.main.module, body_of(self.steps, self.index)
        counter, live = self.step.number("counter"), live_registers(self.steps, self.index)
        entry = _entry(module, f"loop{self.index}")
        entry.linkage = "internal"
        _FunctionMachine(entry, self.function, self.steps, self.variant).emit_body(body, counter, live)
        for register in live:
            slot = self._slot(register, self.function.registers[register])
            value = self.builder.load(slot, typ=stored_type(self.function.registers[register]))
            self.builder.store(value, self._place(self.builder, register), align=8)
        words = [8 * counter, len(live), *(8 * register for register in live)]
        table = ir.GlobalVariable(module, ir.ArrayType(I64, len(words)), f"live{self.index}")
        table.initializer, table.global_constant, table.linkage = table.value_type(words), True, "internal"
        self.call_share([entry, self.kernels, self.registers, table], lower, trips)

    def _place(self, builder: ir.IRBuilder, register: int) -> ir.Value:
        """The address of a register in the worker's memory."""
        return builder.gep(self.registers, [I64(8 * register)], source_etype=I8)

    def _without_bodies(self, part: range) -> list[int]:
        """The instructions of a part that are not in a parallel loop in it."""
        own: list[int] = []
        index = part.start
        while index < part.stop:
            own.append(index)
            begins = self.steps[index].opcode.mnemonic == "parallel_begin"
            index = body_of(self.steps, index).stop if begins else index + 1
        return own

    def read(self, name: str) -> ir.Value:
        element = self.step.operands[name][0].type
        return load_element(self.builder, self._slot(self.step.number(name), element), element)

    def write(self, name: str, value: ir.Value) -> None:
        element = self.step.operands[name][0].type
        store_element(self.builder, value, self._slot(self.step.number(name), element), element)

    def immediate(self, name: str) -> ir.Value:
        operand, _ = self.step.operands[name]
        if operand.kind == "integer":
            return I64(self.step.number(name))
        return constant(self.step.value(name), operand.type)

    def buffer(self, name: str) -> ir.Value:
        return self._base(self.step.number(name))

    def jump(self, label: str) -> None:
        self.builder.branch(self.blocks[self.step.number(label)])

    def jump_if(self, condition: ir.Value, label: str) -> None:
        otherwise = self.builder.append_basic_block("next")
        self.builder.cbranch(condition, self.blocks[self.step.number(label)], otherwise)
        self.builder.position_at_end(otherwise)

    def finish(self) -> None:
        self.builder.ret_void()

    def calls(self) -> Iterator[list[CallArgument]]:
        for arguments in self.step.calls():
            yield [self._argument(argument) for argument in arguments]

    def call_kernel(self, arguments: list[ir.Value]) -> None:
        pointer = self.builder.gep(self.kernels, [I64(self.step.number("kernel"))], source_etype=I64)
        address = self.builder.load(pointer, typ=I64, align=8)
        self.call_native(address, I64(0), self._arguments, arguments)

    def _argument(self, argument: Argument) -> CallArgument:
        zero = I64(0)
        if not isinstance(argument, BufferArgument):
            return CallArgument(zero, self._value(argument.register), I64(1), zero)
        base = self.builder.ptrtoint(self._base(argument.buffer), I64)
        value = zero if argument.register is None else self._value(argument.register)
        return CallArgument(base, value, I64(argument.stride), I64(argument.offset))

    def _value(self, register: int) -> ir.Value:
        return load_element(self.builder, self._slot(register, "i64"), "i64")

    def _slot(self, register: int, element: str) -> ir.Value:
        if register not in self.slots:
            self.slots[register] = self.entry.alloca(stored_type(element), name=f"r{register}")
        return self.slots[register]

    def _base(self, buffer: int) -> ir.Value:
        if buffer not in self.bases:
            slot = self.entry.gep(self.buffers, [I64(8 * buffer_slot(buffer))], source_etype=I8)
            self.bases[buffer] = self.entry.load(slot, typ=POINTER, align=8)
        return self.bases[buffer]

    def _labels(self, part: list[int]) -> list[int]:
        found = {
            value
            for index in part
            for operand, value in self.steps[index].operands.values()
            if operand.kind == "label" and isinstance(value, int)
        }
        return sorted(found)


def constant(value: int | float, element: str) -> ir.Constant:
    """A constant of an element type; those of the float types are written as their bits."""
    kind = arithmetic.llvm_type(element)
    if element in INTEGER_BITS:
        return kind(value)
    bits = ir.IntType(8 * ELEMENT_BYTES[element])(slot_bits(value, element))
    return bits if kind == bits.type else bits.bitcast(kind)
