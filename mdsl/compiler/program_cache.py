"""Compiled programs that the cache keeps: a program that takes long to compile is compiled once.

The key of an entry is everything that the bytecode follows from: the program's text and source locations, the
data of its weights, the settings, the target, and the compiler. An entry holds an `.mbc` file like any other: it is
mapped, and verified before it runs; a damaged one is compiled anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from mdsl.bytecode.encode import digest_of, pieces
from mdsl.bytecode.file_format import HEADER
from mdsl.bytecode.module import Module
from mdsl.compiler.driver import to_bytecode
from mdsl.compiler.fingerprint import made_by
from mdsl.compiler.pipeline import Hook
from mdsl.compiler.settings import Settings
from mdsl.compiler.source_cache import is_kept, kept_program
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import DenseResourceAttr
from mdsl.support import cache
from mdsl.support.collector import collector_paused
from mdsl.syntax.printer import print_module

_WORTH_KEEPING = 0.5
"""Seconds of compilation from which the result is kept: less is not worth its place on the disk."""


def bytecode_of(module: ModuleOp, settings: Settings, hooks: Sequence[Hook] = ()) -> Module:
    """What `driver.to_bytecode` makes of `module`, which it may lower in place, or made of an equal one before.
    Raises MdslError."""
    program = KeptProgram(module, settings)
    return program.found() or program.compiled(hooks)


class KeptProgram:
    """A program and its place in the cache."""

    def __init__(self, module: ModuleOp, settings: Settings) -> None:
        self.module, self.settings = module, settings
        self.text = print_module(module)
        self.key = self._key() if is_kept(settings) else None
        self.is_kept = False

    def _key(self) -> str:
        locations = "\n".join(str(op.location) for op in self.module.walk())
        return cache.key(
            "program",
            self.text,
            locations,
            self.settings.key(),
            *made_by(self.settings.machine()),
            *_data(self.module),
        )

    def found(self) -> Module | None:
        found = None if self.key is None else kept_program(self.key)
        self.is_kept = found is not None
        return found

    def discard(self) -> None:
        self.is_kept = False
        if self.key is not None:
            cache.discard(self.key)

    @collector_paused()
    def compiled(self, hooks: Sequence[Hook] = ()) -> Module:
        """Of the module nothing is left: only its kernels are, on their own, for as long as they are not compiled."""
        start = time.perf_counter()
        bytecode = to_bytecode(self.module, self.settings, hooks, self.text, consumed=True)
        for kernel in bytecode.parsed.values():
            kernel.detach()
        self.module.erase()
        if self.key is not None and time.perf_counter() - start > _WORTH_KEEPING:
            cache.store(self.key, pieces(bytecode), HEADER.size)
            bytecode.digest = digest_of(bytecode)
            self.is_kept = True
        return bytecode


def _data(module: ModuleOp) -> list[bytes]:
    """A digest of each resource that the program refers to."""
    attributes = (a for op in module.walk() for a in op.attributes.values())
    arrays = [a.array for a in attributes if isinstance(a, DenseResourceAttr) and a.data is not None]
    return [hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest() for array in arrays]
