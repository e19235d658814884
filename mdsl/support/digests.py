"""Digests of files, which the cache remembers while nobody touches the files: to hash a network, or all sources of mdsl, takes
longer than to load a program that was compiled before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from mdsl.support import cache

_SETTLED = 2_000_000_000
"""Nanoseconds after which another change of a file surely has another time: those of file systems tick, some once in two
seconds. What changed later is read again, as git does with what changed in the moment when it looked."""


def remembered(files: Sequence[str], digest: Callable[[], str]) -> str:
    """What `digest` makes of the content of these files, or made of it when they were the same files with the same size and
    times. Raises OSError where one of them cannot be read."""
    stamps, changed = _stamps(files)
    name = cache.key("digest", *stamps)
    known = cache.get(name)
    if known is not None:
        return known.decode("ascii", "replace")
    settled = time.time_ns() - changed > _SETTLED
    found = digest()
    if settled and _stamps(files)[0] == stamps:
        cache.put(name, found.encode())
    return found


def _stamps(files: Sequence[str]) -> tuple[list[str], int]:
    """What tells that each file is the one that it was, and when the last of them changed. The time of the inode's
    change is no user's to set."""
    found = [(file, os.stat(file)) for file in files]
    stamps = [
        f"{file} {s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for file, s in found
    ]
    return stamps, max((max(s.st_mtime_ns, s.st_ctime_ns) for _, s in found), default=0)
