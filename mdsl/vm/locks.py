"""Locks that native code takes and releases: CPython's own, by their C functions.

A thread may wait for one without the GIL, and nothing can interrupt it between taking the lock and what it was
taken for, as a signal's handler can in Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
_acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
    ("PyThread_acquire_lock", ctypes.pythonapi)
)
_free = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("PyThread_free_lock", ctypes.pythonapi))


def function_address(name: str) -> int:
    """The address of a function of Python's C interface."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


class NativeLock:
    """A lock, which nobody holds at first, at an address that native code is told."""

    address: int = 0

    def __init__(self) -> None:
        address = _allocate()
        if not address:
            raise MemoryError("no memory for a lock")
        self.address = address

    def take(self) -> None:
        """Take the lock, which nobody may hold: who waits for it next sleeps until native code gives it back."""
        _acquire(self.address, 0)

    def __del__(self, free: Callable[[int], None] = _free) -> None:
        if self.address:
            free(self.address)
