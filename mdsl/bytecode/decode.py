"""The bytes of a `.mbc` file as a module.

Nothing in the bytes is trusted: every count is compared with the bytes that are left before anything is made
of it, every number with what it indexes. What the code does is for `verify` to judge.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

import numpy as np

from mdsl.bytecode.encode import (
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
    SECTION_NAMES,
    SECTIONS,
    SIGNATURE,
    digest,
)
from mdsl.bytecode.isa import OPCODES, Opcode
from mdsl.bytecode.machine import FLOAT_TYPES, TYPES
from mdsl.bytecode.module import (
    DTYPES,
    FORMAT_VERSION,
    MAX_DIMENSIONS,
    Argument,
    BufferArgument,
    BytecodeError,
    Constant,
    Function,
    Instruction,
    Kernel,
    Module,
    Operand,
    RegisterArgument,
    TensorSpec,
)
from mdsl.support.collector import collector_paused
from mdsl.support.formats import MAGIC
from mdsl.support.pages import content

MAX_REGISTERS = 1 << 20
"""Registers of all functions together: runs of them are short in the file."""

Bytes = bytes | mmap.mmap | memoryview


def load(path: str | os.PathLike[str]) -> Module:
    """The module in a file, whose constants are mapped from it, or lie in a copy of it in large pages.

    Raises OSError if the file cannot be read, BytecodeError if it is not a sound `.mbc` file.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BytecodeError("not an .mbc file: it is empty", 0)
        data = content(file)
    return decode(data)


@collector_paused()
def decode(data: Bytes) -> Module:
    """The module in the bytes; its constants share their memory if they are aligned there.

    Raises BytecodeError, with the offset of the byte at fault, for anything but a sound module.
    """
    sections = _sections(data)
    names = _signature(sections[SIGNATURE])
    functions = _functions(sections[FUNCTIONS], names)
    _code(sections[CODE], functions)
    _locations(sections[LOCATIONS], functions)
    return Module(
        functions=functions,
        kernels=_kernels(sections[KERNELS]),
        constants=_constants(sections[CONSTANTS], sections[DATA]),
        provenance=_provenance(sections[PROVENANCE]),
    )


