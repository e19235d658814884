"""Laying out a verified function's code for the interpreter; see `interpreter` for what it looks like."""

from __future__ import annotations

import numpy as np

from mdsl.bytecode.module import Argument, BufferArgument, Function
from mdsl.bytecode.structure import Step, live_registers, resolve
from mdsl.vm.handlers import ARGUMENT_WORDS, Form, followed, handler_of
from mdsl.vm.interpreter import HANDLER, KERNEL, Layout
from mdsl.vm.memory import NULL_BUFFER, KernelProfile, buffer_slot
from mdsl.vm.native_machine import slot_bits


def lay_out(function: Function) -> Layout:
    """The words of a verified function's code, whatever the variant and wherever handlers and kernels lie."""
    return _Writer(function).layout()


class _Writer:
    """Writes a function's code; `starts` is where each instruction begins in it."""

    def __init__(self, function: Function) -> None:
        self.words: list[int] = []
        self.forms: dict[Form, int] = {}
        self.addresses: list[tuple[int, int, int]] = []
        self.steps = resolve(function)
        self.live = {
            index: live_registers(self.steps, index)
            for index, step in enumerate(self.steps)
            if step.opcode.mnemonic == "parallel_begin"
        }
        self.starts = [0]
        for index, step in enumerate(self.steps):
            self.starts.append(self.starts[-1] + self._size(step, index))

    def layout(self) -> Layout:
        for index, step in enumerate(self.steps):
            if self.starts[index + 1] > self.starts[index]:
                self._step(step, index)
        places = np.array(self.addresses, np.int64).reshape(-1, 3)
        return Layout(np.array(self.words, np.uint64), [handler_of(form) for form in self.forms], places)

    def _step(self, step: Step, index: int) -> None:
        form = Form(step.opcode.mnemonic, _arity(step), self._takes_last(index))
        self._address(HANDLER, self.forms.setdefault(form, len(self.forms)))
        for name in step.operands:
            self._operand(step, name, index)
        if step.opcode.mnemonic == "parallel_begin":
            live = self.live[index]
            self.words += [8 * step.number("counter"), len(live), *(8 * register for register in live)]

    def _address(self, kind: int, number: int) -> None:
        self.addresses.append((len(self.words), kind, number))
        self.words.append(0)

    def _takes_last(self, index: int) -> bool:
        """True if the instruction's first i64 is what the one before it wrote. Nothing jumps to where that can be, but to a
        loop's body: its end hands on the counter, as its beginning did."""
        name = followed(self.steps[index].opcode)
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
            return 4 + len(step.calls()) * ARGUMENT_WORDS * _arity(step)
        return 1 + len(step.operands)

    def _operand(self, step: Step, name: str, index: int) -> None:
        operand, _ = step.operands[name]
        if operand.kind == "kernel":
            self._address(KERNEL, step.number(name))
        self.words += self._values(step, name, index)

    def _values(self, step: Step, name: str, index: int) -> list[int]:
        operand, _ = step.operands[name]
        if operand.kind == "calls":
            words = [word for call in step.calls() for argument in call for word in _argument_words(argument)]
            return [len(step.calls()), *words]
        if operand.kind == "value":
            return [slot_bits(step.value(name), operand.type)]
        number = step.number(name)
        match operand.kind:
            case "kernel":
                return [KernelProfile.offset(number)]
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
