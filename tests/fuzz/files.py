"""Compiled files with some bytes changed and a checksum that fits: a load ends in a program or in MdslError, and so
does a call of it."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

import mdsl
from mdsl.bytecode.decode import file_digest
from mdsl.bytecode.disassemble import disassemble
from mdsl.bytecode.encode import DIGEST, HEADER, encode
from mdsl.bytecode.module import DTYPES, BytecodeError
from tests.fuzz import bytecode

SUFFIX = "mbc"
ROOT = Path(__file__).parents[2]
SMALL = 1 << 24
"""Bytes up to which the memory of a call is worth asking for."""


@cache
def _seeds() -> tuple[bytes, ...]:
    """A compiled program, and random bytecode."""
    compiled = mdsl.compile(ROOT / "examples" / "matmul.mir", threads=1).bytecode()
    compiled.constants.clear()
    return encode(compiled), *(bytecode.make(seed) for seed in range(4))


def make(seed: int) -> bytes:
    random = Random(seed)
    data = bytearray(random.choice(_seeds()))
    for _ in range(random.choice([1, 1, 2, 3, 8])):
        place = random.randrange(HEADER.size, len(data))
        kind = random.randrange(4)
        if kind == 0:
            data[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)])
        elif kind == 1:
            data[place] = (data[place] + random.choice([-1, 1])) % 256
        elif kind == 2:
            length = random.randint(1, 12)
            source = random.randrange(HEADER.size, len(data))
            part = data[source : source + length]
            data[place : place + len(part)] = part
        else:
            data[place] ^= 1 << random.randrange(8)
    return bytes(data[: DIGEST.start]) + file_digest(memoryview(data)) + bytes(data[DIGEST.stop :])


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.mbc"
        path.write_bytes(data)
        try:
            program = mdsl.load(path, fuel=100_000)
        except mdsl.MdslError:
            return
        try:
            disassemble(program.bytecode())
            specs = (*program.inputs, *program.outputs)
            arena = program.bytecode().function().arena
            if sum(spec.nbytes for spec in specs) + arena > SMALL:
                return
            program(*(np.ones(spec.shape, DTYPES[spec.dtype]) for spec in program.inputs))
        except (mdsl.MdslError, BytecodeError):
            return
