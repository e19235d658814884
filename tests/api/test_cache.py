"""The cache is never trusted: what is under the wrong name, or may be someone else's, is made anew."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl.compiler import program_cache as programs
from mdsl.errors import Source
from mdsl.support import cache
from mdsl.syntax import grammar

TEXT = """
func.func @main(%x: tensor<8x64xf32>) -> (tensor<8x64xf32>, tensor<8x64xf32>) {{
  %a = nn.{0} %x : (tensor<8x64xf32>) -> tensor<8x64xf32>
  %b = nn.softmax %a {{axis = 1}} : (tensor<8x64xf32>) -> tensor<8x64xf32>
  return %a, %b : tensor<8x64xf32>, tensor<8x64xf32>
}}
"""
X = np.linspace(-1, 1, 512, dtype=np.float32).reshape(8, 64)
KEY, OTHER = cache.key("one"), cache.key("other")

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX's owners, modes and pipes")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(programs, "_WORTH_KEEPING", 0)
    return tmp_path / "cache"


def place(name: str) -> Path:
    found = cache.directory()
    assert found is not None
    return found / name[:2] / name[2:]


def run(op: str) -> list[np.ndarray]:
    return list(mdsl.compile(TEXT.format(op))(X))


def test_whole_entries_under_other_names_change_nothing(folder: Path) -> None:
    """Every entry in turn takes the place of each other one: grammar, programs, objects, signatures."""
    wanted = {op: run(op) for op in ("exp", "tanh")}
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    contents = [path.read_bytes() for path in files]
    assert len(files) > 6
    for shift in (1, len(files) // 2):
        for path, content in zip(files, contents[shift:] + contents[:shift], strict=True):
            path.write_bytes(content)
        grammar.lark.cache_clear()
        for op, arrays in wanted.items():
            for found, expected in zip(run(op), arrays, strict=True):
                np.testing.assert_array_equal(found, expected)


def test_a_swapped_entry_is_absent_and_goes() -> None:
    cache.put(KEY, b"payload")
    cache.put(OTHER, b"another")
    shutil.copy(place(KEY), place(OTHER))
    assert cache.get(OTHER) is None and not place(OTHER).exists()
    assert cache.get(KEY) == b"payload"


def test_a_program_is_checked_beyond_its_first_bytes() -> None:
    read: Callable[[memoryview], bytes] = bytes
    cache.store(KEY, [b"head", memoryview(b"tail")], 4)
    assert cache.load(KEY, read, 4) == b"headtail"
    cache.store(OTHER, [b"head", b"tail"], 4)
    shutil.copy(place(KEY), place(OTHER))
    assert cache.load(OTHER, read, 4) is None


def _by_link(path: Path) -> None:
    path.rename(path.with_name("aside"))
    path.symlink_to(path.with_name("aside"))


def _by_hard_link(path: Path) -> None:
    os.link(path, path.with_name("second"))


def _by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _by_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _by_size(path: Path) -> None:
    os.truncate(path, 2 * cache.MAX_BYTES)


CHANGES: list[Callable[[Path], object]] = [
    _by_link, _by_hard_link, _by_pipe, _by_folder, _by_device, _by_size,
    lambda path: path.chmod(0o620), lambda path: path.chmod(0o602), lambda path: path.write_bytes(b""),
]  # fmt: skip


@posix
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_<>"))
def test_what_may_be_someone_else_s_is_not_read(change: Callable[[Path], object]) -> None:
    cache.put(KEY, b"payload")
    change(place(KEY))
    answer: list[bytes | None] = [b"none yet"]
    reader = threading.Thread(target=lambda: answer.append(cache.get(KEY)), daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "waits for a pipe's writer"
    assert answer[1] is None
    cache.put(KEY, b"payload")
    if change is not _by_folder:  # which nothing but its owner may remove
        assert cache.get(KEY) == b"payload"


@posix
def test_a_file_of_another_owner_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(KEY, b"payload")
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert cache.get(KEY) is None


@posix
def test_nothing_is_written_through_a_link_of_someone_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may rename files in the folder could put a link where the temporary file was."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    make = __import__("tempfile").mkstemp

    def raced(**options: object) -> tuple[int, str]:
        handle, name = make(**options)
        os.unlink(name)
        os.symlink(victim, name)
        return handle, name

    monkeypatch.setattr("tempfile.mkstemp", raced)
    cache.put(KEY, b"payload")
    assert victim.read_text() == "mine" and cache.get(KEY) is None


@posix
def test_a_sweep_deletes_entries_only(folder: Path, tmp_path: Path) -> None:
    cache.put(KEY, bytes(1000))
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / ("0" * 62)).write_text("mine")
    (folder / "ab").symlink_to(tmp_path / "documents")
    (folder / "cd").mkdir()
    (folder / "cd" / "notes.txt").write_text("mine")
    cache.sweep(folder, max_bytes=0)
    assert not place(KEY).exists()
    assert (tmp_path / "documents" / ("0" * 62)).exists() and (folder / "cd" / "notes.txt").exists()


def test_nothing_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("unpickled")

    run("exp")
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    grammar.lark.cache_clear()
    run("exp")


def test_what_is_no_json_is_absent() -> None:
    for payload in (b"\x80pickle", b"[" * 100_000):
        cache.put(KEY, payload)
        assert cache.get_json(KEY) is None
    cache.put_json(KEY, [1, "a"])
    assert cache.get_json(KEY) == json.loads('[1, "a"]')


@pytest.mark.parametrize("kept", [[], {}, 5, "x", {"data": {}, "memo": {}}, {"data": 1, "memo": []}], ids=str)
def test_a_grammar_that_is_none_is_made_anew(kept: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is whole, and JSON, but not what anybody put there."""
    monkeypatch.setattr(cache, "get", lambda _: json.dumps(kept).encode())
    grammar.lark.cache_clear()
    assert grammar.parse_tree(Source("text", TEXT.format("exp")))


