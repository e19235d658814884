"""The `.mbc` file: what is written is read back, and hostile bytes give an error with an offset."""

import random
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mdsl.analysis.footprints import KernelArgument
from mdsl.bytecode.decode import MAX_REGISTERS, decode, file_digest, load
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.encode import encode, save
from mdsl.bytecode.file_format import CONSTANTS, DIGEST, HEADER, SECTION
from mdsl.bytecode.isa import OPCODES
from mdsl.bytecode.module import (
    DTYPES,
    BufferArgument,
    BytecodeError,
    Constant,
    Function,
    Instruction,
    Kernel,
    Layout,
    Module,
    Operand,
    RegisterArgument,
    TensorSpec,
)
from mdsl.bytecode.reader import Reader
from mdsl.bytecode.verify import verify
from mdsl.target.target import ELEMENT_BYTES

SIGNATURES = {"scale": [KernelArgument("read", 16), KernelArgument("write", 16), KernelArgument("index")]}


def example() -> Module:
    """A loop that dispatches a kernel on 4 elements at a time, with a tail in scalar code."""
    arguments = (BufferArgument(0, 2, 4), BufferArgument(1, 2, 4, 0), RegisterArgument(2))
    code = [
        Instruction("const.i64", (0, 0)),
        Instruction("const.i64", (1, 8)),
        Instruction("const.f32", (3, 2.5)),
        Instruction("const.i64", (4, 8)),
        Instruction("parallel_begin", (2, 0, 1, 4)),
        Instruction("dispatch", (0, (arguments,))),
        Instruction("parallel_end"),
        Instruction("load.f32", (5, 0, 4)),
        Instruction("cmpf.olt.f32", (6, 5, 3)),
        Instruction("if_begin", (6,)),
        Instruction("store.f32", (5, 1, 4)),
        Instruction("else"),
        Instruction("store.f32", (3, 1, 4)),
        Instruction("if_end"),
        Instruction("ret"),
    ]
    function = Function(
        "main",
        (TensorSpec("x", "f32", (9,)),),
        (TensorSpec("y", "f32", (3, 3)),),
        ("i64", "i64", "i64", "f32", "i64", "f32", "i1"),
        64,
        code,
        tuple(f"net.mir:{line}:3" for line in range(len(code))),
        layouts=(Layout(0, ((0,),)),),
    )
    constants = [
        Constant("weight", np.arange(6, dtype=np.float32).reshape(2, 3)),
        Constant("bias", np.ones(3, ml_dtypes.bfloat16)),
        Constant("empty", np.zeros((0, 3), np.int8)),
    ]
    return Module(
        [function], [Kernel("scale", "ukernel.func @scale() {\n}\n")], constants, {"version": "0.1"}
    )


def every_opcode() -> Module:
    """An instruction of each opcode, with operands that only the encoding needs to bear."""
    values: dict[str, Operand] = {"buffer": 300, "kernel": 2, "integer": -(2**63), "value": -1}
    calls = ((BufferArgument(1, None, 0, -5), RegisterArgument(7)), (BufferArgument(9, 3, -8, 2**40),))
    code = [
        Instruction(
            opcode.mnemonic,
            tuple(
                calls if operand.kind == "calls"
                else float("-inf") if operand.kind == "value" and operand.type[0] in "fb"
                else values.get(operand.kind, 1000)
                for operand in opcode.operands
            ),
        )
        for opcode in OPCODES.values()
    ]  # fmt: skip
    return Module([Function("é", (), (), (), 0, code), Function("second", (), (), ("f32", "i8"), 7, [])])


def assert_equal(left: Module, right: Module) -> None:
    assert left.functions == right.functions
    assert left.kernels == right.kernels
    assert left.provenance == right.provenance
    assert [constant.spec for constant in left.constants] == [constant.spec for constant in right.constants]
    for a, b in zip(left.constants, right.constants, strict=True):
        np.testing.assert_array_equal(a.array, b.array)


