"""What comes from files reaches a terminal, or a pipe that may lead to one, escaped; IR still parses again."""

from __future__ import annotations

import io
import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest

import mdsl
from mdsl.bytecode.encode import save
from mdsl.bytecode.module import Function, Instruction, Module, TensorSpec
from mdsl.cli import command
from mdsl.cli.tables import table
from mdsl.cli.terminal import escaping, styled
from mdsl.errors import MdslError
from mdsl.support.escapes import escaped, one_line
from mdsl.syntax.parser import parse

HOSTILE = "\x1b]0;title\x07 \x9b2J \u202e \r \nfunction @forged"
NAME = r"\1B]0;title\07 \C2\9B2J \E2\80\AE \0D \0Afunction @forged"


def shows_nothing_hostile(text: str) -> bool:
    return escaped(text) == text and not any(
        line.startswith("function @forged") for line in text.splitlines()
    )


@pytest.fixture
def bytecode(tmp_path: Path) -> str:
    spec = TensorSpec(HOSTILE, "f32", (4,))
    main = Function(HOSTILE, (spec,), (spec,), (), 0, [Instruction("ret")], (HOSTILE,))
    save(Module([main], [], [], {HOSTILE: HOSTILE}), tmp_path / "x.mbc")
    return str(tmp_path / "x.mbc")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "x.mir"
    path.write_text(
        f'func.func @"{NAME}"(%x: tensor<4xf32> {{mdsl.name = "{NAME}"}}) -> (tensor<4xf32> {{mdsl.name = "{NAME}"}}) '
        f'attributes {{"{NAME}" = "{NAME}"}} {{\n  %y = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32> loc("{NAME}")\n'
        "  %z = nn.relu %y : (tensor<4xf32>) -> tensor<4xf32>\n  return %z : tensor<4xf32>\n}\n"
    )
    return str(path)


@pytest.mark.parametrize(
    "arguments", [["dis"], ["run"], ["run", "--input", "nobody=1"], ["bench", "--quick"]]
)
def test_names_in_bytecode(bytecode: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command([arguments[0], bytecode, *arguments[1:]])
    out, err = capsys.readouterr()
    assert out + err and shows_nothing_hostile(out) and shows_nothing_hostile(err)


@pytest.mark.parametrize(
    "arguments",
    [["opt"], ["opt", "--generic"], ["opt", "--canonicalize", "--diff"], ["opt", "--lower-nn", "--diff"], ["run"],
     ["opt", "--tile", "--print-ir-after-all"], ["compile", "-o", "-", "--emit", "vm"]],
)  # fmt: skip
def test_names_in_text(text: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command([arguments[0], text, *arguments[1:]])
    out, err = capsys.readouterr()
    assert out + err and shows_nothing_hostile(out) and shows_nothing_hostile(err)
    if arguments == ["opt"]:
        printed, read = parse(out), mdsl.parse(Path(text))
        assert str(printed) == str(read)
        assert printed.body.ops[0].attributes[HOSTILE].value == HOSTILE  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "program",
    [
        f'// \x1b[2J\nfunc.func @"{NAME}" {{\n',
        f'func.func @f() {{\n  func.call @"{NAME}"() : () -> ()\n  return\n}}',
        f'%w = arith.constant dense_resource<"{NAME}"> : tensor<2xf32>',
        "%w = arith.constant \x1b[2J : tensor<2xf32>",
        "module attributes {x.a = !a.b<\x1b[2J>} {}",
        'module attributes {x.a = "\x1b[2J" "}',
        f'module attributes {{"{NAME}" = 1, "{NAME}" = 2}} {{}}',
    ],
)
def test_errors(program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.mir"
    path.write_text(program)
    assert command(["opt", str(path)]) == 1
    out, err = capsys.readouterr()
    assert not out and "error:" in err and shows_nothing_hostile(err)
    _, source, marks = err.splitlines()
    assert len(marks) <= len(source) + 1


def test_the_caret_stands_under_what_is_escaped() -> None:
    with pytest.raises(MdslError) as found:
        parse('module attributes {a = "\x1b\x1b", b = oops} {}')
    _, source, marks = str(found.value).splitlines()
    assert source[marks.index("^") :].startswith("oops")


def test_names_of_weights_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x\x1b[2J.mir"
    path.write_text("%w = arith.constant dense_resource<w> : tensor<2xf32>")
    header = json.dumps(
        {"v\x1b[2J\nfunction @forged": {"dtype": "\x1b", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    (tmp_path / "x\x1b[2J.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    for name in (path, tmp_path / "none\x1b[2J.mir", tmp_path / "none\x1b.mbc", tmp_path / "none\x1b.onnx"):
        assert command(["run", str(name)]) == 1
        out, err = capsys.readouterr()
        assert "error:" in err and shows_nothing_hostile(out + err)


def test_json_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with escaping():
        table(["name", "figure"], [[HOSTILE, "1"]])
    out, _ = capsys.readouterr()
    assert shows_nothing_hostile(out) and len(out.splitlines()) == 2


EXAMPLE = Path(__file__).parents[2] / "examples" / "passes" / "fuse.mir"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def colour_screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes stdout a terminal that has colours."""
    found = Terminal()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


@pytest.mark.parametrize("form", ["structural", "unified", "side", "stat"])
def test_colours_change_no_text(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = colour_screen(monkeypatch)
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ["opt", str(EXAMPLE), "--fuse", f"--diff={form}"]
    command(arguments)
    shown = screen.getvalue()
    command([*arguments, "-o", str(tmp_path / "plain")])
    plain = (tmp_path / "plain").read_text()
    assert "\x1b[" in shown and "\x1b[" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == plain
    for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            screen.truncate(screen.seek(0))
            command(arguments)
            assert screen.getvalue() == plain


def test_words_stand_out_within_the_colour_of_their_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = colour_screen(monkeypatch)
    command(["opt", str(EXAMPLE), "--fuse", "--diff"])
    shown = screen.getvalue()
    assert re.search(r"\x1b\[31m- %y = \x1b\[0m\x1b\[31;1mlinalg\.generic\x1b\[0m", shown)
    assert re.search(r"\x1b\[32;2m.*tensor<", shown)
    assert re.search(r"\x1b\[36m> ", shown)


def test_colours_of_ours_stay(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = colour_screen(monkeypatch)
    command(["opt", text, "--lower-nn", "--diff"])
    found = screen.getvalue()
    assert "\x1b[" in found and "]0;title\x07" not in found
    screen.truncate(screen.seek(0))
    with escaping():
        table(["name", "figure"], [["[red]x\x1b[2J", "1"]])
        assert styled(sys.stdout) is screen
    assert "[red]x" in screen.getvalue() and "\x1b[2J" not in screen.getvalue()


def test_every_character() -> None:
    for code in range(0x10000):
        character = chr(code)
        hides = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        turns = unicodedata.bidirectional(character) in (
            "LRE",
            "RLE",
            "LRO",
            "RLO",
            "PDF",
            "LRI",
            "RLI",
            "FSI",
            "PDI",
        )
        if (hides or turns) and character != "\t":
            assert one_line(character).isascii() and one_line(character).isprintable()
            assert (escaped(character) == character) == (character == "\n")
    assert all(escaped(c) == c for c in "aé漢😀\t\n\xa0")
