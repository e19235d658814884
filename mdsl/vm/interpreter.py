"""The threaded interpreter, generated from the table of opcodes.

Each opcode is a native function, its handler, that ends in a tail call of the next one. The four arguments
(code, registers, buffers, context) stay in machine registers: the calling convention, `preserve_none`,
passes them in those that C functions preserve, so a handler can call a micro-kernel without saving any.

A fifth, `last`, is the i64 that the handler wrote to a register. An instruction whose first such operand is the register
that the one before it wrote has a handler that takes `last` instead of loading it: what was just stored comes back
from memory five cycles later. (Ertl, "Stack Caching for Interpreters", 1995, keeps more, in more handlers.)

Before it runs, a function's code is laid out in 64-bit words: the address of an instruction's handler, then
its operands: a register as its byte offset in the register file, a buffer as its byte offset in the table of
buffers, a kernel as its address and the offset of its profile, a label as a distance in bytes. What begins a parallel
loop tells the counter again and the registers that the body reads; the body follows, and is entered as a function is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mdsl.codegen import native
from mdsl.support import cache
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target
from mdsl.vm.variant import PLAIN, Variant

ROOMS = ("ir", "target", "analysis", "arithmetic", "bytecode", "codegen", "vm")
"""What the machine code of the handlers follows from, and the layout of code for them."""

_ENTER = 0
"""The number in the core group of what C calls."""

HANDLER, KERNEL = range(2)
"""What a word of code may be the address of."""


class Layout(NamedTuple):
    """The words of a function's code, which have zeros where addresses belong."""

    words: np.ndarray
    handlers: list[tuple[str, int]]
    """The handlers in use, by group and number."""
    addresses: np.ndarray
    """Rows of a word's place, what it is the address of, and the number of that: a `HANDLER` in `handlers`, a `KERNEL` in the module."""

    def placed(self, kernels: Sequence[int], variant: Variant = PLAIN) -> np.ndarray:
        """The words with all addresses; `kernels` has that of each of the module's kernels."""
        tables = {group: _table(group, variant) for group in dict(self.handlers)}
        known = {HANDLER: [tables[group][number] for group, number in self.handlers], KERNEL: kernels}
        words = self.words.copy()
        for kind, addresses in known.items():
            rows = self.addresses[self.addresses[:, 1] == kind]
            words[rows[:, 0]] = np.array(addresses, np.uint64)[rows[:, 2]]
        return words


def entry_address(variant: Variant = PLAIN) -> int:
    """The address of the C function that runs laid out code: void(code, registers, buffers, context)."""
    return _table("core", variant)[_ENTER]


_tables: dict[tuple[str, Variant], Sequence[int]] = {}
_codes: list[native.NativeCode] = []
"""Keeps the handlers loaded for the life of the process."""


def _table(group: str, variant: Variant) -> Sequence[int]:
    """The addresses of a group's handlers."""
    with native.alone():
        found = _tables.get((group, variant))
        if found is None:
            found = _tables[group, variant] = _load(group, variant)
        return found


def _load(group: str, variant: Variant) -> Sequence[int]:
    key = cache.key("handlers", group, str(variant), source_digest(*ROOMS))
    target = Target.host()
    code = native.load_object(key, ["handlers", "count"], lambda: _made(group, variant), target)
    _codes.append(code)
    count = ctypes.c_uint64.from_address(code.address("count")).value
    return list((ctypes.c_uint64 * count).from_address(code.address("handlers")))


def _made(group: str, variant: Variant) -> bytes:
    from mdsl.vm.handlers import (
        generate,  # needs LLVM's IR and the table of opcodes, which take long to import
    )

    return native.to_object(str(generate(group, variant)), Target.host())