@pytest.mark.parametrize("module", [example(), every_opcode(), Module([])], ids=["example", "every", "empty"])
def test_round_trip(module: Module) -> None:
    data = encode(module)
    assert_equal(decode(data), module)
    assert encode(decode(data)) == data


def test_file_is_mapped_and_aligned(tmp_path: Path) -> None:
    path = tmp_path / "net.mbc"
    save(example(), path)
    module = load(path)
    assert_equal(module, example())
    for constant in module.constants:
        assert constant.array.ctypes.data % 64 == 0
        assert not constant.array.flags.writeable and not constant.array.flags.owndata
    assert list(tmp_path.iterdir()) == [path]


def test_failed_save_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.mbc").mkdir()
    with pytest.raises(OSError):
        save(example(), tmp_path / "net.mbc")
    assert [path.name for path in tmp_path.iterdir()] == ["net.mbc"]


def test_every_truncation_is_detected() -> None:
    data = encode(example())
    for size in range(len(data)):
        with pytest.raises(BytecodeError) as caught:
            decode(data[:size])
        assert caught.value.offset is not None and 0 <= caught.value.offset <= size


def test_every_flipped_bit_is_detected() -> None:
    data = encode(example())
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1 << place % 8
        with pytest.raises(BytecodeError):
            decode(bytes(altered))


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (b"", "not an .mbc file", 0),
        (b"#!/bin/sh\n" * 10, "not an .mbc file", 0),
        (encode(example())[:3], "the file is truncated", 3),
        (encode(example())[:100], "the file is truncated: it has 100 of", 100),
        (encode(example()) + b"x", "1 bytes after the end", len(encode(example()))),
        (encode(example()).replace(b"net.mir:1:3", b"bet.mir:1:3"), "the file was altered", DIGEST.start),
        (encode(example())[:8] + b"\x09\0\0\0" + encode(example())[12:], "version 9 of the format", 8),
    ],
    ids=["empty", "script", "start", "truncated", "longer", "altered", "version"],
)
def test_messages(data: bytes, message: str, offset: int) -> None:
    with pytest.raises(BytecodeError) as caught:
        decode(data)
    assert message in str(caught.value) and caught.value.offset == offset


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "net.mbc").touch()
    with pytest.raises(BytecodeError, match="empty"):
        load(tmp_path / "net.mbc")


def forge(data: bytes) -> bytes:
    """The bytes with a checksum that fits them."""
    return data[: DIGEST.start] + file_digest(memoryview(data)) + data[DIGEST.stop :]


def test_forged_files_are_proved_or_refused() -> None:
    """Whatever is changed, with a checksum that fits: an error that names a byte, or a safe module."""
    data = encode(example())
    numbers = random.Random(5)
    for trial in range(3000):
        altered = bytearray(data)
        for _ in range(1 + trial % 3):
            altered[numbers.randrange(HEADER.size, len(data))] = numbers.choice(
                [0, 1, 0x7F, 0x80, 0xFF, trial & 255]
            )
        try:
            module = decode(forge(bytes(altered)))
            verify(module, SIGNATURES)
            disassemble(module)
        except BytecodeError as error:
            assert error.offset is None or 0 <= error.offset <= len(data)


@pytest.mark.parametrize("kind", range(8))
def test_forged_table(kind: int) -> None:
    """Sections outside of the file, over each other, missing or unknown."""
    data = encode(example())
    place = HEADER.size + SECTION.size * kind
    number, _, offset, size = SECTION.unpack_from(data, place)
    for entry in (
        (number, 0, 2**63, size), (number, 0, offset, 2**64 - 64), (number, 0, 0, size),
        (99, 0, offset, size), (number, 0, offset + 1, size),
        (number % 8 + 1, 0, offset, size), (number, 0, offset + 64, size + 2**20),
    ):  # fmt: skip
        with pytest.raises(BytecodeError) as caught:
            decode(forge(data[:place] + SECTION.pack(*entry) + data[place + SECTION.size :]))
        assert caught.value.offset is not None


