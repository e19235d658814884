"""Compiled programs that the cache keeps: a program that takes long to compile is compiled once.

The key of an entry is everything that the bytecode follows from: the program's text with its source locations, the
data of its weights, the settings, the target, and the sources of the compiler. An entry is an `.mbc` file like
any other: it is mapped, and verified before it runs; a damaged one is compiled anew.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from mdsl import cache
from mdsl.bytecode.decode import load as load_bytecode
from mdsl.bytecode.encode import save
from mdsl.bytecode.module import BytecodeError, Module
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import DenseResourceAttr
from mdsl.passes.pipeline import Hook
from mdsl.settings import Settings
from mdsl.syntax.printer import print_module

_WORTH_KEEPING = 0.5
"""Seconds of compilation from which the result is kept: less is not worth its place on the disk."""

_COMPILER = ("bytecode", "codegen", "dialects", "ir", "passes", "reference", "syntax")


def bytecode_of(module: ModuleOp, settings: Settings, hooks: Sequence[Hook] = ()) -> Module:
    """What `api.to_bytecode` makes of `module`, which it may lower in place, or made of an equal one before.
    Raises MdslError."""
    from mdsl.api import to_bytecode

    place = _place(module, settings)
    if place is not None and place.exists():
        with suppress(BytecodeError, OSError):
            cache.touch(place)
            return load_bytecode(place)
    start = time.perf_counter()
    found = to_bytecode(module, settings, hooks)
    if place is not None and time.perf_counter() - start > _WORTH_KEEPING:
        with suppress(OSError):
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            save(found, place)
            # One is as large as thousands of kernels.
            cache.sweep(place.parent.parent)
    return found


def _place(module: ModuleOp, settings: Settings) -> Path | None:
    """Where the cache keeps the program, None if it is off. Tuned programs are not kept: what was measured is."""
    if settings.tune:
        return None
    target = settings.machine()
    parts = [
        print_module(module, locations=True),
        settings.key(),
        f"{target.name} {target.fingerprint()}",
        cache.source_digest(*_COMPILER),
    ]
    return cache.place(cache.key("program", *parts, *_data(module)))


def _data(module: ModuleOp) -> list[bytes]:
    """A digest of each resource that the program refers to."""
    attributes = (a for op in module.walk() for a in op.attributes.values())
    arrays = [a.array for a in attributes if isinstance(a, DenseResourceAttr) and a.data is not None]
    return [hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest() for array in arrays]