class Reader:
    """Reads the format's primitives from part of the file; errors name the byte."""

    def __init__(self, data: memoryview, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.start = start
        self.end = end

    def fail(self, message: str, position: int | None = None) -> BytecodeError:
        return BytecodeError(message, self.position if position is None else position)

    def uint(self, limit: int = 1 << 64, what: str = "number") -> int:
        """An integer below the limit."""
        start, value = self.position, 0
        for shift in range(0, 70, 7):
            if self.position >= self.end:
                raise self.fail(f"the section ends inside a {what}")
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise self.fail(f"the {what} does not end", start)
        if value >= limit:
            raise self.fail(f"{what} {value}, which must be less than {limit}", start)
        return value

    def sint(self) -> int:
        value = self.uint()
        return value >> 1 if value & 1 == 0 else ~(value >> 1)

    def count(self, what: str) -> int:
        """A number of things that follow, each of a byte at least."""
        start = self.position
        value = self.uint(what=f"number of {what}")
        if value > self.end - self.position:
            raise self.fail(f"{value} {what} in {self.end - self.position} bytes", start)
        return value

    def float(self) -> float:
        return struct.unpack("<d", self.raw(8))[0]

    def raw(self, size: int) -> memoryview:
        if size > self.end - self.position:
            raise self.fail(f"{size} bytes where {self.end - self.position} are left")
        self.position += size
        return self.data[self.position - size : self.position]

    def text(self) -> str:
        start = self.position
        try:
            return str(self.raw(self.count("characters")), "utf-8")
        except UnicodeDecodeError:
            raise self.fail("a text that is not UTF-8", start) from None

    def spec(self) -> TensorSpec:
        name = self.text()
        start = self.position
        dtype = self.text()
        if dtype not in DTYPES:
            raise self.fail(f"unknown element type '{dtype}'", start)
        dimensions = self.uint(MAX_DIMENSIONS + 1, "number of dimensions")
        spec = TensorSpec(name, dtype, tuple(self.uint(1 << 48, "size") for _ in range(dimensions)))
        if not spec.is_possible:
            raise self.fail(f"'{name}' has shape {list(spec.shape)}", start)
        return spec

    def finish(self, what: str) -> None:
        if self.position != self.end:
            raise self.fail(f"{self.end - self.position} bytes too many in the section '{what}'")


def _sections(data: Bytes) -> dict[int, Reader]:
    """Check the file as a whole, and find its sections."""
    view = memoryview(data)
    if len(view) < HEADER.size:
        if len(view) and view[: len(MAGIC)] == MAGIC[: len(view)]:
            raise BytecodeError(f"the file is truncated: it has {len(view)} bytes", len(view))
        raise BytecodeError("not an .mbc file", 0)
    magic, version, count, size, written = HEADER.unpack_from(view)
    if magic != MAGIC:
        raise BytecodeError("not an .mbc file", 0)
    if version != FORMAT_VERSION:
        raise BytecodeError(f"version {version} of the format; this is version {FORMAT_VERSION}", len(MAGIC))
    if size > len(view):
        raise BytecodeError(f"the file is truncated: it has {len(view)} of {size} bytes", len(view))
    if size < len(view):
        raise BytecodeError(f"{len(view) - size} bytes after the end", size)
    if file_digest(view) != written:
        raise BytecodeError("the file was altered: its checksum does not match", DIGEST.start)
    return _table(view, count)


def file_digest(view: memoryview) -> bytes:
    """The checksum that a file's header should have."""
    last = HEADER.size + SECTION.size * (len(SECTIONS) - 1)
    _, _, start, _ = SECTION.unpack_from(view, last) if len(view) >= last + SECTION.size else (0, 0, 0, 0)
    start = min(max(start, DIGEST.stop), len(view))
    return digest([view[: DIGEST.start], bytes(32), view[DIGEST.stop : start]], [view[start:]])


def _table(view: memoryview, count: int) -> dict[int, Reader]:
    end = HEADER.size + SECTION.size * count
    if count != len(SECTIONS) or end > len(view):
        raise BytecodeError(f"{count} sections, not {len(SECTIONS)}", 12)
    sections: dict[int, Reader] = {}
    previous = end
    for place in range(HEADER.size, end, SECTION.size):
        kind, _, offset, size = SECTION.unpack_from(view, place)
        if kind not in SECTION_NAMES or kind in sections:
            raise BytecodeError(f"unknown or second section of kind {kind}", place)
        if offset < previous or offset % ALIGNMENT or size > len(view) - offset:
            raise BytecodeError(f"the section '{SECTION_NAMES[kind]}' is not within the file", place)
        previous = offset + size
        sections[kind] = Reader(view, offset, offset + size)
    return sections


def _provenance(reader: Reader) -> dict[str, str]:
    provenance = {reader.text(): reader.text() for _ in range(reader.count("entries"))}
    reader.finish("provenance")
    return provenance


def _kernels(reader: Reader) -> list[Kernel]:
    kernels = [Kernel(reader.text(), reader.text()) for _ in range(reader.count("kernels"))]
    reader.finish("kernels")
    return kernels


def _constants(reader: Reader, data: Reader) -> list[Constant]:
    memory = _aligned(np.asarray(data.data[data.start : data.end]))
    constants = []
    for _ in range(reader.count("constants")):
        start = reader.position
        spec = reader.spec()
        place = reader.uint(1 << 48, "place")
        if place % ALIGNMENT or place > len(memory) or spec.nbytes > len(memory) - place:
            raise reader.fail(f"the constant '{spec.name}' is not within the data", start)
        array = memory[place : place + spec.nbytes].view(DTYPES[spec.dtype]).reshape(spec.shape)
        constants.append(Constant(spec.name, array))
    reader.finish("constants")
    return constants


def _aligned(memory: np.ndarray) -> np.ndarray:
    """The bytes themselves if they are aligned, as those of a mapped file are, else a copy of them."""
    if memory.ctypes.data % ALIGNMENT == 0:
        return memory
    space = np.empty(memory.nbytes + ALIGNMENT, dtype=np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    copy = space[start : start + memory.nbytes]
    copy[...] = memory
    copy.flags.writeable = False
    return copy


class _Signature(NamedTuple):
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    donations: tuple[tuple[int, int], ...]


def _signature(reader: Reader) -> list[_Signature]:
    signatures = []
    for _ in range(reader.count("functions")):
        name = reader.text()
        inputs, outputs = (
            tuple(reader.spec() for _ in range(reader.count(what))) for what in ("inputs", "outputs")
        )
        donations = tuple(
            (reader.uint(len(inputs), "input"), reader.uint(len(outputs), "output"))
            for _ in range(reader.count("donations"))
        )
        signatures.append(_Signature(name, inputs, outputs, donations))
    reader.finish("signature")
    return signatures


def _functions(reader: Reader, signatures: list[_Signature]) -> list[Function]:
    functions = []
    left = MAX_REGISTERS
    for signature in signatures:
        arena = reader.uint(1 << 48, "size of the arena")
        registers: list[str] = []
        for _ in range(reader.count("runs of registers")):
            start = reader.position
            element = reader.text()
            if element not in TYPES:
                raise reader.fail(f"unknown register type '{element}'", start)
            length = reader.uint(left, "number of registers")
            registers += [element] * length
            left -= length
        functions.append(
            Function(
                signature.name,
                signature.inputs,
                signature.outputs,
                tuple(registers),
                arena,
                [],
                donations=signature.donations,
            )
        )
    reader.finish("functions")
    return functions


def _code(reader: Reader, functions: list[Function]) -> None:
    """Read the instructions into the functions, with the byte at which each one begins."""
    opcodes: list[Opcode] = []
    for _ in range(reader.count("mnemonics")):
        start = reader.position
        mnemonic = reader.text()
        opcode = OPCODES.get(mnemonic)
        if opcode is None:
            raise reader.fail(f"unknown opcode '{mnemonic}'", start)
        opcodes.append(opcode)
    for function in functions:
        offsets = []
        for _ in range(reader.count("instructions")):
            offsets.append(reader.position)
            opcode = opcodes[reader.uint(len(opcodes), "opcode")]
            operands = tuple(_operand(reader, operand.kind, operand.type) for operand in opcode.operands)
            function.code.append(Instruction(opcode.mnemonic, operands))
        function.offsets = tuple(offsets)
    reader.finish("code")


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


def _locations(reader: Reader, functions: list[Function]) -> None:
    pool = [reader.text() for _ in range(reader.count("locations"))]
    for function in functions:
        start = reader.position
        count = reader.count("locations")
        if count not in (0, len(function.code)):
            raise reader.fail(f"{count} locations for {len(function.code)} instructions", start)
        function.locations = tuple(pool[reader.uint(len(pool), "location")] for _ in range(count))
    reader.finish("locations")