def test_huge_counts_make_no_huge_memory() -> None:
    """A count that the bytes after it cannot bear is refused before anything is made of it."""
    data = encode(every_opcode())
    for kind in range(8):
        _, _, offset, size = SECTION.unpack_from(data, HEADER.size + SECTION.size * kind)
        if size >= 10:
            altered = data[:offset] + b"\xff\xff\xff\xff\xff\xff\xff\x7f" + data[offset + 8 :]
            with pytest.raises(BytecodeError):
                decode(forge(altered))


@pytest.mark.parametrize("shape", [(0, 2**47, 2**47), (2**30, 2**30), (0,) * 33], ids=str)
def test_shapes_that_no_array_has(shape: tuple[int, ...]) -> None:
    """NumPy refuses the huge sizes of an empty array too."""
    spec = TensorSpec("z", "f32", shape)
    for inputs, outputs in (((spec,), ()), ((), (spec,))):
        with pytest.raises(BytecodeError) as caught:
            decode(encode(Module([Function("main", inputs, outputs, (), 0, [Instruction("ret")])])))
        assert caught.value.offset is not None


@pytest.mark.parametrize(
    "dims", [((0,),), ((0, 0), (1,)), ((0,), (1,), ()), ((0, 1, 2),), ((0,) * 20_000,), ((0,),) * 20_000],
    ids=["fewer", "twice", "none", "more", "long", "many"],
)  # fmt: skip
def test_layouts_that_no_input_has(dims: tuple[tuple[int, ...], ...]) -> None:
    """Whoever reads a file without proving it, to show it, can rely on them: a product of so many sizes has more digits than Python writes."""
    spec = TensorSpec("x", "f32", (7, 5))
    function = Function("main", (spec,), (), (), 0, [Instruction("ret")], layouts=(Layout(0, dims),))
    with pytest.raises(BytecodeError) as caught:
        decode(encode(Module([function])))
    assert caught.value.offset is not None
    with pytest.raises(BytecodeError, match="the layout of 'x' does not name each dimension once"):
        verify(Module([function]))


@pytest.mark.parametrize(
    ("data", "end", "read", "message"),
    [
        (b"\x05", 1, lambda reader: reader.uint(5), "number 5, which must be less than 5"),
        (b"\x80\x01", 1, Reader.uint, "the section ends inside a number"),
        (b"\xff" * 10 + b"\x01", 11, Reader.uint, "the number does not end"),
        (b"\x03ab", 3, Reader.text, "3 characters in 2 bytes"),
        (b"\x03abc", 3, Reader.text, "3 characters in 2 bytes"),
        (b"\x02\xff\xfe", 3, Reader.text, "not UTF-8"),
        (bytes(8), 7, Reader.float, "8 bytes where 7 are left"),
        (b"\x01x\x03f99\x00", 7, Reader.spec, "unknown element type 'f99'"),
        (b"\x00", 1, lambda reader: reader.finish("code"), "1 bytes too many in the section 'code'"),
    ],
)
def test_a_section_s_numbers(data: bytes, end: int, read: Callable[[Reader], object], message: str) -> None:
    """Nothing is read beyond the section's end, though the file goes on."""
    with pytest.raises(BytecodeError, match=message):
        read(Reader(memoryview(data), 0, end))


def section(data: bytes, kind: int) -> slice:
    for place in range(8):
        number, _, offset, size = SECTION.unpack_from(data, HEADER.size + SECTION.size * place)
        if number == kind:
            return slice(offset, offset + size)
    raise AssertionError(kind)


