"""The interpreter's handlers as LLVM IR, generated from the table of opcodes; see `interpreter` for what they are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache as memoize
from typing import NamedTuple

from llvmlite import ir

from mdsl.bytecode.isa import OPCODES, Opcode, Operand
from mdsl.bytecode.machine import I8, I64, POINTER, CallArgument, load_element, store_element
from mdsl.bytecode.worker_context import WorkerContext
from mdsl.codegen.llvm_target import triple_of
from mdsl.target.target import Target
from mdsl.vm.memory import ARGUMENTS_BYTES, Job, KernelProfile
from mdsl.vm.native_machine import ENTRY, NativeMachine
from mdsl.vm.variant import Variant

HANDLER = ir.FunctionType(ir.VoidType(), [*ENTRY.args, I64])
"""void(code, registers, buffers, context, last)."""

CONVENTION = "preserve_nonecc"

_NOTHING = ir.Constant(I64, ir.Undefined)
"""`last` where no handler reads it."""

_COMMON_ARITY = 8
"""Dispatches of up to so many arguments are compiled with the core group, others on demand."""

ARGUMENT_WORDS = 4


class Form(NamedTuple):
    """A handler of an opcode: `arity` is the number of a dispatch's arguments, else 0; `takes_last` says that the operand
    `followed` is the value that the instruction before it wrote."""

    mnemonic: str
    arity: int = 0
    takes_last: bool = False


_ENTER = Form("enter")
"""What C calls; the first of the core group."""


def handler_of(form: Form) -> tuple[str, int]:
    """The group of a handler, and its number there."""
    group = f"dispatch.{form.arity}" if form.arity > _COMMON_ARITY else OPCODES[form.mnemonic].group
    return group, _members(group).index(form)


def generate(group: str, variant: Variant) -> ir.Module:
    """A module with the handlers of a group, a table of their addresses, and its length."""
    module = ir.Module(context=ir.Context())
    module.triple = triple_of(Target.host())
    functions = [_handler(module, form, variant) for form in _members(group)]
    table = ir.GlobalVariable(module, ir.ArrayType(POINTER, len(functions)), "handlers")
    table.initializer = ir.Constant(table.value_type, functions)
    count = ir.GlobalVariable(module, I64, "count")
    count.initializer = I64(len(functions))
    table.global_constant = count.global_constant = True
    return module


@memoize
def _members(group: str) -> list[Form]:
    """The handlers of a group, in the order of its table."""
    if group.startswith("dispatch."):
        return [Form("dispatch", int(group.removeprefix("dispatch.")))]
    opcodes = [o for o in OPCODES.values() if o.group == group and o.mnemonic != "dispatch"]
    members = [Form(o.mnemonic) for o in opcodes]
    members += [Form(o.mnemonic, takes_last=True) for o in opcodes if followed(o)]
    if group == "core":
        members = [_ENTER, *members, *(Form("dispatch", arity) for arity in range(1, _COMMON_ARITY + 1))]
    return members


def followed(opcode: Opcode) -> str | None:
    """The operand that may come from the instruction before it: the first i64 register that it reads."""
    operands = (*opcode.operands, *opcode.implied)
    return next((o.name for o in operands if o.kind in ("read", "update") and o.type == "i64"), None)


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


class HandlerMachine(NativeMachine):
    """Operands come from the code stream, registers lie in memory."""

    def __init__(self, handler: ir.Function, opcode: Opcode, form: Form, variant: Variant) -> None:
        self.builder = ir.IRBuilder(handler.append_basic_block("entry"))
        self.handler = handler
        self.variant = variant
        self.code, self.registers, self.buffers, self.context_pointer, last = handler.args
        self.known = {followed(opcode): last} if form.takes_last else {}
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
        size = I64(8 * ARGUMENT_WORDS * self.arity)
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
        job = b.load(self._field(WorkerContext.JOB), typ=POINTER, align=8)
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
            self._word(arguments, ARGUMENT_WORDS * index + word) for word in range(ARGUMENT_WORDS)
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
