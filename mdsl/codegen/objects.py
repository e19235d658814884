"""Loading object files without LLVM, which takes longer to start than most programs take to load.

Only what LLVM makes of kernels and handlers under Linux on x86-64: sections of code and constants, memory that is zero or
written, functions of the process that are called. Anything else is left to JITLink. Code is never writable: it is laid
out and relocated first, then made executable.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import struct
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from mdsl.support.pages import EXECUTABLE, protect
from mdsl.target import processor

_HEADER = b"\x7fELF\x02\x01\x01"
_RELOCATABLE, _X86_64 = 1, 62
_SYMBOLS, _RELOCATIONS, _ZEROS, _UNWINDING = 2, 4, 8, 0x70000001
"""Types of sections. Nothing unwinds through kernels."""
_WRITE, _ALLOCATE = 1, 2
_ABSOLUTE, _RELATIVE, _CALL = 1, 2, 4
"""Relocations: R_X86_64_64, R_X86_64_PC32 and R_X86_64_PLT32."""
_JUMP = b"\xff\x25\x00\x00\x00\x00"
"""jmp *0(%rip): to the address that follows."""
_STUB = 16
_LINE = 64
_JOINED = b"mdsl-joined-code"
"""What an image begins with that `join` made; then the length of the table of addresses, the table, and the code at a line's
beginning."""


class Loaded:
    """An object in memory: the addresses of its functions, valid while it lives."""

    def __init__(self, addresses: dict[str, int], memory: mmap.mmap) -> None:
        self.addresses, self.memory = addresses, memory

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


def load(image: bytes, exports: Iterable[str]) -> Loaded | None:
    """The object file, or what `join` made of some, in memory, None if JITLink must link it, or tell what is wrong with it."""
    if not _is_ours():
        return None
    try:
        return _joined(image, exports) if image.startswith(_JOINED) else _Object(image).loaded(exports)
    except _UNSOUND:
        return None


def join(images: Mapping[str, bytes], symbol: str) -> bytes | None:
    """One image of object files that each have a function `symbol`, which has their names there. It is loaded in one piece:
    nothing in it depends on where it lies, but jumps to functions of the process. None where JITLink loads objects, or one of them is not so simple."""
    if not _is_ours():
        return None
    code, addresses, jumps = bytearray(), {}, list[tuple[int, str]]()
    try:
        for name, image in images.items():
            code.extend(bytes(_up(len(code), _LINE) - len(code)))
            found = _Object(image)
            part, place = found.movable(symbol)
            addresses[name] = len(code) + place
            jumps += [(len(code) + stub, called) for called, stub in found.stubs.items()]
            code += part
    except _UNSOUND:
        return None
    table = json.dumps([addresses, jumps]).encode()
    head = _JOINED + len(table).to_bytes(8, "little") + table
    return head.ljust(_up(len(head), _LINE), b"\0") + code


_UNSOUND = (struct.error, LookupError, ValueError, OSError, OverflowError, AttributeError, TypeError)


def _is_ours() -> bool:
    return sys.platform == "linux" and processor.architecture() == "x86_64"


def _joined(image: bytes, exports: Iterable[str]) -> Loaded:
    start = len(_JOINED) + 8
    end = start + int.from_bytes(image[start - 8 : start], "little")
    (table, jumps), code = json.loads(image[start:end]), image[_up(end, _LINE) :]
    memory = _memory(_up(len(code), mmap.PAGESIZE))
    memory[: len(code)] = code
    for stub, called in jumps:
        _jump(memory, range(len(code))[stub], called)
    base = _address(memory)
    addresses = {name: base + range(len(code))[table[name]] for name in exports}
    _make_executable(base, len(memory))
    return Loaded(addresses, memory)


def _memory(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _jump(memory: mmap.mmap, stub: int, name: str) -> None:
    """Writes a jump to a function of the process, which may be too far away to be called directly."""
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    struct.pack_into(f"<{len(_JUMP)}sQ", memory, stub, _JUMP, address)


def _make_executable(base: int, size: int) -> None:
    if protect is None or protect(base, size, EXECUTABLE):
        raise OSError("no executable memory")


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int

    @property
    def in_memory(self) -> bool:
        return bool(self.flags & _ALLOCATE) and self.type != _UNWINDING


class _Object:
    def __init__(self, image: bytes) -> None:
        kind, machine = struct.unpack_from("<HH", image, 16)
        if not image.startswith(_HEADER) or (kind, machine) != (_RELOCATABLE, _X86_64):
            raise ValueError("not an object file of x86-64")
        (table,) = struct.unpack_from("<Q", image, 0x28)
        size, count, names = struct.unpack_from("<HHH", image, 0x3A)
        self.image = image
        self.sections = [
            _Section(*struct.unpack_from("<IIQQQQIIQQ", image, table + i * size)) for i in range(count)
        ]
        self.names = self.sections[names]
        (self.symbols,) = (s for s in self.sections if s.type == _SYMBOLS)
        self.stubs: dict[str, int] = {}

    def loaded(self, exports: Iterable[str]) -> Loaded:
        places, fixed, size = self._layout()
        memory = _memory(size)
        base = _address(memory)
        self._fill(memory, places, base)
        for name, stub in self.stubs.items():
            _jump(memory, stub, name)
        defined = self._defined(places)
        found = Loaded({name: base + defined[name] for name in exports}, memory)
        _make_executable(base, fixed)
        return found

    def movable(self, symbol: str) -> tuple[bytearray, int]:
        """The bytes in memory, which are the same at any line's beginning but for the stubs, and the place of `symbol` in
        them."""
        places, _, _ = self._layout()
        sections = [(place, self.sections[index]) for index, place in places.items()]
        if any(self._is_written(s) or s.alignment > _LINE for _, s in sections):
            raise ValueError("depends on where it lies, or is written to")
        ends = [place + section.size for place, section in sections]
        memory = bytearray(max(*ends, *(stub + _STUB for stub in self.stubs.values()), 0))
        self._fill(memory, places, None)
        return memory, self._defined(places)[symbol]

    def _fill(self, memory: mmap.mmap | bytearray, places: dict[int, int], base: int | None) -> None:
        """Lays out the sections and relocates them; without a base, those that need not know it."""
        for index, place in places.items():
            section = self.sections[index]
            if section.type != _ZEROS:
                memory[place : place + section.size] = self._data(section)
        for section in self.sections:
            if section.type == _RELOCATIONS and section.info in places:
                self._relocate(section, places, memory, base)

    def _defined(self, places: dict[int, int]) -> dict[str, int]:
        return {
            self._name(name): places[s] + value for name, s, value in self._symbols if name and s in places
        }

    def _layout(self) -> tuple[dict[int, int], int, int]:
        """Where each section lies, the bytes of those that nothing writes to, which come first with the stubs, and of all."""
        places: dict[int, int] = {}
        listed = [(i, s) for i, s in enumerate(self.sections) if s.in_memory]
        end = self._place([(i, s) for i, s in listed if not self._is_written(s)], 0, places)
        for name, section, _ in self._symbols:
            if name and not section:
                self.stubs[self._name(name)], end = end, end + _STUB
        fixed = max(_up(end, mmap.PAGESIZE), mmap.PAGESIZE)
        end = self._place([(i, s) for i, s in listed if self._is_written(s)], fixed, places)
        return places, fixed, _up(end, mmap.PAGESIZE)

    @staticmethod
    def _place(sections: list[tuple[int, _Section]], end: int, places: dict[int, int]) -> int:
        for index, section in sections:
            places[index] = _up(end, max(section.alignment, _LINE))
            end = places[index] + section.size
        return end

    def _is_written(self, section: _Section) -> bool:
        """Constants that hold addresses are written only here."""
        return bool(section.flags & _WRITE) and not self._text(self.names, section.name).startswith(
            ".data.rel.ro"
        )

    def _relocate(
        self,
        relocations: _Section,
        places: dict[int, int],
        memory: mmap.mmap | bytearray,
        base: int | None,
    ) -> None:
        start, end = places[relocations.info], places[relocations.info] + self.sections[relocations.info].size
        for offset, info, addend in struct.iter_unpack("<QQq", self._data(relocations)):
            kind, (name, section, value) = info & 0xFFFFFFFF, self._symbols[info >> 32]
            place = start + offset
            target = addend + (places[section] + value if section else self._stub(self._name(name), kind))
            if kind == _ABSOLUTE and place + 8 <= end and base is not None:
                struct.pack_into("<Q", memory, place, base + target)
            elif kind in (_RELATIVE, _CALL) and place + 4 <= end:
                struct.pack_into("<i", memory, place, target - place)
            else:
                raise ValueError(f"relocation of type {kind}")

    def _stub(self, name: str, kind: int) -> int:
        """Where the jump to a function of the process lies."""
        if kind != _CALL:
            raise ValueError(f"{name} is used, not called")
        return self.stubs[name]

    @cached_property
    def _symbols(self) -> list[tuple[int, int, int]]:
        """Where the name of each symbol is, its section and its value. Nobody asks for the names of those that are of this
        object alone, which most are."""
        rows = struct.iter_unpack("<IBBHQQ", self._data(self.symbols))
        return [(name if info >> 4 else 0, section, value) for name, info, _, section, value, _ in rows]

    def _name(self, offset: int) -> str:
        return self._text(self.sections[self.symbols.link], offset)

    def _data(self, section: _Section) -> bytes:
        return self.image[section.offset : section.offset + section.size]

    def _text(self, names: _Section, offset: int) -> str:
        start = names.offset + offset
        return self.image[start : self.image.index(b"\0", start)].decode("ascii")


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
