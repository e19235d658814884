"""Digests of files are remembered while nobody touches the files, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mdsl.support import digests


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path / "cache"))


def _read(*files: Path) -> tuple[str, bool]:
    """The content of the files, and whether they were read for it."""
    reads: list[Path] = []

    def content() -> str:
        reads.extend(files)
        return " ".join(file.read_text() for file in files)

    return digests.remembered(list(map(str, files)), content), bool(reads)


def test_files_that_nobody_touches_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    assert [_read(one, two), _read(one, two)] == [("1 2", True), ("1 2", False)]
    assert _read(one) == ("1", True)
    status = two.stat()
    two.write_text("3")
    os.utime(two, ns=(status.st_atime_ns, status.st_mtime_ns))  # what only the inode's time tells
    assert _read(one, two) == ("1 3", True)
    os.replace(one, two)
    assert _read(two) == ("1", True)


def test_what_has_just_changed_may_change_within_a_tick_of_the_clock(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("1")
    assert [_read(file), _read(file)] == [("1", True), ("1", True)]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", -(10**12))
    file = tmp_path / "file"
    file.write_text("1")

    def changing() -> str:
        content = file.read_text()
        file.write_text("22")
        return content

    assert digests.remembered([str(file)], changing) == "1"
    file.write_text("1")
    assert _read(file)[1]
