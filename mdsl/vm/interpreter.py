"""The threaded interpreter, generated from the table of opcodes.

Each opcode is a native function, its handler, that ends in a tail call of the next one. The four arguments
(code, registers, buffers, context) stay in machine registers: the calling convention, `preserve_none`,
passes them in those that C functions preserve, so a handler can call a micro-kernel without saving any.

A fifth, `last`, is the i64 that the handler wrote to a register. An instruction whose first such operand is the register
that the one before it wrote has a handler that takes `last` instead of loading it: what was just stored comes back
from memory five cycles later. (Ertl, "Stack Caching for Interpreters", 1995, keeps more, in more handlers.)

Before it runs, a function's code is laid out in 64-bit words: the address of an instruction's handler, then
its operands: a register as its byte offset in the register file, a buffer as its byte offset in the table of
buffers, a kernel as its address and the offset of its profile, a label as a distance in bytes. What begins a parallel
loop tells the counter again and the registers that the body reads; the body follows, and is entered as a function is.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from mdsl.bytecode.isa import OPCODES, Opcode, Operand
from mdsl.bytecode.machine import (
    I8,
    I64,
    POINTER,
    CallArgument,
    Context,
    load_element,
    store_element,
)
from mdsl.bytecode.module import Argument, BufferArgument, Function
from mdsl.bytecode.structure import Step, live_registers, resolve
from mdsl.codegen import native
from mdsl.codegen.llvm_target import triple_of
from mdsl.support import cache
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target
from mdsl.vm.memory import ARGUMENTS_BYTES, ENTRY, NULL_BUFFER, Job, KernelProfile, buffer_slot
from mdsl.vm.native_machine import PLAIN, NativeMachine, Variant, slot_bits

HANDLER = ir.FunctionType(ir.VoidType(), [*ENTRY.args, I64])
"""void(code, registers, buffers, context, last)."""

CONVENTION = "preserve_nonecc"

_NOTHING = ir.Constant(I64, ir.Undefined)
"""`last` where no handler reads it."""

_COMMON_ARITY = 8
"""Dispatches of up to so many arguments are compiled with the core group, others on demand."""

_ARGUMENT_WORDS = 4

_ROOMS = ("ir", "target", "analysis", "arithmetic", "bytecode", "codegen", "vm")
"""What the machine code of the handlers follows from."""


class Form(NamedTuple):
    """A handler of an opcode: `arity` is the number of a dispatch's arguments, else 0; `takes_last` says that the operand
    `_followed` is the value that the instruction before it wrote."""

    mnemonic: str
    arity: int = 0
    takes_last: bool = False


class HandlerMachine(NativeMachine):
    """Operands come from the code stream, registers lie in memory."""

    def __init__(self, handler: ir.Function, opcode: Opcode, form: Form, variant: Variant) -> None:
        self.builder = ir.IRBuilder(handler.append_basic_block("entry"))
        self.handler = handler
        self.variant = variant
        self.code, self.registers, self.buffers, self.context_pointer, last = handler.args
        self.known = {_followed(opcode): last} if form.takes_last else {}
        self.last: ir.Value = _NOTHING
        self.arity = form.arity
        self._operands: dict[str, tuple[Operand, int]] = {}
        position = 1
        for operand in (*opcode.operands, *opcode.implied):
            self._operands[operand.name] = operand, position
            position += 2 if operand.kind == "kernel" else 1
        self.next: ir.Value = I64(8 * position)

    def read(self, name: str) -> ir.Value:
        known = self.known.get(name)
        return known or load_element(self.builder, self._register(name), self._operands[name][0].type)

    def write(self, name: str, value: ir.Value) -> None:
        type = self._operands[name][0].type
        store_element(self.builder, value, self._register(name), type)
        if type == "i64":
            self.last = value

    def immediate(self, name: str) -> ir.Value:
        operand, position = self._operands[name]
        if operand.kind == "integer":
            return self._word(self.code, position)
        pointer = self.builder.gep(self.code, [I64(8 * position)], source_etype=I8)
        return load_element(self.builder, pointer, operand.type)

    def buffer(self, name: str) -> ir.Value:
        offset = self._word(self.code, self._operands[name][1])
        slot = self.builder.gep(self.buffers, [offset], source_etype=I8)
        return self.builder.load(slot, typ=POINTER, align=8)

    def jump(self, label: str) -> None:
        self._go(self._word(self.code, self._operands[label][1]))

    def jump_if(self, condition: ir.Value, label: str) -> None:
        taken, otherwise = (self.builder.append_basic_block(name) for name in ("taken", "otherwise"))
        self.builder.cbranch(condition, taken, otherwise)
        self.builder.position_at_end(taken)
        self.jump(label)
        self.builder.position_at_end(otherwise)

    def finish(self) -> None:
        self._count()
        self.builder.ret_void()

    def calls(self) -> Iterator[list[CallArgument]]:
        """A loop over the batch in the code stream, whose length the stream has."""
        b = self.builder
        position = self._operands["calls"][1]
        size = I64(8 * _ARGUMENT_WORDS * self.arity)
        first = b.gep(self.code, [I64(8 * (position + 1))], source_etype=I8)
        end = b.gep(first, [b.mul(self._word(self.code, position), size)], source_etype=I8)
        before, body, after = b.block, b.append_basic_block("call"), b.append_basic_block("called")
        b.branch(body)
        b.position_at_end(body)
        arguments = b.phi(POINTER, "arguments")
        arguments.add_incoming(first, before)
        yield [self._argument(arguments, index) for index in range(self.arity)]
        following = b.gep(arguments, [size], source_etype=I8)
        arguments.add_incoming(following, b.block)
        b.cbranch(b.icmp_unsigned("<", b.ptrtoint(following, I64), b.ptrtoint(end, I64)), body, after)
        b.position_at_end(after)
        self.next = b.sub(b.ptrtoint(end, I64), b.ptrtoint(self.code, I64))

    def call_kernel(self, arguments: list[ir.Value]) -> None:
        position = self._operands["kernel"][1]
        slots = self.builder.gep(self.registers, [I64(-ARGUMENTS_BYTES)], source_etype=I8)
        address, profile = self._word(self.code, position), self._word(self.code, position + 1)
        self.call_native(address, profile, slots, arguments)

    def share(self, lower: ir.Value, trips: ir.Value) -> None:
        """The list of the registers lies behind the operands, and then the body."""
        b = self.builder
        live = b.gep(self.code, [self.next], source_etype=I8)
        body = b.gep(live, [b.add(self._word(live, 1), I64(2))], source_etype=I64)
        job = b.load(self._field(Context.JOB), typ=POINTER, align=8)
        entry = b.load(b.gep(job, [I64(Job.ENTRY)], source_etype=I64), typ=POINTER, align=8)
        self.call_share([entry, body, self.registers, live], lower, trips)

    def go_on(self) -> None:
        """End the handler with a tail call of the next instruction's."""
        if not self.builder.block.is_terminated:
            self._go(self.next)

    def _go(self, distance: ir.Value) -> None:
        b = self.builder
        self._count()
        code = b.gep(self.code, [distance], source_etype=I8)
        following = b.load(code, typ=HANDLER.as_pointer(), align=8)
        arguments = [code, self.registers, self.buffers, self.context_pointer, self.last]
        b.call(following, arguments, cconv=CONVENTION, tail="musttail")
        b.ret_void()

    def _count(self) -> None:
        """The instruction is done."""
        if self.variant.profiled:
            self.count(KernelProfile.INSTRUCTIONS, I64(0), I64(1))

    def _argument(self, arguments: ir.Value, index: int) -> CallArgument:
        buffer, register, stride, offset = (
            self._word(arguments, _ARGUMENT_WORDS * index + word) for word in range(_ARGUMENT_WORDS)
        )
        b = self.builder
        base = b.load(b.gep(self.buffers, [buffer], source_etype=I8), typ=I64, align=8)
        value = b.load(b.gep(self.registers, [register], source_etype=I8), typ=I64, align=8)
        return CallArgument(base, value, stride, offset)

    def _register(self, name: str) -> ir.Value:
        return self.builder.gep(
            self.registers, [self._word(self.code, self._operands[name][1])], source_etype=I8
        )

    def _word(self, base: ir.Value, position: int) -> ir.Value:
        """A word of the code, which nothing changes while it runs."""
        pointer = self.builder.gep(base, [I64(8 * position)], source_etype=I8)
        word = self.builder.load(pointer, typ=I64, align=8)
        word.set_metadata("invariant.load", self.handler.module.add_metadata([]))
        return word


