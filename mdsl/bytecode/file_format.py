"""What the bytes of a `.mbc` file are, for those who write and who read them: its header, its sections, its checksum."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

from mdsl.support import cache

HEADER = struct.Struct("<8sIIQ32s")
SECTION = struct.Struct("<IIQQ")
DIGEST = slice(HEADER.size - 32, HEADER.size)
ALIGNMENT = 64

PROVENANCE, KERNELS, CONSTANTS, SIGNATURE, FUNCTIONS, CODE, LOCATIONS, DATA = SECTIONS = tuple(range(1, 9))
SECTION_NAMES = dict(
    zip(
        SECTIONS,
        ("provenance", "kernels", "constants", "signature", "functions", "code", "locations", "data"),
        strict=True,
    )
)

REGISTER_ARGUMENT, FIXED_ARGUMENT, INDEXED_ARGUMENT = range(3)
"""The first byte of a dispatch's argument."""


def digest(head: Iterable[bytes | memoryview], data: Iterable[bytes | memoryview]) -> bytes:
    """The checksum in the header of a file: SHA-256 of what lies before the data, with zeros in the checksum's
    place, and of the data's CRC-32, which a load of many weights can wait for. It tells damage, not forgery."""
    whole, crc = hashlib.sha256(), 0
    for piece in head:
        whole.update(piece)
    for piece in data:
        crc = zlib.crc32(piece, crc)
    whole.update(crc.to_bytes(4, "little"))
    return whole.digest()


def proof_digest(sections: Mapping[int, Sequence[bytes | memoryview]]) -> str:
    """A digest of those sections, each in pieces, that the proof of a module's code follows from, and the code as it is laid
    out: all but the kernels, of whose texts it sees only what they touch, the constants' data, and the provenance. The locations
    are in it because they are read with the code, of which a proof says that it can be. Unlike the file's checksum it cannot be
    forged."""
    parts = (b"".join(sections[kind]) for kind in (CONSTANTS, SIGNATURE, FUNCTIONS, CODE, LOCATIONS))
    return cache.key("proof", *parts)
