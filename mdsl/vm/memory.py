"""The memory of a call: its arena, the table of its buffers, and each worker's registers and context.

A `Frame` is laid out once and used by one call at a time; native code reads it by its 64-bit words.
"""

from __future__ import annotations

import ctypes
import mmap
from collections import deque
from itertools import accumulate
from math import prod

import numpy as np

from mdsl.analysis.footprints import MAX_ARGUMENTS
from mdsl.bytecode.worker_context import WorkerContext
from mdsl.support.pages import LARGE_PAGE, NO_ACCESS, advise_large, in_large, protect, worth_large
from mdsl.vm.locks import NativeLock

NULL_BUFFER = 0
"""The slot of a buffer at address zero, whose offsets are plain numbers."""

ARGUMENT_SLOTS = MAX_ARGUMENTS + 1
"""The slots in which a dispatch passes its arguments, then the address of the worker's fuel."""

ARGUMENTS_BYTES = 8 * ARGUMENT_SLOTS
"""What lies before the registers: these slots."""

ALIGNMENT = 64
LINE_WORDS = 16
"""Two cache lines: processors fetch them in pairs."""

ARENA_ALIGNMENT = 4096


def buffer_slot(buffer: int) -> int:
    """The place of a function's buffer in the table of buffers."""
    return buffer + 1


class KernelProfile:
    """The words of a worker's profile: the instructions run, then two words a kernel."""

    INSTRUCTIONS = 0
    CALLS, TICKS = 0, 1

    @staticmethod
    def offset(kernel: int) -> int:
        """The byte offset of a kernel's two counters."""
        return 16 * (kernel + 1)

    @staticmethod
    def words(kernels: int) -> int:
        return 2 * (kernels + 1)


class Job:
    """The words of a job: what to run, the lock of who runs it, its fuel and one more (all ones where there is no
    limit), then each worker's registers and context."""

    ENTRY, CODE, BUFFERS, LOCK, FUEL = range(5)
    WORKERS = 5


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> np.ndarray:
    """Zeroed bytes at an aligned address. The system maps the pages of a large one when they are touched."""
    memory = np.zeros(nbytes + alignment, dtype=np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + nbytes]


