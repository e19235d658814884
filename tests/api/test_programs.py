"""Compiled programs in the cache: found again, told apart, and never trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl import api, programs
from mdsl.bytecode.module import Module
from mdsl.dialects.builtin import ModuleOp
from mdsl.settings import Settings

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
    original = api.to_bytecode

    def counted(module: ModuleOp, settings: Settings, *rest: Any) -> Module:
        seen.append(settings)
        return original(module, settings, *rest)

    monkeypatch.setattr(api, "to_bytecode", counted)
    return seen


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
    mdsl.compile(_text(), target="avx2")
    assert len(seen) == 5


def test_a_damaged_entry_is_compiled_anew(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = mdsl.compile(_text())(X)
    for entry in own_cache.glob("*/*"):
        entry.write_bytes(entry.read_bytes()[:-20])
    seen = _compilations(monkeypatch)
    np.testing.assert_array_equal(mdsl.compile(_text())(X), wanted)
    assert len(seen) == 1


def test_without_a_cache_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSL_CACHE_DIR", "off")
    seen = _compilations(monkeypatch)
    mdsl.compile(_text())
    mdsl.compile(_text())
    assert len(seen) == 2