def test_a_constant_that_is_not_aligned() -> None:
    data = encode(Module([], constants=[Constant(name, np.ones(32, np.float32)) for name in "vw"]))
    part = section(data, CONSTANTS)
    assert data[part].endswith(b"\x80\x01"), "the place of the second constant"
    for place in (127, 128 + 64):
        altered = data[: part.stop - 2] + bytes([place & 127 | 128, place >> 7]) + data[part.stop :]
        with pytest.raises(BytecodeError, match="the constant 'w' is not within the data"):
            decode(forge(altered))


def test_constants_of_bytes_at_any_address() -> None:
    data = bytearray(encode(example()))
    for shift in (0, 1, 4, 63):
        found = decode(memoryview(bytes(shift) + bytes(data))[shift:])
        assert_equal(found, example())
        for constant in found.constants[:2]:
            assert constant.array.ctypes.data % 64 == 0 and not constant.array.flags.writeable


def test_sections_that_are_missing_or_not_aligned() -> None:
    data = encode(example())
    few = data[:12] + b"\x07\0\0\0" + data[16:]
    with pytest.raises(BytecodeError, match="7 sections, not 8"):
        decode(forge(few))
    place = HEADER.size + SECTION.size * 7
    number, _, offset, size = SECTION.unpack_from(data, place)
    shifted = data[:place] + SECTION.pack(number, 0, offset + 1, size - 1) + data[place + SECTION.size :]
    with pytest.raises(BytecodeError, match="is not within the file"):
        decode(forge(shifted))


def test_versions_before_this_one_are_refused() -> None:
    data = encode(example())
    with pytest.raises(BytecodeError, match="version 1 of the format"):
        decode(forge(data[:8] + b"\x01\0\0\0" + data[12:]))


def test_registers_have_a_limit() -> None:
    """Of all functions together: a few bytes may name so many."""
    half = ("i64",) * (MAX_REGISTERS // 2)
    for parts in ([half * 2], [half, half]):
        functions = [Function(str(n), (), (), p, 0, [Instruction("ret")]) for n, p in enumerate(parts)]
        with pytest.raises(BytecodeError, match="number of registers"):
            decode(encode(Module(functions)))
    with pytest.raises(BytecodeError, match="unknown register type 'f99'"):
        decode(encode(Module([Function("f", (), (), ("f99",), 0, [Instruction("ret")])])))


def test_locations_are_all_or_none() -> None:
    code = [Instruction("ret")] * 2
    with pytest.raises(BytecodeError, match="1 locations for 2 instructions"):
        decode(encode(Module([Function("f", (), (), (), 0, code, ("net.mir:1:1",))])))


def test_element_types_are_those_of_dtypes() -> None:
    assert DTYPES.keys() == ELEMENT_BYTES.keys()
    for element, dtype in DTYPES.items():
        assert DTYPES.element(dtype) == ("i64" if element == "index" else element)
        assert dtype.itemsize == ELEMENT_BYTES[element]
    for unknown in (">f4", "u1", "c8"):
        with pytest.raises(KeyError):
            DTYPES.element(np.dtype(unknown))


def test_disassembly() -> None:
    text = disassemble(decode(encode(example())))
    assert text == disassemble(decode(encode(example())))
    lines = [line.split(";")[0].rstrip() for line in text.splitlines()]
    assert lines[0] == "" and "; version: 0.1" in text
    assert "constant 0 weight: tensor<2x3xf32>" in lines
    assert "function @main(x: tensor<9xf32>) -> (y: tensor<3x3xf32>) {" in lines
    assert "  'x' lies in blocks: [[0]] of 9" in lines
    code = [line[10:] for line in lines if line.startswith("  0x")]
    assert code[4:8] == [
        "        parallel_begin r2, r0, r1, 4, exit L7",
        "    L5:   dispatch @scale, ([x] + r2*4, [y] + r2*4, r2)",
        "        parallel_end body L5",
        "    L7: load.f32 r5, [x], r4",
    ]
    assert "; net.mir:4:3" in text
