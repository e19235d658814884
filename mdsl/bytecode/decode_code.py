"""The instructions in a `.mbc` file, by the table of opcodes, and where each comes from."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.bytecode.file_format import FIXED_ARGUMENT, INDEXED_ARGUMENT, REGISTER_ARGUMENT
from mdsl.bytecode.isa import OPCODES, Opcode
from mdsl.bytecode.module import (
    FLOAT_TYPES,
    Argument,
    BufferArgument,
    Function,
    Instruction,
    Operand,
    RegisterArgument,
)
from mdsl.bytecode.reader import Reader
from mdsl.support.collector import collector_paused


@collector_paused()
def read_code(code: Reader, locations: Reader, functions: Sequence[Function]) -> None:
    """Sets the code of the functions, the byte at which each instruction begins, and the place that it comes from.
    Raises BytecodeError, and then sets nothing."""
    read = _instructions(code.again(), len(functions))
    places = _locations(locations.again(), [len(instructions) for instructions, _ in read])
    for function, (instructions, offsets), place in zip(functions, read, places, strict=True):
        function.code, function.offsets, function.locations = instructions, offsets, place


def _instructions(reader: Reader, functions: int) -> list[tuple[list[Instruction], tuple[int, ...]]]:
    """The instructions of each function, and the byte at which each one begins."""
    opcodes: list[Opcode] = []
    for _ in range(reader.count("mnemonics")):
        start = reader.position
        mnemonic = reader.text()
        opcode = OPCODES.get(mnemonic)
        if opcode is None:
            raise reader.fail(f"unknown opcode '{mnemonic}'", start)
        opcodes.append(opcode)
    found: list[tuple[list[Instruction], tuple[int, ...]]] = []
    for _ in range(functions):
        code: list[Instruction] = []
        offsets: list[int] = []
        for _ in range(reader.count("instructions")):
            offsets.append(reader.position)
            opcode = opcodes[reader.uint(len(opcodes), "opcode")]
            operands = tuple(_operand(reader, operand.kind, operand.type) for operand in opcode.operands)
            code.append(Instruction(opcode.mnemonic, operands))
        found.append((code, tuple(offsets)))
    reader.finish("code")
    return found


def _operand(reader: Reader, kind: str, element: str) -> Operand:
    if kind == "calls":
        return tuple(
            tuple(_argument(reader) for _ in range(reader.count("arguments")))
            for _ in range(reader.count("calls"))
        )
    if kind == "value" and element in FLOAT_TYPES:
        return reader.float()
    if kind in ("value", "integer"):
        return reader.sint()
    return reader.uint(1 << 32, kind)


def _argument(reader: Reader) -> Argument:
    match reader.uint(INDEXED_ARGUMENT + 1, "kind of argument"):
        case tag if tag == REGISTER_ARGUMENT:
            return RegisterArgument(reader.uint(1 << 32, "register"))
        case tag if tag == FIXED_ARGUMENT:
            return BufferArgument(reader.uint(1 << 32, "buffer"), offset=reader.sint())
        case _:
            buffer, register = reader.uint(1 << 32, "buffer"), reader.uint(1 << 32, "register")
            return BufferArgument(buffer, register, reader.sint(), reader.sint())


def _locations(reader: Reader, lengths: Sequence[int]) -> list[tuple[str, ...]]:
    """The place of each instruction of functions that have so many; nothing for a function without places."""
    pool = [reader.text() for _ in range(reader.count("locations"))]
    found: list[tuple[str, ...]] = []
    for length in lengths:
        start = reader.position
        count = reader.count("locations")
        if count not in (0, length):
            raise reader.fail(f"{count} locations for {length} instructions", start)
        found.append(tuple(pool[reader.uint(len(pool), "location")] for _ in range(count)))
    reader.finish("locations")
    return found
