"""Passes of a test's own, registered while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mdsl import passes
from mdsl.cli import command
from mdsl.passes.base import Pass

Plant = Callable[[type[Pass]], None]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Registers a pass: `--its-name` runs it."""
    load = passes._load

    def register(declaration: type[Pass]) -> None:
        known[declaration.name] = declaration
        monkeypatch.setitem(passes.PASSES, declaration.name, "any")

    known: dict[str, type[Pass]] = {}
    monkeypatch.setattr(passes, "_load", lambda name: known.get(name) or load(name))
    return register


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a shell script with the given body, which can be executed."""

    def write(body: str) -> Path:
        path = tmp_path / "script.sh"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


class Ran:
    """What a command wrote, and its exit code."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


@pytest.fixture
def mdsl(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> Ran:
        capsys.readouterr()
        code = command([str(a) for a in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
