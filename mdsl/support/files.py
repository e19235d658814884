"""Atomic writing of files: they appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_UMASK = os.umask(0o77)
"""What new files do not permit. It can only be read by setting it, for all threads: once, before there are others."""
os.umask(_UMASK)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO, None, None]:
    """A file to write that takes the place of `path` when all is written. Raises OSError naming `path`.

    A link stays and what it leads to is replaced; a pipe or a device is written to as it is, and so is what this process
    has open already (/dev/stdout).
    """
    with _named(path), _opened(path) as file:
        yield file


def check_writable(path: Path) -> None:
    """To be called before the work starts, whose result will go to `path`. Raises OSError as `replacing` would, as
    far as can be told now."""
    import tempfile

    with _named(path):
        descriptor = _descriptor(path)
        if descriptor is not None:
            os.fstat(descriptor)
        if is_stream(path):
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent):
            pass


@contextmanager
def _named(path: Path) -> Generator[None, None, None]:
    """Puts the file's name into an OSError."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(path)) from None


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO, None, None]:
    import tempfile

    if is_stream(path):
        descriptor = _descriptor(path)
        with open(path if descriptor is None else os.dup(descriptor), "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def is_stream(path: Path) -> bool:
    """True for a pipe, a device or an open file: what is written to it goes on, and nothing can lie beside it."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _descriptor(path: Path) -> int | None:
    """The number of the open file that a path stands for, as /dev/stdout and /dev/fd/3 do."""
    open_files = os.path.realpath("/dev/fd")
    for _ in range(40):  # as many links as a path may lead through
        folder = os.path.realpath(path.parent)
        if folder == open_files and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, os.readlink(path))
    return None
