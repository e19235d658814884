"""Where `-o` may lead: a file, a pipe, stdout under each of its names; every command that has it."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import typer.main

from mdsl.cli import app, command

NET = """func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %y = nn.relu %x : (tensor<2x3xf32>) -> tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}
"""

COMMANDS = {
    "compile": ["net.mir"],
    "diff": ["net.mir", "other.mir"],
    "dis": ["net.mbc"],
    "opt": ["net.mir", "--lower-nn"],
    "reduce": ["net.mir", "--test", "grep -q func.func"],
    "report": ["net.mir", "--no-measure"],
    "run": ["net.mir", "--input", "0.5"],
}
"""What each writes that `-o` says where."""

OTHERS = [
    ["opt", "net.mir", "--lower-nn", "--diff"],
    ["opt", "net.mir", "--lower-nn", "--diff=json"],
    ["compile", "net.mir", "--emit=mir"],
    ["compile", "net.mir", "--emit=asm", "--target=avx2"],
    ["compile", "net.mir", "--compile-to=tiled"],
]
SUFFIXES = {"run": ".npz"}

CASES = [[name, *COMMANDS[name]] for name in COMMANDS] + OTHERS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.mir").write_text(NET)
    Path("other.mir").write_text(NET.replace("relu", "tanh"))
    assert command(["compile", "net.mir"]) == 0


def to_file(arguments: list[str]) -> bytes:
    path = Path(f"written{SUFFIXES.get(arguments[0], '')}")
    assert command([*arguments, "-o", str(path)]) == 0
    return plain(path.read_bytes())


def to_pipe(arguments: list[str]) -> bytes:
    found: list[bytes] = []
    os.mkfifo("pipe")
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_bytes()), daemon=True)
    reader.start()
    assert command([*arguments, "-o", "pipe"]) == 0
    reader.join(10)
    assert found, "nothing was written"
    return plain(found[0])


def plain(data: bytes) -> bytes:
    """Without what is another in each run: the time in an archive, and of passes, which the page of a report has packed."""
    if not data.startswith(b"PK"):
        return re.sub(rb"[A-Za-z0-9+/=]{200,}", b"", data)
    with np.load(io.BytesIO(data)) as arrays:
        return b"".join(name.encode() + array.tobytes() for name, array in arrays.items())


def test_every_command_with_an_output_is_here() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    having = {name for name, c in commands.items() if any("-o" in p.opts for p in c.params)}
    assert having == {*COMMANDS, "import", "train"}


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_a_pipe_gets_what_a_file_gets(arguments: list[str]) -> None:
    assert to_pipe(arguments) == to_file(arguments)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_stdout_gets_what_a_file_gets(
    arguments: list[str], name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Also where it is a file, in which something stands already."""
    expected = to_file(arguments)
    Path("link").symlink_to("/dev/stdout")
    before = sorted(path.name for path in Path().iterdir())
    capfdbinary.readouterr()
    print("said before")
    assert command([*arguments, "-o", name]) == 0
    sys.stdout.flush()
    out, err = capfdbinary.readouterr()
    assert out.startswith(b"said before\n") and plain(out.removeprefix(b"said before\n")) == expected
    assert b"error" not in err and Path("link").is_symlink()
    assert sorted(path.name for path in Path().iterdir()) == before


def test_weights_follow_the_text(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    data = "".join(f"{n:02X}00803F" for n in range(64))
    Path("net.mir").write_text(
        "func.func @main() -> tensor<64xf32> {\n  %w = arith.constant dense_resource<w> : tensor<64xf32>\n"
        f'  return %w : tensor<64xf32>\n}}\n{{-# dialect_resources: {{ builtin: {{ w: "0x04000000{data}" }} }} #-}}\n'
    )
    for name in ("-", "/dev/stdout"):
        assert command(["opt", "net.mir", "-o", name]) == 0
        assert capfdbinary.readouterr().out.count(b"dialect_resources") == 1
    assert not list(Path().glob("*.safetensors"))


def test_training_has_checkpoints_which_are_files(capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (
        ("/dev/stdout", "expected a .safetensors file"),
        ("c.safetensors", "cannot go into a pipe"),
    ):
        if name.startswith("c"):
            os.mkfifo(name)
        assert command(["train", "net.mir", "--data", "data.npz", "--loss", "mse", "-o", name]) == 1
        assert message in capsys.readouterr().err


def test_a_descriptor_that_is_not_open_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["opt", "net.mir", "-o", "/dev/fd/987"]) == 1
    assert capsys.readouterr().err == "/dev/fd/987: error: cannot write: Bad file descriptor\n"
