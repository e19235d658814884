"""What README.md shows is what mdsl does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import mdsl
from mdsl.report.diff import unified
from mdsl.syntax.printer import print_module

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "cnn.mbc").exists()


def test_the_diff_is_the_one_that_is_printed() -> None:
    before = mdsl.parse(ROOT / "examples" / "matmul.mir")
    after = mdsl.opt(before, "tile{sizes=[4,16]}")
    printed = unified(print_module(before), print_module(after), "tile")
    (shown,) = blocks("diff")
    assert set(shown.splitlines()) <= set(printed.splitlines())


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"^[A-Z]{4,}$|\bTODO\b", README, re.MULTILINE)
