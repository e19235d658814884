"""Setting what may be done with pages of memory, through the system's own function."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

NO_ACCESS, EXECUTABLE = 0, 1 | 4
"""POSIX's PROT_NONE, and PROT_READ with PROT_EXEC."""


def _mprotect() -> Callable[[int, int, int], int] | None:
    """The system's function; None where there is none of that name."""
    if os.name != "posix":
        return None
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)(
        ("mprotect", ctypes.CDLL(None))
    )


protect = _mprotect()
"""Called with an address, a number of bytes and the access; returns 0 if the pages have it now."""
