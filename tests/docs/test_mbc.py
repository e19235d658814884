"""docs/mbc.md says what the code does: numbers, names, limits, and a file to the byte (`pytest --golden` writes it anew)."""

from __future__ import annotations

import re
import struct
from importlib import import_module
from pathlib import Path

import numpy as np

from mdsl.bytecode.decode import decode
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.encode import encode
from mdsl.bytecode.file_format import (
    ALIGNMENT,
    FIXED_ARGUMENT,
    HEADER,
    INDEXED_ARGUMENT,
    REGISTER_ARGUMENT,
    SECTION,
    SECTION_NAMES,
)
from mdsl.bytecode.module import (
    DTYPES,
    FORMAT_VERSION,
    TYPES,
    Constant,
    Function,
    Instruction,
    Module,
    TensorSpec,
)
from mdsl.bytecode.verify import verify
from mdsl.bytecode.verify_state import _DEPTH
from mdsl.support.formats import MAGIC

PATH = Path(__file__).parents[2] / "docs" / "mbc.md"
PAGE = PATH.read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    part = re.split(r"^#+ ", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = re.findall(r"^\| (.*?) \|$", part, re.MULTILINE)
    return [re.split(r" *\| *", line) for line in lines[1:]]


def example() -> Module:
    """y[0] = 2.5."""
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("copy.f32", (0, 0, 1, 0, 1)),
        Instruction("ret"),
    ]
    function = Function("main", (), (TensorSpec("y", "f32", (1,)),), ("i64",), 0, code, ("a.mir:2:3",) * 3)
    return Module([function], [], [Constant("w", np.array([2.5], np.float32))], {"mdsl": "0.1.0"})


def test_header() -> None:
    fields = {name: (int(at), int(size), value) for at, size, name, value in rows("Header")}
    sizes = [size for _, size, _ in fields.values()]
    assert [at for at, _, _ in fields.values()] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == HEADER.size
    assert f"`{MAGIC.hex(' ')}`" in fields["magic"][2]
    assert fields["version"][2] == str(FORMAT_VERSION)
    assert fields["number of sections"][2] == str(len(SECTION_NAMES))
    first, table, sections = (cells[0] for cells in rows("The file"))
    assert first == f"0 to {HEADER.size - 1}"
    end = HEADER.size + SECTION.size * len(SECTION_NAMES)
    assert table == f"{HEADER.size} to {end - 1}"
    assert sections == f"from {end + -end % ALIGNMENT}" and f"a multiple of {ALIGNMENT}," in PAGE


def test_sections() -> None:
    assert {int(kind): name for kind, name, _ in rows("Table of sections")} == SECTION_NAMES
    assert f"An entry of {SECTION.size} bytes" in PAGE
    assert re.findall(r"^- \*\*(\w+)\*\*:", PAGE, re.MULTILINE) == list(SECTION_NAMES.values())


def test_types_and_arguments() -> None:
    (named,) = re.findall(r"^Element types are (.*?) and index;", PAGE, re.MULTILINE)
    assert set(named.split(", ")) == DTYPES.keys() - {"index"} == set(TYPES)
    numbers = {
        REGISTER_ARGUMENT: "a register",
        FIXED_ARGUMENT: "a place",
        INDEXED_ARGUMENT: "a place that moves",
    }
    for number, what in numbers.items():
        assert re.search(rf"^ *{number}, {what}: ", PAGE, re.MULTILINE)


def test_limits() -> None:
    found = rows("Limits")
    for what, number, where in found:
        file, name = re.findall(r"`([^`]*)`", where)
        module = import_module("mdsl." + file.removesuffix(".py").replace("/", "."))
        assert getattr(module, name) == int(number.replace(",", "")), what
    assert f"(or {_DEPTH} an instruction" in PAGE
    assert len(found) >= 11


def test_the_file(golden: bool) -> None:
    data = encode(example())
    shown = [disassemble(decode(data)).rstrip(), dump(data)]
    if golden:
        parts = PAGE.partition("## A file to the byte")
        blocks = iter(shown)
        new = re.sub(
            r"```text\n.*?\n```", lambda _: f"```text\n{next(blocks)}\n```", parts[2], flags=re.DOTALL
        )
        PATH.write_text("".join([*parts[:2], new]))
        return
    verify(example())
    blocks = re.findall(r"```text\n(.*?)\n```", PAGE.partition("## A file to the byte")[2], re.DOTALL)
    assert blocks == shown, "docs/mbc.md: 'pytest --golden tests/docs/test_mbc.py' writes the file anew"


def test_the_explanation_of_the_file() -> None:
    """Every row's bytes lie where it says, and together they are all bytes that are not zeros between the sections."""
    data = encode(example())
    seen = bytearray(len(data))
    for at, shown, _ in rows("A file to the byte"):
        start = int(at, 16)
        wanted = bytes.fromhex(shown.strip("`").replace("...", ""))
        assert data[start : start + len(wanted)] == wanted, at
        length = 32 if "..." in shown else len(wanted)
        seen[start : start + length] = b"\1" * length
    _, _, _, size, _ = HEADER.unpack_from(data)
    assert size == len(data)
    table = [struct.unpack_from("<IIQQ", data, HEADER.size + 24 * i) for i in range(len(SECTION_NAMES))]
    used = [*range(HEADER.size), *(i for _, _, at, size in table for i in range(at, at + size))]
    assert all(seen[i] for i in used), [hex(i) for i in used if not seen[i]]


def dump(data: bytes) -> str:
    """As `hexdump -C` has it: rows of 16 bytes, a star for rows like the one above."""
    lines: list[str] = []
    previous = b""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if row != previous:
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            lines.append(f"{at:04x}  {row.hex(' '):<47}  |{text}|")
        elif lines[-1] != "*":
            lines.append("*")
        previous = row
    return "\n".join([*lines, f"{len(data):04x}"])
