"""A function of a module made ready: proved safe, and laid out for the interpreter.

Both follow from the bytes of the module's file and from what its kernels touch, and the cache keeps them: a program that
was loaded before is not read as instructions again.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np

from mdsl.analysis.footprints import KernelSignatures
from mdsl.bytecode.module import Function, Module
from mdsl.support import cache
from mdsl.support.source_digest import source_digest
from mdsl.vm.interpreter import ROOMS, Layout


class Prepared(NamedTuple):
    """`written` is how many bytes of each output lie between the first and the last that the function may write."""

    written: list[int]
    layout: Layout


def prepared(module: Module, function: Function, signatures: KernelSignatures) -> Prepared:
    """The function, proved and laid out now or before. Raises BytecodeError if some function of the module cannot be proved
    safe."""
    key = _key(module, function, signatures)
    found = None if key is None else cache.get(key)
    if found is not None:
        return _from_bytes(found)
    made = _prepare(module, function, signatures)
    if key is not None:
        cache.put(key, _to_bytes(made))
    return made


def _prepare(module: Module, function: Function, signatures: KernelSignatures) -> Prepared:
    from mdsl.bytecode.verify import verify  # needs the table of opcodes, which takes long to make
    from mdsl.vm.layout import lay_out

    written = verify(module, signatures)
    return Prepared(written[function.name], lay_out(function))


def _key(module: Module, function: Function, signatures: KernelSignatures) -> str | None:
    """Everything that decides; None where the module is in no file."""
    if not module.digest:
        return None
    kernels = [(kernel.name, signatures.get(kernel.name)) for kernel in module.kernels]
    return cache.key("prepared", module.digest, function.name, json.dumps(kernels), source_digest(*ROOMS))


def _to_bytes(made: Prepared) -> bytes:
    layout = made.layout
    head = json.dumps([made.written, len(layout.words), layout.handlers]).encode()
    return b"".join(
        (len(head).to_bytes(8, "little"), head, layout.words.tobytes(), layout.addresses.tobytes())
    )


def _from_bytes(data: bytes) -> Prepared:
    start = 8 + int.from_bytes(data[:8], "little")
    written, words, handlers = json.loads(data[8:start])
    addresses = np.frombuffer(data, np.int64, offset=start + 8 * words).reshape(-1, 3)
    handlers = [(group, number) for group, number in handlers]
    return Prepared(written, Layout(np.frombuffer(data, np.uint64, words, start), handlers, addresses))
