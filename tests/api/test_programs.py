"""Compiled programs in the cache: found again, told apart, and never trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.bytecode import decode, encode
from mdsl.bytecode.file_format import HEADER
from mdsl.bytecode.module import Module
from mdsl.compiler import program_cache as programs
from mdsl.compiler.settings import Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.support import cache, source_digest
from mdsl.support.formats import MAGIC
from mdsl.target.target import Target

OTHER = replace(Target.host(), isa=replace(Target.host().isa, registers=12))
"""A target that this machine runs."""

TEXT = """
func.func @main(%x: tensor<4x40xf32>) -> tensor<4x40xf32> {
  %w = arith.constant dense_resource<w> : tensor<40x40xf32>
  %y = nn.matmul %x, %w : (tensor<4x40xf32>, tensor<40x40xf32>) -> tensor<4x40xf32>
  return %y : tensor<4x40xf32>
}
{-#
  dialect_resources: { builtin: { w: "0x04000000DATA" } }
#-}
"""
X = np.ones((4, 40), np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MDSL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(programs, "_WORTH_KEEPING", 0)
    return tmp_path


def _text(scale: float = 1) -> str:
    weights = np.arange(1600, dtype=np.float32) * np.float32(scale)
    return TEXT.replace("DATA", weights.tobytes().hex())


def _compilations(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    seen: list[Settings] = []
    original = programs.to_bytecode

    def counted(module: ModuleOp, settings: Settings, *rest: Any, **options: Any) -> Module:
        seen.append(settings)
        return original(module, settings, *rest, **options)

    monkeypatch.setattr(programs, "to_bytecode", counted)
    return seen


def _program(folder: Path) -> Path:
    """The one program in the cache."""
    (found,) = (path for path in folder.glob("*/*") if path.read_bytes()[64:].startswith(MAGIC))
    return found


def test_a_program_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _compilations(monkeypatch)
    first, second = mdsl.compile(_text()), mdsl.compile(_text())
    assert len(seen) == 1
    np.testing.assert_array_equal(first(X), second(X))


def test_weights_and_settings_tell_programs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _compilations(monkeypatch)
    one, two = mdsl.compile(_text()), mdsl.compile(_text(2))
    np.testing.assert_allclose(two(X), 2 * one(X), rtol=1e-6)
    mdsl.compile(_text(), ukernels=False)
    mdsl.compile(_text(), unroll_dispatch=2)
    mdsl.compile(_text(), target=OTHER)
    assert len(seen) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"isa": {"registers": 12}},
        *({"core": {name: 1 << 14}} for name in ("fma_latency", "l1_bytes", "l2_bytes")),
    ],
    ids=str,
)
def test_what_the_passes_choose_by_tells_programs_apart(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, dict[str, int]]
) -> None:
    seen = _compilations(monkeypatch)
    host = Target.host()
    changed = {part: replace(getattr(host, part), **fields) for part, fields in change.items()}
    for target in ("host", None, host, replace(host, **changed), replace(host, **changed)):
        mdsl.compile(_text(), target=target)
    assert len(seen) == 2


@pytest.mark.parametrize("module", [mdsl, np], ids=lambda m: m.__name__)
def test_a_program_of_another_version_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    seen = _compilations(monkeypatch)
    mdsl.compile(_text())
    monkeypatch.setattr(module, "__version__", "0.0.1")
    mdsl.compile(_text())
    assert len(seen) == 2


def test_sizes_are_the_same_in_any_order_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _compilations(monkeypatch)
    text = """
    func.func @main(%x: tensor<?x?xf32> {mdsl.dims = ["m", "n"]}) -> tensor<?x?xf32> {
      %y = nn.relu %x : (tensor<?x?xf32>) -> tensor<?x?xf32>
      return %y : tensor<?x?xf32>
    }"""
    for bind in ({"m": 2, "n": 3}, {"n": 3, "m": 2}, {"n": np.int64(3), "m": np.int32(2)}):
        mdsl.compile(text, bind=bind)
    assert len(seen) == 1
    mdsl.compile(text, bind={"m": 3, "n": 2})
    assert len(seen) == 2


def test_locations_tell_programs_apart(tmp_path: Path) -> None:
    """They are in the bytecode."""
    found: list[str] = []
    for name in ("one.mir", "two.mir"):
        (tmp_path / name).write_text(_text())
        found += mdsl.compile(tmp_path / name).bytecode().function().locations
    assert any("one.mir" in f for f in found) and any("two.mir" in f for f in found)


def test_every_source_is_in_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of packages and files, and of packages in packages."""
    for name in ("a.py", "package/b.py", "package/inner/c.py", "package/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(source_digest, "_PACKAGE", tmp_path)

    def digest() -> str:
        source_digest._digest.cache_clear()
        return source_digest.source_digest("a.py", "package")

    before = digest()
    (tmp_path / "package" / "note.txt").write_text("2")
    assert digest() == before
    for name in ("a.py", "package/b.py", "package/inner/c.py"):
        (tmp_path / name).write_text("2")
        assert digest() != before, name
        before = digest()
    source_digest._digest.cache_clear()


def test_a_damaged_entry_is_compiled_anew(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = mdsl.compile(_text())(X)
    for entry in own_cache.glob("*/*"):
        entry.write_bytes(entry.read_bytes()[:-20])
    seen = _compilations(monkeypatch)
    np.testing.assert_array_equal(mdsl.compile(_text())(X), wanted)
    assert len(seen) == 1


def test_a_damaged_entry_does_not_stay(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the program now compiles too fast to be kept."""
    mdsl.compile(_text())
    entry = _program(own_cache)
    entry.write_bytes(entry.read_bytes()[:-20])
    monkeypatch.setattr(programs, "_WORTH_KEEPING", 1000)
    mdsl.compile(_text())
    assert not entry.exists()


def test_an_entry_that_is_not_safe_is_compiled_anew(own_cache: Path) -> None:
    """Its checksum is right, but the verifier refuses its code."""
    wanted = mdsl.compile(_text())(X)
    entry = _program(own_cache)
    module = decode.decode(entry.read_bytes()[64:])
    module.kernels = []
    cache.store(entry.parent.name + entry.name, encode.pieces(module), HEADER.size)
    forged = entry.read_bytes()
    np.testing.assert_array_equal(mdsl.compile(_text())(X), wanted)
    assert entry.read_bytes() != forged
    np.testing.assert_array_equal(mdsl.compile(_text())(X), wanted)


def test_a_large_entry_makes_room_at_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[Path] = []
    monkeypatch.setattr(cache, "sweep", swept.append)
    monkeypatch.setattr(cache, "_unswept", 0)
    cache.put(cache.key("small"), bytes(100))
    assert not swept
    monkeypatch.setattr(cache, "_SWEEP_AFTER", 7000)
    mdsl.compile(_text())
    assert set(swept) == {own_cache}


def test_without_a_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    seen = _compilations(monkeypatch)
    mdsl.compile(_text())
    mdsl.compile(_text())
    assert len(seen) == 2
