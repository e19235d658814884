"""The editors know the language that the declarations make: nothing generated has drifted, and it highlights."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from pygments.token import Comment, Error, Keyword, Name, Number, String

from mdsl.ir.registry import operations
from mdsl.tools import editors
from mdsl.tools.pygments_lexer import MirLexer

ROOT = Path(__file__).parents[2]
EDITORS = ROOT / "editors"
PROGRAMS = sorted(p for folder in ("examples", "tests") for p in (ROOT / folder).rglob("*.mir"))
SAMPLE = """\
// a comment
func.func private @main(%x: tensor<4x?xf32>, %y.1: memref<2xi8, strided<[1], offset: ?>>) -> f32 {
  %a = "arith.constant"() {value = 1.5e-3 : f32, flag} : () -> f32
  %b = linalg.nothing ins(%a : f32)
  scf.forall.in_parallel {
    ^bb0(%in: i1):
  }
  return %a : f32
}
"""


def test_generated_files_are_current() -> None:
    for path, text in editors.generated().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} has drifted: run 'make editors'"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_pygments_knows_every_program(path: Path) -> None:
    text = path.read_text()
    tokens = list(MirLexer(ensurenl=False, stripnl=False).get_tokens(text))
    assert "".join(value for _, value in tokens) == text
    assert [value for kind, value in tokens if kind is Error] == []


def test_pygments_tokens() -> None:
    found: dict[str, object] = {}
    for kind, value in MirLexer().get_tokens(SAMPLE):
        found.setdefault(value, kind)
    expected = {
        "// a comment": Comment.Single,
        "func.func": Name.Function,
        "private": Name,
        "@main": Name.Label,
        "%x": Name.Variable,
        "%y.1": Name.Variable,
        "tensor": Keyword.Type,
        "4x?x": Number.Integer,
        "f32": Keyword.Type,
        "i8": Keyword.Type,
        "strided": Keyword,
        '"arith.constant"': Name.Function,
        "value": Name.Attribute,
        "1.5e-3": Number,
        "linalg.nothing": Name,  # no such op
        "ins": Keyword,
        "scf.forall.in_parallel": Name.Function,
        "^bb0": Name.Label,
        "return": Keyword,
    }
    assert {word: found.get(word) for word in expected} == expected
    assert String.Double not in found.values()


def test_pygments_is_registered() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points."pygments.lexers"]\nmir = "mdsl.tools.pygments_lexer:MirLexer"' in text


def test_the_vscode_extension_is_whole() -> None:
    package = json.loads((EDITORS / "vscode/package.json").read_text())
    for field in ("name", "version", "publisher", "engines"):
        assert field in package
    assert package["license"] == "Apache-2.0"
    assert (EDITORS / "vscode/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    language, grammar = package["contributes"]["languages"][0], package["contributes"]["grammars"][0]
    json.loads((EDITORS / "vscode" / language["configuration"]).read_text())
    assert json.loads((EDITORS / "vscode" / grammar["path"]).read_text())["scopeName"] == grammar["scopeName"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None or shutil.which("node") is None, reason="needs node and npm")
def test_textmate_grammar(tmp_path: Path) -> None:
    shutil.copytree(EDITORS / "vscode/test", tmp_path, dirs_exist_ok=True)
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"], cwd=tmp_path, capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip(f"npm cannot install the tokenizer: {installed.stderr.strip().splitlines()[-1:]}")
    sample = tmp_path / "sample.mir"
    sample.write_text(SAMPLE + "".join(f"{name} // {name}\n" for name in operations()))
    grammar = EDITORS / "vscode/syntaxes/mir.tmLanguage.json"
    done = subprocess.run(
        ["node", "tokenize.js", str(grammar), str(sample)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = {}
    for line in json.loads(done.stdout):
        for text, scopes in line:
            found.setdefault(text, scopes[-1] if scopes else "")
    expected = {
        "// a comment": "comment.line.double-slash.mir",
        "@main": "entity.name.function.mir",
        "%x": "variable.other.value.mir",
        "%y.1": "variable.other.value.mir",
        "tensor": "storage.type.mir",
        "4x?x": "storage.type.dimensions.mir",
        "f32": "storage.type.mir",
        '"arith.constant"': "support.function.operation.mir",
        "value": "entity.other.attribute-name.mir",
        "1.5e-3": "constant.numeric.mir",
        "ins": "keyword.other.mir",
        "^bb0": "entity.name.label.mir",
        "return": "keyword.control.return.mir",
        **dict.fromkeys(operations(), "support.function.operation.mir"),
    }
    assert {word: found.get(word) for word in expected} == expected
    assert "linalg.nothing" not in {
        word for word, scope in found.items() if scope == "support.function.operation.mir"
    }


@pytest.mark.skipif(shutil.which("vim") is None, reason="needs vim")
def test_vim_syntax(tmp_path: Path) -> None:
    sample = tmp_path / "sample.mir"
    sample.write_text(SAMPLE)
    words = [
        "a comment",
        "func.func",
        "@main",
        "%x",
        "tensor",
        "arith.constant",
        "value",
        "1.5e-3",
        "ins",
        "scf.forall",
        "^bb0",
    ]
    script = tmp_path / "check.vim"
    script.write_text(
        f"set nocompatible\nset runtimepath^={EDITORS}/vim\nfiletype on\nsyntax on\nedit {sample}\nlet found = []\n"
        + "".join(
            f"call cursor(1, 1)\ncall search('\\V{word}', 'c')\n"
            "call add(found, synIDattr(synID(line('.'), col('.'), 1), 'name'))\n"
            for word in words
        )
        + f"call writefile(found, '{tmp_path}/found')\nqall!\n"
    )
    subprocess.run(
        ["vim", "-N", "-u", "NONE", "-es", "-S", str(script)],
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    groups = [
        "Comment",
        "Operation",
        "Symbol",
        "Value",
        "Type",
        "Operation",
        "Attribute",
        "Number",
        "Word",
        "Operation",
        "Label",
    ]
    assert (tmp_path / "found").read_text().split() == [f"mir{group}" for group in groups]
