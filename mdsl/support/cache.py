"""A cache of files on disk: bounded in size, safe under concurrent processes, never trusted.

It lies in the user's cache folder; `MDSL_CACHE_DIR` moves it, `MDSL_CACHE_DIR=off` disables it. An entry is a file of
its own, written under a temporary name and renamed into place: a header, then its payload. The header's checksum covers
the key too, so that an entry under another's name is a damaged one. Only plain files are read that this user owns and
nobody else may write, and nothing in them is unpickled. An entry that is damaged or not sound is deleted and reported as
absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mdsl.support.pages import content

MAX_BYTES = 1 << 30
"""The cache's size above which the entries not used for longest are deleted."""

_MAGIC = b"mdsl-cache-2\n"
_HEADER = 64
"""Bytes of an entry before its payload, which is as aligned as an `.mbc` file must be to be mapped."""

_SECONDS_A_TOUCH = 3600

_SWEEP_AFTER = MAX_BYTES // 32
"""Bytes of new entries after which a process looks whether there are too many."""

_unswept = _SWEEP_AFTER
"""Bytes of new entries since the last look; it begins so that a process looks after its first."""

_ENTRY = r"[0-9a-f]{62}|\.new-.*"
"""The name of an entry's file, or of a temporary one, in a folder named by the first two digits of its key."""

T = TypeVar("T")
Piece = bytes | memoryview


def key(*parts: str | bytes) -> str:
    """The hexadecimal key of an entry that depends on `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def is_key(name: str) -> bool:
    """True for what `key` may give."""
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


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
    return _read(name, lambda file: _payload(name, file))


def put(name: str, payload: bytes) -> None:
    """Store `payload` under key `name`. A folder that cannot be written only costs the reuse."""
    store(name, [payload], len(payload))


def get_json(name: str, read: Callable[[Any], T] = lambda value: value) -> T | None:
    """What `read` makes of what `put_json` stored under key `name`, or None when that is absent, damaged, unreadable, or nothing
    that `read` can make something of."""
    with suppress(ValueError, RecursionError, TypeError, LookupError, AttributeError):
        value = json.loads(get(name) or b"null")
        return None if value is None else read(value)
    return None


def put_json(name: str, value: Any) -> None:
    """Store what JSON can write under key `name`."""
    put(name, json.dumps(value, separators=(",", ":")).encode())


def load(name: str, read: Callable[[memoryview], T | None], checked: int) -> T | None:
    """What `read` makes of the payload stored under key `name`, all of it in memory, or None when that is absent or
    unreadable. `read` says None, too, where it is damaged beyond its first `checked` bytes (see `store`)."""

    def mapped(file: BinaryIO) -> T | None:
        data = memoryview(content(file))
        payload = data[_HEADER:]
        return read(payload) if data[:_HEADER] == _header(name, [payload], checked) else None

    return _read(name, mapped)


def store(name: str, payload: Iterable[Piece], checked: int) -> None:
    """Store the payload, in pieces, under key `name`. The entry's checksum covers its first `checked` bytes, in which
    a large one has a checksum of the rest. A folder that cannot be written only costs the reuse."""
    import tempfile  # takes long to import, and a warm start writes nothing

    path, pieces = _place(name), list(payload)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([_header(name, pieces, checked), *pieces])
                size = file.tell()
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # it may have got its name already
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
            status = path.lstat()
            if re.fullmatch(_ENTRY, path.name) and not path.parent.is_symlink():
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


def _header(name: str, payload: Iterable[Piece], checked: int) -> bytes:
    digest = hashlib.sha256(name.encode())
    for piece in payload:
        digest.update(piece[:checked])
        checked = max(checked - len(piece), 0)
    return (_MAGIC + digest.digest()).ljust(_HEADER, b"\0")


def _payload(name: str, file: BinaryIO) -> bytes | None:
    """The bytes that `put` wrote, None if they are damaged."""
    header, payload = file.read(_HEADER), file.read()
    return payload if header == _header(name, [payload], len(payload)) else None


def _read(name: str, read: Callable[[BinaryIO], T | None]) -> T | None:
    """What `read` makes of an entry's file, which is deleted where that is None or the file is not sound."""
    path = _place(name)
    if path is None:
        return None
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            found = read(file) if _is_sound(status) else None
            if found is not None:
                _touch(path, status)
    except OSError:
        return None
    if found is None:
        discard(name)
    return found


def _open(path: str, flags: int) -> int:
    """Opens without following a link, or waiting for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_sound(status: os.stat_result) -> bool:
    """True for a plain file that has no other name and that only this user can have written."""
    if not stat.S_ISREG(status.st_mode) or not _HEADER <= status.st_size <= MAX_BYTES or status.st_nlink > 1:
        return False
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _place(name: str) -> Path | None:
    """The file of the entry under key `name`, None when caching is off."""
    folder = directory()
    return folder and folder / name[:2] / name[2:]


def _touch(path: Path, status: os.stat_result) -> None:
    """Mark an entry as used, at most once an hour: the time is only there to order evictions."""
    now = time.time()
    if now - status.st_mtime > _SECONDS_A_TOUCH:
        with suppress(OSError):  # the folder may be one that cannot be written
            os.utime(path, (now, now), follow_symlinks=os.utime not in os.supports_follow_symlinks)


def _make_room(folder: Path, size: int) -> None:
    """Called after each new entry, of `size` bytes: sweeps now and then."""
    global _unswept
    _unswept += size
    if _unswept >= _SWEEP_AFTER:
        _unswept = 0
        sweep(folder)