def test_the_kept_grammar_is_the_grammar() -> None:
    grammar.lark.cache_clear()
    made, source = grammar.lark(), Source("text", TEXT.format("exp"))
    tree = grammar.parse_tree(source)
    grammar.lark.cache_clear()
    kept = grammar.lark()
    assert made is not kept and grammar.parse_tree(source) == tree
    assert kept.options.maybe_placeholders and kept.source_path == "<deserialized>"


def test_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    monkeypatch.chdir(tmp_path)
    cache.put(KEY, b"payload")
    cache.discard(KEY)
    assert cache.directory() is None and cache.get(KEY) is None and not list(tmp_path.iterdir())


@posix
def test_folders_are_for_their_owner_alone() -> None:
    before = os.umask(0)
    try:
        cache.put(KEY, b"payload")
    finally:
        os.umask(before)
    assert place(KEY).parent.stat().st_mode & 0o777 == 0o700
    assert place(KEY).stat().st_mode & 0o077 == 0


def test_a_failed_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    cache.put(KEY, b"payload")
    assert cache.get(KEY) is None and not list(place(KEY).parent.iterdir())


def test_the_entries_not_used_for_longest_go(folder: Path) -> None:
    names = [cache.key(str(number)) for number in range(4)]
    for age, name in enumerate(names):
        cache.put(name, bytes(936))
        os.utime(place(name), (10_000 - age, 10_000 - age))
    cache.sweep(folder, max_bytes=4000)
    assert all(place(name).exists() for name in names)
    cache.sweep(folder, max_bytes=3000)
    assert [place(name).exists() for name in names] == [True, True, False, False]


def test_new_entries_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []
    monkeypatch.setattr(cache, "sweep", swept.append)
    monkeypatch.setattr(cache, "_SWEEP_AFTER", 2500)
    monkeypatch.setattr(cache, "_unswept", 0)
    for number in range(5):
        cache.put(cache.key(str(number)), bytes(936))
    assert swept == [folder]


def test_a_read_entry_counts_as_used() -> None:
    cache.put(KEY, b"payload")
    written = place(KEY).stat().st_mtime
    for age, touched in ((600, False), (7200, True)):
        os.utime(place(KEY), (written - age, written - age))
        assert cache.get(KEY) == b"payload"
        assert (place(KEY).stat().st_mtime >= written) == touched


def test_keys_of_other_parts_differ() -> None:
    assert len({cache.key("ab", "c"), cache.key("a", "bc"), cache.key("abc"), cache.key("abc", "")}) == 4
    assert cache.key("a") == cache.key(b"a")
