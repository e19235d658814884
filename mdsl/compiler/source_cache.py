"""What the files of programs were compiled to: a program in the cache is found before its file is read as one.

An entry tells the program's own key (`program_cache.py`), and the digests of the other files that it was read from: weights
and a model's external data. Its own key is everything else that decides: the bytes and the name of the file, the settings,
the target, the compiler, and what reads programs. Digests of files are remembered (`support/digests.py`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mdsl.bytecode.decode import decode
from mdsl.bytecode.file_format import HEADER
from mdsl.bytecode.module import BytecodeError, Module
from mdsl.compiler.fingerprint import made_by
from mdsl.compiler.settings import Settings
from mdsl.support import cache
from mdsl.support.digests import remembered
from mdsl.support.source_digest import source_digest

_READERS = ("frontends", "runtime")
"""What a program follows from that is read from a file, beside the compiler's own rooms."""


def is_kept(settings: Settings) -> bool:
    """Tuned programs have no place in the cache: what was measured is kept."""
    return cache.directory() is not None and not settings.tune


def kept_program(key: str) -> Module | None:
    """The program in the cache under `key`."""
    return cache.load(key, _decoded, HEADER.size)


class KeptSource:
    """A program's file, and what the cache knows of it."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.program: str | None = None
        """The key of the program that `found` found."""

    @cached_property
    def key(self) -> str | None:
        """The entry's, None where there is none."""
        return self._key() if is_kept(self.settings) else None

    def found(self) -> Module | None:
        """The program, if the cache has it and no file of it has changed."""
        known = None if self.key is None else cache.get_json(self.key)
        self.program = _program(known)
        return None if self.program is None else kept_program(self.program)

    def discard(self) -> None:
        """The program turned out damaged."""
        if self.program is not None:
            cache.discard(self.program)

    def remember(self, program: str, others: Iterable[Path]) -> None:
        """The file was compiled to the program of this key, and has parts in `others`. Nothing is kept of files that
        have changed while they were read."""
        if self.key is None or self.key != self._key():
            return
        digests = [(os.fspath(path), _digest(path)) for path in others]
        if all(digest is not None for _, digest in digests):
            cache.put_json(self.key, {"program": program, "files": digests})

    def _key(self) -> str | None:
        digest = _digest(self.path)
        if digest is None:
            return None
        made = made_by(self.settings.machine())
        return cache.key(
            "source",
            os.fspath(self.path),
            digest,
            self.settings.key(),
            *made,
            source_digest(*_READERS),
            _onnx(),
        )


def _program(known: Any) -> str | None:
    """The key in an entry, whatever that may be, if the files that it names are as they were."""
    match known:
        case {"program": str(program), "files": list(files)} if cache.is_key(program):
            return program if all(map(_is_same, files)) else None
        case _:
            return None


def _is_same(file: Any) -> bool:
    match file:
        case [str(path), str(digest)]:
            return _digest(Path(path)) == digest
        case _:
            return False


def _digest(path: Path) -> str | None:
    """Of a plain file that is no larger than a program in the cache may be."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > cache.MAX_BYTES:
            return None
        return remembered([os.fspath(path)], lambda: _hashed(path))
    except (OSError, ValueError):
        return None


def _hashed(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _onnx() -> bytes:
    """The version of the package that knows ONNX's operators, without importing it."""
    found = find_spec("onnx")
    places = [Path(place, "version.py") for place in (found and found.submodule_search_locations) or ()]
    return b"".join(place.read_bytes() for place in places if place.is_file())


def _decoded(data: memoryview) -> Module | None:
    """The module in an entry, None if it is damaged."""
    try:
        return decode(data, code=False)
    except BytecodeError:
        return None
