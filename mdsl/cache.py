"""A cache of files on disk: bounded in size, safe under concurrent processes, never trusted.

It lies in the user's cache folder; `MDSL_CACHE_DIR` moves it, `MDSL_CACHE_DIR=off` disables it. Each entry is a
file of its own, written under a temporary name and renamed into place. `put` and `get` keep bytes, behind a checksum;
`store` and `load` keep what is a file anyway and can tell damage itself. A damaged entry is deleted and reported as
absent.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

MAX_BYTES = 1 << 30
"""The cache's size above which the entries not used for longest are deleted."""

_MAGIC = b"mdsl-cache-1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size
_SECONDS_A_TOUCH = 3600

_SWEEP_AFTER = MAX_BYTES // 32
"""Bytes of new entries after which a process looks whether there are too many."""

_unswept = _SWEEP_AFTER
"""Bytes of new entries since the last look; it begins so that a process looks after its first."""

T = TypeVar("T")


def key(*parts: str | bytes) -> str:
    """The hexadecimal key of an entry that depends on `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def directory() -> Path | None:
    """The cache's folder, or None when caching is off."""
    chosen = os.environ.get("MDSL_CACHE_DIR")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("mdsl"))


def get(name: str) -> bytes | None:
    """The bytes stored under key `name`, or None when absent, damaged or unreadable."""
    return load(name, _payload)


def put(name: str, payload: bytes) -> None:
    """Store `payload` under key `name`. A folder that cannot be written only costs the reuse."""
    store(name, lambda path: path.write_bytes(_header(payload) + payload))


def load(name: str, read: Callable[[Path], T | None]) -> T | None:
    """What `read` makes of the file stored under key `name`, or None when that is absent or unreadable. `read` says
    None, too, where the file is damaged: it is deleted then."""
    path = _place(name)
    if path is None:
        return None
    try:
        _touch(path)
        found = read(path)
    except OSError:
        return None
    if found is None:
        discard(name)
    return found


def store(name: str, write: Callable[[Path], object]) -> None:
    """Store the file that `write` makes at the path that it is given under key `name`. A folder that cannot be
    written only costs the reuse."""
    import tempfile  # takes long to import, and a warm start writes nothing

    path = _place(name)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        os.close(handle)
        try:
            write(Path(temporary))
            size = os.stat(temporary).st_size
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        _make_room(path.parent.parent, size)


def discard(name: str) -> None:
    """Delete what is stored under key `name`, for it turned out damaged."""
    path = _place(name)
    if path is not None:
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Delete the entries not used for longest until the rest fill at most 3/4 of `max_bytes`.
    Temporary files of writers that died long ago are entries like any other."""
    entries: list[tuple[float, int, Path]] = []
    for path in folder.glob("[0-9a-f][0-9a-f]/*"):
        with suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in entries)
    if excess <= max_bytes:
        return
    excess -= max_bytes * 3 // 4
    for _, size, path in sorted(entries, key=lambda entry: entry[0]):
        if excess <= 0:
            return
        with suppress(OSError):
            path.unlink()
        excess -= size


def _header(payload: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(payload).digest()


def _payload(path: Path) -> bytes | None:
    """The bytes that `put` wrote, None if they are damaged."""
    data = path.read_bytes()
    payload = data[_HEADER:]
    return payload if data[:_HEADER] == _header(payload) else None


def _place(name: str) -> Path | None:
    """The file of the entry under key `name`, None when caching is off."""
    folder = directory()
    return folder and folder / name[:2] / name[2:]


def _touch(path: Path) -> None:
    """Mark an entry as used, at most once an hour: the time is only there to order evictions."""
    now = time.time()
    if now - path.stat().st_mtime > _SECONDS_A_TOUCH:
        os.utime(path, (now, now))


def _make_room(folder: Path, size: int) -> None:
    """Called after each new entry, of `size` bytes: sweeps now and then."""
    global _unswept
    _unswept += size
    if _unswept >= _SWEEP_AFTER:
        _unswept = 0
        sweep(folder)
