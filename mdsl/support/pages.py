"""Pages of memory: what may be done with them, and large ones.

A processor keeps the addresses of some thousand pages at hand; of pages of 4 KB that is less than a network has, and to look another
one up takes long, in a virtual machine twice as long.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

NO_ACCESS, EXECUTABLE = 0, 1 | 4
"""POSIX's PROT_NONE, and PROT_READ with PROT_EXEC."""

LARGE_PAGE = 2 << 20
"""Bytes of the larger pages of x86-64 and of AArch64, as Linux has them."""

_MOST = 1 << 30
"""Bytes of a file of which a copy is made."""


def _mprotect() -> Callable[[int, int, int], int] | None:
    """The system's function; None where there is none of that name."""
    if os.name != "posix":
        return None
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)(
        ("mprotect", ctypes.CDLL(None))
    )


protect = _mprotect()
"""Called with an address, a number of bytes and the access; returns 0 if the pages have it now."""


def advise_large(memory: mmap.mmap, first: int, nbytes: int) -> None:
    """Asks for large pages from byte `first` on, which begins one; a system without them goes on with small ones."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE, first, nbytes)


def worth_large(nbytes: int) -> bool:
    """Whether so many bytes are worth large pages, which are asked for on POSIX systems."""
    return os.name == "posix" and 2 * nbytes >= LARGE_PAGE


def in_large(nbytes: int) -> memoryview:
    """So many zeros in large pages. Raises OSError if there is no memory for them."""
    room = -(-nbytes // LARGE_PAGE) * LARGE_PAGE
    memory = mmap.mmap(-1, room + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    first = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % LARGE_PAGE
    advise_large(memory, first, room)
    return memoryview(memory)[first : first + nbytes]


def content(file: BinaryIO) -> mmap.mmap | memoryview:
    """The bytes of a file that is not empty, which cannot be altered: a copy in large pages of a file that is worth them and no larger
    than 1 GB, or mapped. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    if not worth_large(size) or size > _MOST:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = in_large(size)
    file.seek(0)
    return data[: file.readinto(data)].toreadonly()  # type: ignore[attr-defined]