def entry_address(variant: Variant = PLAIN) -> int:
    """The address of the C function that runs laid out code: void(code, registers, buffers, context)."""
    return handler_address(_ENTER, variant)


def handler_address(form: Form, variant: Variant) -> int:
    """The address of a handler."""
    if form.arity > _COMMON_ARITY:
        group = f"dispatch.{form.arity}"
    else:
        group = "core" if form == _ENTER else OPCODES[form.mnemonic].group
    with _lock:
        handlers = _groups.get((group, variant))
        if handlers is None:
            handlers = _groups[group, variant] = _load(group, variant)
        return handlers[form]


def lay_out(function: Function, kernels: Sequence[int], variant: Variant = PLAIN) -> np.ndarray:
    """The words of a verified function's code; `kernels` has the address of each of the module's kernels."""
    return _Layout(function, kernels, variant).words()


_ENTER = Form("enter")

_lock = threading.RLock()
"""Whoever interrupts the thread that holds it may compile a program, too."""
_groups: dict[tuple[str, Variant], Mapping[Form, int]] = {}
_codes: list[native.NativeCode] = []
"""Keeps the handlers loaded for the life of the process."""


def _load(group: str, variant: Variant) -> Mapping[Form, int]:
    members = _members(group)
    key = cache.key("handlers", group, str(variant), source_digest(*_ROOMS))
    target = Target.host()
    produce = lambda: native.to_object(str(_generate(members, variant)), target)  # noqa: E731
    code = native.load_object(key, ["handlers"], produce, target)
    _codes.append(code)
    table = (ctypes.c_uint64 * len(members)).from_address(code.address("handlers"))
    return dict(zip(members, table, strict=True))