def guarded(nbytes: int, alignment: int = ALIGNMENT) -> np.ndarray:
    """Zeroed bytes at an aligned address, between two pages that nobody may touch: an access beyond them ends the
    process at once. They end where the second of these begins, as far as the alignment lets them; many bytes fill large
    pages instead, and begin where the first one does. Raises MemoryError."""
    if protect is None:
        return aligned(nbytes, alignment)
    page, is_large = mmap.PAGESIZE, worth_large(nbytes)
    unit = LARGE_PAGE if is_large else page
    size = -(-nbytes // unit) * unit
    try:
        memory = mmap.mmap(-1, size + page + unit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError(f"no memory for {nbytes} bytes") from None
    pages = np.frombuffer(memory, np.uint8)
    first = page + -(pages.ctypes.data + page) % unit
    if is_large:
        advise_large(memory, first, size)
    for guard in (first - page, first + size):
        if protect(pages.ctypes.data + guard, page, NO_ACCESS):
            raise MemoryError("no guard pages can be made")
    start = first if is_large else first + (size - nbytes) // alignment * alignment
    return pages[start : start + nbytes]


def aligned_array(array: np.ndarray) -> np.ndarray:
    """The array itself if it is dense, row-major and aligned, else a copy that is."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def together(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays one behind the other in large pages, if they are worth some and do not lie so already, as those that were
    read from a file do."""
    starts = [0, *accumulate(-(-a.nbytes // ALIGNMENT) * ALIGNMENT for a in arrays)]
    first = arrays[0].ctypes.data if arrays else 0
    if not worth_large(starts[-1]) or [a.ctypes.data - first for a in arrays] == starts[:-1]:
        return arrays
    memory = np.frombuffer(in_large(starts[-1]), np.uint8)
    found: list[np.ndarray] = []
    for start, array in zip(starts, arrays, strict=False):
        copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copy.flags.writeable = False
        found.append(copy)
    return found


class Frame:
    """The memory of one call by `threads` workers.

    `job` is the address of the job; in its table of buffers slot `buffer_slot(b)` holds buffer b's address. `profile` has a row of counters (see `KernelProfile`) a worker.
    """

    def __init__(
        self, entry: int, code: int, registers: int, inputs_and_outputs: int, constants: list[int],
        arena: int, kernels: int, threads: int, share: int, fuel: int | None,
    ) -> None:  # fmt: skip
        """`share` is the address of that function of `calls`, `fuel` how many steps a call may take."""
        slots = inputs_and_outputs + len(constants) + 2
        sizes = {
            "buffers": slots,
            "job": Job.WORKERS + 2 * threads,
            "workers": threads * (words := _round(ARGUMENT_SLOTS + registers + WorkerContext.WORDS)),
            "profile": threads * _round(KernelProfile.words(kernels)),
        }
        self._memory = aligned(8 * sum(map(_round, sizes.values())))
        parts = self._split(sizes)
        self.arena = guarded(arena, ARENA_ALIGNMENT)
        self.profile = parts["profile"].reshape(threads, -1)
        job, table = parts["job"], parts["buffers"]
        table[buffer_slot(inputs_and_outputs) :] = [*constants, self.arena.ctypes.data]
        self._lock = NativeLock()
        limit = -1 if fuel is None else fuel + 1
        job[: Job.WORKERS] = entry, code, table.ctypes.data, self._lock.address, limit
        self.job: int = job.ctypes.data
        blocks = parts["workers"].reshape(threads, words)
        job[Job.WORKERS :] = [n for w in range(threads) for n in self._lay_out(w, blocks[w], share)]

    def _lay_out(self, worker: int, block: np.ndarray, share: int) -> tuple[int, int]:
        """Fills a worker's context, the end of its `block`; the addresses of its registers and of the context."""
        context = block[-WorkerContext.WORDS :]
        context[WorkerContext.JOB], context[WorkerContext.SHARE_FUNCTION] = self.job, share
        context[WorkerContext.PROFILE] = self.profile[worker].ctypes.data
        return block.ctypes.data + ARGUMENTS_BYTES, context.ctypes.data

    def _split(self, sizes: dict[str, int]) -> dict[str, np.ndarray]:
        words, start, parts = self._memory.view(np.int64), 0, {}
        for name, size in sizes.items():
            parts[name] = words[start : start + size]
            start += _round(size)
        return parts


_word_at = ctypes.c_uint64.from_address
_HEAD = object.__basicsize__


def address(array: np.ndarray) -> int:
    """The address of an array's first byte, a sixth of the time that `array.ctypes.data` takes.

    NumPy's C interface has extensions read the pointer where it lies: right after the object's head.
    """
    return _word_at(id(array) + _HEAD).value


def _public_address(array: np.ndarray) -> int:
    return array.ctypes.data


_PROBE = np.empty(1)
if address(_PROBE) != _public_address(_PROBE):  # not CPython, or a NumPy with another interface
    address = _public_address


def _round(words: int) -> int:
    """Words up to a multiple of what workers must not share."""
    return -(-words // LINE_WORDS) * LINE_WORDS


class OutputPool:
    """Makes the arrays of one output. A large one is laid on memory of an earlier one that is gone: memory
    fresh from the system costs a page fault for every 4096 bytes, more than many a kernel takes to fill it.

    The arrays of a program that does not write all of this output, which `cleared` tells, are zero; the others
    have no defined content."""

    SMALL = 1 << 15  # bytes; below this NumPy's own allocator has warm memory
    KEPT = 4  # blocks that wait for their next use

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, cleared: bool = False) -> None:
        self._shape, self._dtype, self._cleared = shape, dtype, cleared
        self._nbytes = prod(shape) * dtype.itemsize
        self._free: deque[np.ndarray] = deque(maxlen=self.KEPT)

    def take(self) -> np.ndarray:
        """An array that nobody else has."""
        if self._nbytes < self.SMALL:
            return (np.zeros if self._cleared else np.empty)(self._shape, self._dtype)
        try:
            block = self._free.pop()
            if self._cleared:
                block.fill(0)
        except IndexError:
            block = aligned(self._nbytes)
        return np.asarray(_Lease(block, self._free)).view(self._dtype).reshape(self._shape)


class _Lease:
    """Owns a block for as long as an array, or a view of one, lies on it; then hands it back."""

    __slots__ = ("__array_interface__", "_block", "_free")

    def __init__(self, block: np.ndarray, free: deque[np.ndarray]) -> None:
        self._block, self._free = block, free
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        self._free.append(self._block)
