"""The JIT: a whole function becomes one native function, made from the same table as the interpreter.

Blocks become basic blocks, registers local variables that LLVM keeps in machine registers. Micro-kernels
are called through the table of their addresses, so that the code does not depend on where they lie and can
be kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir

from mdsl.analysis.intervals import INTEGER_BITS
from mdsl.arithmetic import ops as arithmetic
from mdsl.bytecode.machine import (
    BYTES,
    I8,
    I64,
    POINTER,
    CallArgument,
    load_element,
    store_element,
    stored_type,
)
from mdsl.bytecode.module import Argument, BufferArgument, Function
from mdsl.bytecode.structure import Step, resolve
from mdsl.codegen import native
from mdsl.codegen.llvm_target import triple_of
from mdsl.target.target import Target
from mdsl.vm.memory import ARGUMENT_SLOTS, ENTRY, buffer_slot
from mdsl.vm.native_machine import PLAIN, NativeMachine, Variant, slot_bits


def compile_function(
    function: Function, variant: Variant = PLAIN, target: Target | None = None
) -> native.NativeCode:
    """The native code of a verified function, for `target` or the host. Its symbol `main` is an entry (see `memory.ENTRY`) whose code
    is the table of the kernels' addresses."""
    return native.compile_module(to_llvm(function, variant), ["main"], target=target)


def to_llvm(function: Function, variant: Variant = PLAIN) -> str:
    """The LLVM IR of a verified function, before optimisation."""
    module = ir.Module(context=ir.Context())
    module.triple = triple_of(Target.host())
    main = ir.Function(module, ENTRY, "main")
    main.attributes.add("nounwind")
    _FunctionMachine(main, function, variant).emit()
    return str(module)


class _FunctionMachine(NativeMachine):
    """Operands are constants; registers are stack slots, which LLVM's first pass turns into SSA values."""

    def __init__(self, main: ir.Function, function: Function, variant: Variant) -> None:
        self.variant = variant
        self.kernels, _, self.buffers, self.context_pointer = main.args
        self.steps = resolve(function)
        self.types = dict(enumerate(function.registers))
        self.entry = ir.IRBuilder(main.append_basic_block("entry"))
        self.slots: dict[int, ir.Value] = {}
        self.bases: dict[int, ir.Value] = {}
        self.blocks = {label: main.append_basic_block(f"at{label}") for label in sorted(self._labels())}
        slots = self.entry.alloca(I64, ARGUMENT_SLOTS, name="arguments")
        self._arguments = self.entry.bitcast(slots, POINTER)
        self.body = main.append_basic_block("body")
        self.builder = ir.IRBuilder(self.body)
        self.step: Step = self.steps[0]

    def emit(self) -> None:
        """Emit every instruction. The entry block is closed last: it fills up as slots are needed."""
        for index, step in enumerate(self.steps):
            self.step = step
            block = self.blocks.get(index)
            if block is not None:
                if not self.builder.block.is_terminated:
                    self.builder.branch(block)
                self.builder.position_at_end(block)
            step.opcode.emit(self)
        self.entry.branch(self.body)

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

    def _labels(self) -> set[int]:
        return {
            value
            for step in self.steps
            for operand, value in step.operands.values()
            if operand.kind == "label" and isinstance(value, int)
        }


def constant(value: int | float, element: str) -> ir.Constant:
    """A constant of an element type; those of the float types are written as their bits."""
    kind = arithmetic.llvm_type(element)
    if element in INTEGER_BITS:
        return kind(value)
    bits = ir.IntType(8 * BYTES[element])(slot_bits(value, element))
    return bits if kind == bits.type else bits.bitcast(kind)
