"""A digest of mdsl's source files, part of the cache's keys: changed code never meets the old one's output."""

from __future__ import annotations

from functools import cache as memoize
from pathlib import Path

from mdsl.support.cache import key

_PACKAGE = Path(__file__).parents[1]


def source_digest(*names: str) -> str:
    """A digest of the sources of mdsl's rooms ("codegen", "ir", ...) and files."""
    return key(*map(_digest, names))


@memoize
def _digest(name: str) -> str:
    place = _PACKAGE / name
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return key(*(part for file in files for part in (str(file.relative_to(place)), file.read_bytes())))
