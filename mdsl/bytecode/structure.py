"""The blocks of structured code: which instruction closes which, and where the engines jump."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mdsl.bytecode.isa import OPCODES, Opcode, Operand
from mdsl.bytecode.module import Argument, BytecodeError, Function
from mdsl.bytecode.module import Operand as Value

MAX_DEPTH = 64
"""Blocks inside each other."""


class Step(NamedTuple):
    """An instruction with all of its operands, also the implied ones.

    A label's value is the index of the instruction to go to.
    """

    opcode: Opcode
    operands: dict[str, tuple[Operand, Value]]
    depth: int

    def number(self, name: str) -> int:
        """An operand that is an integer: all but the values of `const` and the calls of a dispatch."""
        value = self.operands[name][1]
        assert isinstance(value, int), name
        return value

    def value(self, name: str) -> int | float:
        """The value of a `const`."""
        value = self.operands[name][1]
        assert isinstance(value, int | float), name
        return value

    def calls(self) -> tuple[tuple[Argument, ...], ...]:
        """The argument lists of a dispatch."""
        calls = self.operands["calls"][1]
        assert isinstance(calls, tuple)
        return calls


@dataclass
class _Block:
    """A block that is open: the instruction that opened it and, in an `if`, the one that divided it."""

    start: int
    opcode: Opcode
    operands: dict[str, Value]
    divider: int | None = None


def resolve(function: Function) -> list[Step]:
    """The function's instructions with their implied operands.

    Raises BytecodeError for an unknown opcode, a wrong number of operands, or blocks that do not nest.
    """
    opcodes = [_opcode(function, index) for index in range(len(function.code))]
    blocks = _match(function, opcodes)
    steps: list[Step] = []
    depth = 0
    for index, (opcode, instruction) in enumerate(zip(opcodes, function.code, strict=True)):
        operands = {
            operand.name: (operand, value)
            for operand, value in zip(opcode.operands, instruction.operands, strict=True)
        }
        if opcode.implied:
            block, exit = blocks[index]
            if opcode.role == "open":
                block.operands.update((name, value) for name, (_, value) in operands.items())
            for operand in opcode.implied:
                operands[operand.name] = operand, _implied(operand, block, exit)
        if opcode.role in ("divide", "close"):
            depth -= 1
        steps.append(Step(opcode, operands, depth))
        if opcode.role in ("open", "divide"):
            depth += 1
    return steps


def body_of(steps: Sequence[Step], start: int) -> range:
    """The instructions behind the one at `start` that opens a block, up to the one that closes it."""
    return range(start + 1, steps[start].number("exit"))


def registers_read(step: Step) -> Iterator[int]:
    """The registers that an instruction reads."""
    for operand, value in step.operands.values():
        if operand.kind in ("read", "update"):
            yield step.number(operand.name)
        elif operand.kind == "calls" and isinstance(value, tuple):
            yield from (a.register for call in value for a in call if a.register is not None)


def registers_set(step: Step) -> Iterator[int]:
    """The registers that an instruction writes to."""
    for operand, _ in step.operands.values():
        if operand.kind in ("write", "update"):
            yield step.number(operand.name)


def live_registers(steps: Sequence[Step], start: int) -> list[int]:
    """What the body of the parallel loop at `start` reads of what was computed before: all that it does not write, for
    a verified body reads none of its own registers before it has written it."""
    body = [steps[index] for index in body_of(steps, start)]
    written = {register for step in (steps[start], *body) for register in registers_set(step)}
    return sorted({register for step in body for register in registers_read(step)} - written)


def error(function: Function, index: int, message: str) -> BytecodeError:
    """An error at an instruction; it names the byte in the file where the function came from one."""
    source = function.locations[index] if index < len(function.locations) else ""
    where = f"function '{function.name}', instruction {index}{f' ({source})' if source else ''}: {message}"
    return BytecodeError(where, function.offsets[index] if index < len(function.offsets) else None)


def _opcode(function: Function, index: int) -> Opcode:
    instruction = function.code[index]
    opcode = OPCODES.get(instruction.opcode)
    if opcode is None:
        raise error(function, index, f"unknown opcode '{instruction.opcode}'")
    if len(instruction.operands) != len(opcode.operands):
        found, wanted = len(instruction.operands), len(opcode.operands)
        raise error(function, index, f"'{opcode.mnemonic}' has {found} operands, not {wanted}")
    return opcode


def _match(function: Function, opcodes: list[Opcode]) -> dict[int, tuple[_Block, int]]:
    """For each instruction of a block's frame, the block and the index of the instruction that closes it."""
    open_blocks: list[_Block] = []
    blocks: dict[int, tuple[_Block, int]] = {}
    for index, opcode in enumerate(opcodes):
        if opcode.role == "open":
            open_blocks.append(_Block(index, opcode, {}))
            if len(open_blocks) > MAX_DEPTH:
                raise error(function, index, f"more than {MAX_DEPTH} blocks inside each other")
        elif opcode.role:
            block = open_blocks[-1] if open_blocks else None
            if block is None or block.opcode.block != opcode.block:
                raise error(function, index, f"'{opcode.mnemonic}' without its '{opcode.block}_begin'")
            if opcode.role == "divide":
                if block.divider is not None:
                    raise error(function, index, "a second 'else'")
                block.divider = index
                continue
            open_blocks.pop()
            for part in (block.start, block.divider, index):
                if part is not None:
                    blocks[part] = block, index
    if open_blocks:
        block = open_blocks[-1]
        opcode = block.opcode
        raise error(function, block.start, f"'{opcode.mnemonic}' without its '{opcode.block}_end'")
    return blocks


def _implied(operand: Operand, block: _Block, close: int) -> Value:
    if operand.kind == "label":
        after_divider = close + 1 if block.divider is None else block.divider + 1
        return {"body": block.start + 1, "exit": close + 1, "otherwise": after_divider}[operand.name]
    return block.operands[operand.name]
