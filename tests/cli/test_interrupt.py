"""Ctrl-C in every command: exit code 130, one line on stderr, and what was written before is there still."""

from __future__ import annotations

import os
import pkgutil
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mdsl
from mdsl.cli import command

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")

NET = """func.func @main(%x: tensor<4x3xf32>) -> tensor<4x3xf32> {
  %w = arith.constant dense<0.5> : tensor<3x3xf32>
  %y = nn.matmul %x, %w : (tensor<4x3xf32>, tensor<3x3xf32>) -> tensor<4x3xf32>
  return %y : tensor<4x3xf32>
}
"""

READING, PASSES, TESTING, WRITING = (
    "mdsl.compiler.reading.parse_file",
    "mdsl.compiler.pipeline.run_pass",
    "mdsl.report.judging.Script.run",
    "os.replace",
)

COMMANDS = {
    "opt": (["net.mir", "--lower-nn", "-o", "out"], (READING, PASSES, WRITING)),
    "compile": (["net.mir", "-o", "out"], (READING, PASSES, WRITING)),
    "diff": (["net.mir", "other.mir", "-o", "out"], (READING, WRITING)),
    "dis": (["net.mbc", "-o", "out"], (WRITING,)),
    "fmt": (["ugly.mir"], (WRITING,)),
    "explain": (["net.mir"], (READING, PASSES)),
    "bisect": (["net.mir", "--test", "false"], (READING, PASSES, TESTING)),
    "reduce": (["net.mir", "--test", "true", "-o", "out"], (READING, TESTING, WRITING)),
}
NATIVE = {
    "report": (["net.mir", "--no-measure", "-o", "out"], (PASSES, WRITING)),
    "run": (["net.mir", "-o", "out.npz"], (PASSES, WRITING)),
    "bench": (["net.mir", "--json", "out"], (PASSES, "mdsl.benchmarking.measure.measure")),
    "train": (["net.mir", "--data", "data.npz", "--loss", "mse", "-o", "out.mir"], (PASSES,)),
}
"""Commands that run programs: while they do, Ctrl-C ends the process at once (`train` finishes the step)."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.mir", "other.mir"):
        Path(name).write_text(NET)
    Path("ugly.mir").write_text(NET.replace("  %", " %"))
    np.savez("data.npz", x=np.ones((8, 3), np.float32), target=np.ones((8, 3), np.float32))
    assert command(["compile", "net.mir"]) == 0
    for name in ("out", "out.npz", "out.mir"):
        Path(name).write_text("old")


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir()}


def interrupting(real: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **named)

    return called


def cases(commands: dict[str, tuple[list[str], tuple[str, ...]]]) -> Any:
    return pytest.mark.parametrize(
        ("arguments", "point"),
        [([name, *arguments], point) for name, (arguments, points) in commands.items() for point in points],
        ids=lambda value: value[0] if isinstance(value, list) else value.rpartition(".")[2],
    )


@cases(COMMANDS)
def test_a_command_ends(
    arguments: list[str], point: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    monkeypatch.setattr(point, interrupting(pkgutil.resolve_name(point)))
    assert command(arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert contents() == before


PROGRAM = """
import pkgutil, sys
from tests.cli.test_interrupt import interrupting
from mdsl.__main__ import main
point = sys.argv.pop(1)
owner, name = pkgutil.resolve_name(point.rpartition(".")[0]), point.rpartition(".")[2]
setattr(owner, name, interrupting(getattr(owner, name)))
main()
"""


@cases(NATIVE)
def test_a_command_ends_that_runs_programs(executes: None, arguments: list[str], point: str) -> None:
    before = contents()
    path = os.pathsep.join([str(ROOT), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, point, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert ran.returncode == 130
    notes = [line for line in ran.stderr.splitlines() if not line.startswith("note: no --input")]
    assert notes == ["interrupted"]
    assert contents() == before


def test_what_is_reduced_so_far_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs: list[Path] = []

    def run(script: object, path: Path) -> bool:
        runs.append(path)
        if len(runs) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return True

    monkeypatch.setattr("mdsl.report.judging.Script.run", run)
    assert command(["reduce", "net.mir", "--test", "true", "-o", "out.mir"]) == 130
    assert re.fullmatch(r"note: stopped: \d of \d ops are left: out\.mir\n", capsys.readouterr().err)
    assert mdsl.parse(Path("out.mir")).count_nested() < mdsl.parse(NET).count_nested()


def test_the_start_is_interrupted() -> None:
    """While the command is being imported."""
    code = "import os, signal, sys; sys.meta_path.insert(0, type('At', (), {'find_spec': staticmethod("
    code += "lambda name, *a: os.kill(os.getpid(), signal.SIGINT) if name == 'mdsl.cli' else None)}))\n"
    code += "from mdsl.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "ops"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert (ran.returncode, ran.stderr) == (130, "interrupted\n")