def _members(group: str) -> list[Form]:
    if group.startswith("dispatch."):
        return [Form("dispatch", int(group.removeprefix("dispatch.")))]
    opcodes = [o for o in OPCODES.values() if o.group == group and o.mnemonic != "dispatch"]
    members = [Form(o.mnemonic) for o in opcodes]
    members += [Form(o.mnemonic, takes_last=True) for o in opcodes if _followed(o)]
    if group == "core":
        members += [_ENTER, *(Form("dispatch", arity) for arity in range(1, _COMMON_ARITY + 1))]
    return members


def _followed(opcode: Opcode) -> str | None:
    """The operand that may come from the instruction before it: the first i64 register that it reads."""
    operands = (*opcode.operands, *opcode.implied)
    return next((o.name for o in operands if o.kind in ("read", "update") and o.type == "i64"), None)


def _generate(members: list[Form], variant: Variant) -> ir.Module:
    """A module with the handlers and a table of their addresses, in the order of `members`."""
    module = ir.Module(context=ir.Context())
    module.triple = triple_of(Target.host())
    functions = [_handler(module, form, variant) for form in members]
    table = ir.GlobalVariable(module, ir.ArrayType(POINTER, len(functions)), "handlers")
    table.initializer = ir.Constant(table.value_type, functions)
    table.global_constant = True
    return module


def _handler(module: ir.Module, form: Form, variant: Variant) -> ir.Function:
    type = ENTRY if form == _ENTER else HANDLER
    handler = ir.Function(module, type, f"{form.mnemonic}.{form.arity}{'.last' * form.takes_last}")
    handler.linkage = "internal"
    handler.attributes.add("nounwind")
    if form == _ENTER:
        _emit_enter(handler)
        return handler
    handler.calling_convention = CONVENTION
    opcode = OPCODES[form.mnemonic]
    machine = HandlerMachine(handler, opcode, form, variant)
    opcode.emit(machine)
    machine.go_on()
    return handler


