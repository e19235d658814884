"""What README.md shows is what mdsl does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import mdsl
from mdsl.benchmarking.profile import count
from mdsl.cli import app
from mdsl.runtime.executable import VmExecutable
from mdsl.target.target import Target

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


def test_the_diff_is_the_one_that_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(app, ["opt", "--tile=4x16", "--diff", "examples/matmul.mir"]).stdout
    (shown,) = blocks("diff")
    assert set(shown.splitlines()) <= set(printed.splitlines())


# Variant, engine, settings of `mdsl.compile`.
VARIANTS = [
    ("interpreted", "vm", {"ukernels": False}),
    ("+ micro-kernels", "vm", {}),
    ("+ unroll-dispatch=4", "vm", {"unroll_dispatch": 4}),
    ("jit", "jit", {"unroll_dispatch": 4}),
]


@pytest.mark.parametrize(("variant", "engine", "settings"), VARIANTS, ids=[v[0] for v in VARIANTS])
def test_the_table_counts_what_is_executed(variant: str, engine: str, settings: dict[str, Any]) -> None:
    host = Target.host()
    if variant != "interpreted" and (host.vector_bytes, host.core.l1_bytes, host.core.l2_bytes) != (
        64,
        48 << 10,
        1 << 20,
    ):
        pytest.skip("this processor has other tiles than the table's")
    executable = mdsl.compile(ROOT / "examples" / "mnist" / "cnn.mir", engine=engine, **settings)
    assert isinstance(executable, VmExecutable)
    counted = count(executable, [np.zeros((1, 1, 28, 28), np.float32)])
    interpreted = [counted.instructions, counted.dispatches] if engine == "vm" else [None, None]
    shown = next(line for line in README.splitlines() if line.startswith(f"| {variant} |"))
    cells = [cell.strip() for cell in shown.strip("|").split("|")][-3:]
    wanted = ["-" if n is None else f"{n:,}" for n in (*interpreted, counted.kernel_calls)]
    assert cells == wanted, "README.md: `mdsl bench examples/mnist/cnn.mir --ablation` prints other counts"


def test_no_placeholder_is_left() -> None:
    assert not re.search(r"^[A-Z]{4,}$|\bTODO\b", README, re.MULTILINE)
