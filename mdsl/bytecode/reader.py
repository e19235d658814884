"""Reading the primitives of the `.mbc` format, none of which is trusted."""

from __future__ import annotations

import struct

from mdsl.bytecode.module import DTYPES, MAX_DIMENSIONS, BytecodeError, TensorSpec


class Reader:
    """Reads the format's primitives from part of the file; errors name the byte."""

    def __init__(self, data: memoryview, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.start = start
        self.end = end

    @property
    def whole(self) -> memoryview:
        """All of the part, read or not."""
        return self.data[self.start : self.end]

    def again(self) -> Reader:
        """A reader of the same part, from its beginning."""
        return Reader(self.data, self.start, self.end)

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
