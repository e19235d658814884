"""A digest of mdsl's source files, part of the cache's keys: changed code never meets the old one's output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache as memoize

from mdsl.support.cache import key
from mdsl.support.digests import remembered

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def source_digest(*names: str) -> str:
    """A digest of the sources of mdsl's rooms ("codegen", "ir", ...) and files."""
    return key(*map(_digest, names))


@memoize
def _digest(name: str) -> str:
    place = os.path.join(_PACKAGE, name)
    files = sorted(_sources(place)) if os.path.isdir(place) else [place]
    return remembered(
        files, lambda: key(*(part for file in files for part in (file[len(place) :], _read(file))))
    )


def _sources(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.path
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _sources(entry.path)


def _read(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return opened.read()
