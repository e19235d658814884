"""The bytes of a `.mbc` file as a module.

Nothing in the bytes is trusted: every count is compared with the bytes that are left before anything is made
of it, every number with what it indexes. What the code does is for `verify` to judge.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from mdsl.bytecode.file_format import (
    ALIGNMENT,
    CODE,
    CONSTANTS,
    DATA,
    DIGEST,
    FUNCTIONS,
    HEADER,
    KERNELS,
    LOCATIONS,
    PROVENANCE,
    SECTION,
    SECTION_NAMES,
    SECTIONS,
    SIGNATURE,
    digest,
    proof_digest,
)
from mdsl.bytecode.module import (
    DTYPES,
    FORMAT_VERSION,
    TYPES,
    BytecodeError,
    Constant,
    Function,
    Kernel,
    Layout,
    Module,
    TensorSpec,
)
from mdsl.bytecode.reader import Reader
from mdsl.support.collector import collector_paused
from mdsl.support.formats import MAGIC
from mdsl.support.pages import content

MAX_REGISTERS = 1 << 20
"""Registers of all functions together: runs of them are short in the file."""

Bytes = bytes | mmap.mmap | memoryview


def load(path: str | os.PathLike[str], code: bool = True) -> Module:
    """The module in a file, whose constants are mapped from it, or lie in a copy of it in large pages. `code` as for `decode`.

    Raises OSError if the file cannot be read, BytecodeError if it is not a sound `.mbc` file.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BytecodeError("not an .mbc file: it is empty", 0)
        data = content(file)
    return decode(data, code)


@collector_paused()
def decode(data: Bytes, code: bool = True) -> Module:
    """The module in the bytes; its constants share their memory if they are aligned there.

    Without `code` the instructions are read when somebody asks for them, and only then found sound: a program whose proof
    is in the cache runs without. Raises BytecodeError, with the offset of the byte at fault, for anything but a sound module.
    """
    sections = _sections(data)
    functions = _functions(sections[FUNCTIONS], _signature(sections[SIGNATURE]))
    if code:
        _read_code(sections, functions)
    else:
        functions = _unread(sections, functions)
    module = Module(
        functions=functions,
        kernels=_kernels(sections[KERNELS]),
        constants=_constants(sections[CONSTANTS], sections[DATA]),
        provenance=_provenance(sections[PROVENANCE]),
    )
    if not code:
        module.digest = proof_digest({kind: [section.whole] for kind, section in sections.items()})
    return module


def _read_code(sections: dict[int, Reader], functions: list[Function]) -> None:
    """Sets what the sections tell of the functions' instructions."""
    from mdsl.bytecode.decode_code import read_code  # needs the table of opcodes, which takes long to make

    read_code(sections[CODE], sections[LOCATIONS], functions)


_OF_CODE = ("code", "locations", "offsets")
"""The fields of a function that `_read_code` sets."""


class _Unread(Function):
    """A function whose instructions are read when somebody asks for them."""

    read: Callable[[], None]

    @staticmethod
    def of(function: Function, read: Callable[[], None]) -> _Unread:
        """The function without its code, which `read` sets."""
        found = object.__new__(_Unread)
        vars(found).update({name: value for name, value in vars(function).items() if name not in _OF_CODE})
        found.read = read
        return found

    def __getattr__(self, name: str) -> Any:
        """Called for what is not set."""
        if name not in _OF_CODE:
            raise AttributeError(name)
        self.read()
        return vars(self)[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and all(
            getattr(self, f.name) == getattr(other, f.name) for f in fields(Function) if f.compare
        )

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Function:
        return replace(self)


def _unread(sections: dict[int, Reader], functions: list[Function]) -> list[Function]:
    """The functions, all of which are read when one is."""
    found: list[Function] = []
    found += [_Unread.of(function, lambda: _read_code(sections, found)) for function in functions]
    return found


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
    return _copied(_table(view, count))


def _copied(sections: dict[int, Reader]) -> dict[int, Reader]:
    """All but the data of a copy. Files are mapped, and then change when somebody writes to them: what was digested, and proved,
    would be something else than what is read later."""
    end = max(section.end for kind, section in sections.items() if kind != DATA)
    copy = memoryview(bytes(sections[DATA].data[:end]))
    return {k: s if k == DATA else Reader(copy, s.start, s.end) for k, s in sections.items()}


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
    layouts: tuple[Layout, ...]


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
        layouts = tuple(_layout(reader, inputs) for _ in range(reader.count("layouts")))
        signatures.append(_Signature(name, inputs, outputs, donations, layouts))
    reader.finish("signature")
    return signatures


def _layout(reader: Reader, inputs: tuple[TensorSpec, ...]) -> Layout:
    spec = inputs[number := reader.uint(len(inputs), "input")]
    start = reader.position
    dims = tuple(
        tuple(reader.uint(len(spec.shape), "dimension") for _ in range(reader.count("dimensions")))
        for _ in range(reader.count("dimensions"))
    )
    layout = Layout(number, dims)
    if not layout.suits(spec):
        raise reader.fail(f"the layout of '{spec.name}' does not name each dimension once", start)
    return layout


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
                layouts=signature.layouts,
            )
        )
    reader.finish("functions")
    return functions