def _emit_enter(function: ir.Function) -> None:
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    first = builder.load(function.args[0], typ=HANDLER.as_pointer(), align=8)
    builder.call(first, [*function.args, _NOTHING], cconv=CONVENTION)
    builder.ret_void()


class _Layout:
    """The words of a function's code and where each instruction begins in them."""

    def __init__(self, function: Function, kernels: Sequence[int], variant: Variant) -> None:
        self.kernels = kernels
        self.variant = variant
        self.handlers: dict[Form, int] = {}
        self.steps = resolve(function)
        self.live = {
            index: live_registers(self.steps, index)
            for index, step in enumerate(self.steps)
            if step.opcode.mnemonic == "parallel_begin"
        }
        self.starts = [0]
        for index, step in enumerate(self.steps):
            self.starts.append(self.starts[-1] + self._size(step, index))

    def words(self) -> np.ndarray:
        words: list[int] = []
        for index, step in enumerate(self.steps):
            if self.starts[index + 1] > self.starts[index]:
                form = Form(step.opcode.mnemonic, _arity(step), self._takes_last(index))
                if form not in self.handlers:
                    self.handlers[form] = handler_address(form, self.variant)
                words.append(self.handlers[form])
                for name in step.operands:
                    words += self._operand(step, name, index)
                if step.opcode.mnemonic == "parallel_begin":
                    live = self.live[index]
                    words += [8 * step.number("counter"), len(live), *(8 * register for register in live)]
        return np.array(words, dtype=np.uint64)

    def _takes_last(self, index: int) -> bool:
        """True if the instruction's first i64 is what the one before it wrote. Nothing jumps to where that can be, but to a
        loop's body: its end hands on the counter, as its beginning did."""
        name = _followed(self.steps[index].opcode)
        before = self.steps[index - 1] if name and index else None
        if name is None or before is None:
            return False
        written = [o for o, _ in before.operands.values() if o.kind in ("write", "update")]
        runs_on = not before.opcode.role or before.opcode.mnemonic == "loop_begin"
        number = self.steps[index].number(name)
        return runs_on and any(o.type == "i64" and before.number(o.name) == number for o in written)

    def _size(self, step: Step, index: int) -> int:
        """Words of an instruction; the end of a block that is only left forwards needs no code."""
        if step.opcode.mnemonic == "if_end":
            return 0
        if step.opcode.mnemonic == "parallel_begin":
            return 3 + len(step.operands) + len(self.live[index])
        if step.opcode.mnemonic == "dispatch":
            return 4 + len(step.calls()) * _ARGUMENT_WORDS * _arity(step)
        return 1 + len(step.operands)

    def _operand(self, step: Step, name: str, index: int) -> list[int]:
        operand, _ = step.operands[name]
        if operand.kind == "calls":
            words = [word for call in step.calls() for argument in call for word in _argument_words(argument)]
            return [len(step.calls()), *words]
        if operand.kind == "value":
            return [slot_bits(step.value(name), operand.type)]
        number = step.number(name)
        match operand.kind:
            case "kernel":
                return [self.kernels[number], KernelProfile.offset(number)]
            case "buffer":
                return [8 * buffer_slot(number)]
            case "label":
                return [_unsigned(8 * (self.starts[number] - self.starts[index]))]
            case "integer":
                return [_unsigned(number)]
            case _:
                return [8 * number]


def _arity(step: Step) -> int:
    return len(step.calls()[0]) if step.opcode.mnemonic == "dispatch" else 0


def _argument_words(argument: Argument) -> list[int]:
    """An index argument is one in the null buffer, with stride 1."""
    if isinstance(argument, BufferArgument):
        stride = argument.stride if argument.register is not None else 0
        slot = 8 * buffer_slot(argument.buffer)
        return [slot, 8 * (argument.register or 0), _unsigned(stride), _unsigned(argument.offset)]
    return [8 * NULL_BUFFER, 8 * argument.register, 1, 0]


def _unsigned(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF
