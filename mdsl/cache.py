"""A cache of bytes on disk: bounded in size, safe under concurrent processes, never trusted.

It lies in the user's cache folder; `MDSL_CACHE_DIR` moves it, `MDSL_CACHE_DIR=off` disables it.
Each entry is a file of its own, written under a temporary name and renamed into place, that starts
with a checksum of its bytes; an entry that does not match is deleted and reported as absent.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from functools import cache as memoize
from pathlib import Path

MAX_BYTES = 1 << 30
"""The cache's size above which the entries not used for longest are deleted."""

_MAGIC = b"mdsl-cache-1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size
_PUTS_A_SWEEP = 64
_SECONDS_A_TOUCH = 3600

_puts = 0


def key(*parts: str | bytes) -> str:
    """The hexadecimal key of an entry that depends on `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@memoize
def source_digest(*packages: str) -> str:
    """A digest of the Python sources of mdsl's `packages` ("codegen", "ir", ...): part of the key of
    anything that their code produced, so that a changed generator never meets its old output."""
    root = Path(__file__).parent
    files = [file for package in packages for file in sorted((root / package).glob("*.py"))]
    return key(*(file.read_bytes() for file in files))


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
    path = place(name)
    if path is None:
        return None
    try:
        data = path.read_bytes()
        payload = data[_HEADER:]
        if data[:_HEADER] != _header(payload):
            path.unlink()
            return None
        touch(path)
    except OSError:
        return None
    return payload


def put(name: str, payload: bytes) -> None:
    """Store `payload` under key `name`. A folder that cannot be written only costs the reuse."""
    import tempfile  # takes long to import, and a warm start writes nothing

    path = place(name)
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_header(payload) + payload)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        make_room(path.parent.parent)


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


def place(name: str) -> Path | None:
    """The file of the entry under key `name`, None when caching is off."""
    folder = directory()
    return folder and folder / name[:2] / name[2:]


def touch(path: Path) -> None:
    """Mark an entry as used, at most once an hour: the time is only there to order evictions."""
    now = time.time()
    if now - path.stat().st_mtime > _SECONDS_A_TOUCH:
        os.utime(path, (now, now))


def make_room(folder: Path) -> None:
    """Called after each new entry: sweeps now and then."""
    global _puts
    if _puts % _PUTS_A_SWEEP == 0:
        sweep(folder)
    _puts += 1
