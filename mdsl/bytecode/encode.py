"""A module as the bytes of a `.mbc` file.

The file is a header, a table of sections, and the sections; docs/mbc.md describes each to the byte. The same module
always gives the same bytes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mdsl.bytecode.file_format import (
    ALIGNMENT,
    CODE,
    CONSTANTS,
    DATA,
    DIGEST,
    FIXED_ARGUMENT,
    FUNCTIONS,
    HEADER,
    INDEXED_ARGUMENT,
    KERNELS,
    LOCATIONS,
    PROVENANCE,
    REGISTER_ARGUMENT,
    SECTION,
    SIGNATURE,
    digest,
    proof_digest,
)
from mdsl.bytecode.isa import OPCODES
from mdsl.bytecode.module import (
    FLOAT_TYPES,
    FORMAT_VERSION,
    Argument,
    BufferArgument,
    BytecodeError,
    Instruction,
    Module,
    TensorSpec,
)
from mdsl.support.files import replacing
from mdsl.support.formats import MAGIC


def encode(module: Module) -> bytes:
    """The module as bytes. Raises BytecodeError for an instruction that the table does not have."""
    return b"".join(pieces(module))


def save(module: Module, path: str | os.PathLike[str]) -> None:
    """Write the module to a file, which appears there whole or not at all. Raises OSError."""
    parts = pieces(module)
    with replacing(Path(path)) as file:
        file.writelines(parts)


def pieces(module: Module) -> list[bytes | memoryview]:
    """The file in pieces, so that constants are not copied. Its header is in the first."""
    sections = _sections(module)
    table, body = b"", []
    position = HEADER.size + SECTION.size * len(sections)
    for kind, section in sections.items():
        padding = -position % ALIGNMENT
        size = sum(map(len, section))
        table += SECTION.pack(kind, 0, position + padding, size)
        body += [bytes(padding), *section]
        position += padding + size
    header = HEADER.pack(MAGIC, FORMAT_VERSION, len(sections), position, bytes(32))
    data = sections[DATA]
    head = [header, table, *body[: len(body) - len(data)]]
    return [header[: DIGEST.start] + digest(head, data), table, *body]


def digest_of(module: Module) -> str:
    """The digest that the module has when it is read from its file."""
    return proof_digest(_sections(module))


def _sections(module: Module) -> dict[int, list[bytes | memoryview]]:
    places = _places(module)
    return {
        PROVENANCE: [_provenance(module)],
        KERNELS: [_kernels(module)],
        CONSTANTS: [_constants(module, places)],
        SIGNATURE: [_signature(module)],
        FUNCTIONS: [_functions(module)],
        CODE: [_code(module)],
        LOCATIONS: [_locations(module)],
        DATA: _data(module, places),
    }


class Writer:
    """Bytes that grow by the format's primitives."""

    def __init__(self) -> None:
        self.data = bytearray()

    def uint(self, value: int) -> None:
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def sint(self, value: int) -> None:
        self.uint(value << 1 if value >= 0 else ~(value << 1))

    def float(self, value: float) -> None:
        self.data += struct.pack("<d", value)

    def text(self, value: str) -> None:
        raw = value.encode()
        self.uint(len(raw))
        self.data += raw

    def spec(self, spec: TensorSpec) -> None:
        self.text(spec.name)
        self.text(spec.dtype)
        self.uint(len(spec.shape))
        for size in spec.shape:
            self.uint(size)


def _provenance(module: Module) -> bytes:
    writer = Writer()
    writer.uint(len(module.provenance))
    for key, value in sorted(module.provenance.items()):
        writer.text(key)
        writer.text(value)
    return bytes(writer.data)


def _kernels(module: Module) -> bytes:
    writer = Writer()
    writer.uint(len(module.kernels))
    for kernel in module.kernels:
        writer.text(kernel.name)
        writer.text(kernel.ir)
    return bytes(writer.data)


def _places(module: Module) -> list[int]:
    """Where each constant lies in the data."""
    places, position = [], 0
    for constant in module.constants:
        position += -position % ALIGNMENT
        places.append(position)
        position += constant.array.nbytes
    return places


