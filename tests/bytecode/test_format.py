"""The `.mbc` file: what is written is read back, and hostile bytes give an error with an offset."""

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mdsl.analysis.footprints import KernelArgument
from mdsl.bytecode.decode import decode, file_digest, load
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.encode import DIGEST, HEADER, SECTION, encode, save
from mdsl.bytecode.isa import OPCODES
from mdsl.bytecode.module import (
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
from mdsl.bytecode.verify import verify

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
        Instruction("barrier"),
        Instruction("single_begin"),
        Instruction("load.f32", (5, 0, 4)),
        Instruction("cmpf.olt.f32", (6, 5, 3)),
        Instruction("if_begin", (6,)),
        Instruction("store.f32", (5, 1, 4)),
        Instruction("else"),
        Instruction("store.f32", (3, 1, 4)),
        Instruction("if_end"),
        Instruction("single_end"),
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


def test_disassembly() -> None:
    text = disassemble(decode(encode(example())))
    assert text == disassemble(decode(encode(example())))
    lines = [line.split(";")[0].rstrip() for line in text.splitlines()]
    assert lines[0] == "" and "; version: 0.1" in text
    assert "constant 0 weight: tensor<2x3xf32>" in lines
    assert "function @main(x: tensor<9xf32>) -> (y: tensor<3x3xf32>) {" in lines
    code = [line[10:] for line in lines if line.startswith("  0x")]
    assert code[4:8] == [
        "        parallel_begin r2, r0, r1, 4, exit L7",
        "    L5:   dispatch @scale, ([x] + r2*4, [y] + r2*4, r2)",
        "        parallel_end body L5",
        "    L7: barrier",
    ]
    assert "; net.mir:4:3" in text