def _constants(module: Module, places: list[int]) -> bytes:
    writer = Writer()
    writer.uint(len(module.constants))
    for constant, place in zip(module.constants, places, strict=True):
        writer.spec(constant.spec)
        writer.uint(place)
    return bytes(writer.data)


def _data(module: Module, places: list[int]) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = []
    position = 0
    for constant, place in zip(module.constants, places, strict=True):
        pieces.append(bytes(place - position))
        raw = np.ascontiguousarray(constant.array).reshape(-1).view(np.uint8)
        pieces.append(raw.data)
        position = place + len(raw)
    return pieces


def _signature(module: Module) -> bytes:
    writer = Writer()
    writer.uint(len(module.functions))
    for function in module.functions:
        writer.text(function.name)
        for specs in (function.inputs, function.outputs):
            writer.uint(len(specs))
            for spec in specs:
                writer.spec(spec)
        writer.uint(len(function.donations))
        for pair in function.donations:
            for number in pair:
                writer.uint(number)
        writer.uint(len(function.layouts))
        for layout in function.layouts:
            writer.uint(layout.input)
            writer.uint(len(layout.dims))
            for group in layout.dims:
                writer.uint(len(group))
                for dim in group:
                    writer.uint(dim)
    return bytes(writer.data)


def _functions(module: Module) -> bytes:
    """Registers come in runs of one type."""
    writer = Writer()
    for function in module.functions:
        writer.uint(function.arena)
        runs: list[tuple[str, int]] = []
        for element in function.registers:
            if runs and runs[-1][0] == element:
                runs[-1] = element, runs[-1][1] + 1
            else:
                runs.append((element, 1))
        writer.uint(len(runs))
        for element, length in runs:
            writer.text(element)
            writer.uint(length)
    return bytes(writer.data)


def _code(module: Module) -> bytes:
    """The mnemonics in use, then each function's instructions, which number them."""
    writer = Writer()
    numbers = _numbered(instruction.opcode for function in module.functions for instruction in function.code)
    writer.uint(len(numbers))
    for mnemonic in numbers:
        writer.text(mnemonic)
    for function in module.functions:
        writer.uint(len(function.code))
        for instruction in function.code:
            writer.uint(numbers[instruction.opcode])
            _instruction(writer, instruction)
    return bytes(writer.data)


def _instruction(writer: Writer, instruction: Instruction) -> None:
    opcode = OPCODES.get(instruction.opcode)
    if opcode is None:
        raise BytecodeError(f"unknown opcode '{instruction.opcode}'")
    if len(instruction.operands) != len(opcode.operands):
        raise BytecodeError(f"'{instruction.opcode}' has {len(instruction.operands)} operands")
    for operand, value in zip(opcode.operands, instruction.operands, strict=True):
        if isinstance(value, tuple):
            _calls(writer, value)
        elif operand.kind == "value" and operand.type in FLOAT_TYPES:
            writer.float(float(value))
        elif operand.kind in ("value", "integer"):
            writer.sint(int(value))
        else:
            writer.uint(int(value))


def _calls(writer: Writer, calls: tuple[tuple[Argument, ...], ...]) -> None:
    writer.uint(len(calls))
    for call in calls:
        writer.uint(len(call))
        for argument in call:
            _argument(writer, argument)


def _argument(writer: Writer, argument: Argument) -> None:
    if not isinstance(argument, BufferArgument):
        writer.uint(REGISTER_ARGUMENT)
        writer.uint(argument.register)
        return
    writer.uint(FIXED_ARGUMENT if argument.register is None else INDEXED_ARGUMENT)
    writer.uint(argument.buffer)
    if argument.register is not None:
        writer.uint(argument.register)
        writer.sint(argument.stride)
    writer.sint(argument.offset)


def _locations(module: Module) -> bytes:
    """The source places in use, then one number an instruction, or no numbers for a function without."""
    writer = Writer()
    numbers = _numbered(location for function in module.functions for location in function.locations)
    writer.uint(len(numbers))
    for location in numbers:
        writer.text(location)
    for function in module.functions:
        writer.uint(len(function.locations))
        for location in function.locations:
            writer.uint(numbers[location])
    return bytes(writer.data)


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    """The distinct texts, numbered in the order in which they come."""
    numbers: dict[str, int] = {}
    for text in texts:
        numbers.setdefault(text, len(numbers))
    return numbers
