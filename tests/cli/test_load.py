"""Passes of one's own: `--load`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mdsl
from mdsl import passes
from mdsl.cli import command
from mdsl.errors import MdslError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-pass.md").read_text(encoding="utf-8")
T = "tensor<4xf32>"
NET = f"""func.func @main(%x: {T}) -> {T} {{
  %y = nn.relu %x : ({T}) -> {T}
  return %y : {T}
}}
"""
OWN = '''from dataclasses import dataclass
from typing import ClassVar
from mdsl.dialects import nn
from mdsl.ir.core import Builder
from mdsl.passes.base import Pass, option

@dataclass(frozen=True)
class Twice(Pass):
    """Do each relu more than once."""
    name: ClassVar[str] = "twice"
    level: ClassVar[str | None] = "nn"
    times: int = option(2, "How often.")

    def run(self, module, context):
        for op in module.walk():
            if op.name == "nn.relu":
                value = op.operands[0]
                for _ in range(self.times):
                    value = Builder.before(op).value(nn.Relu(value), "again")
                op.replace_by(value)
'''


def forget() -> None:
    """What a command loads stays loaded in its process."""
    passes.OWN.clear()
    passes.OWN_FILES.clear()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a program and a pass; what a test loads is forgotten."""
    monkeypatch.chdir(tmp_path)
    forget()
    (tmp_path / "net.mir").write_text(NET)
    (tmp_path / "own.py").write_text(OWN)
    yield tmp_path
    forget()


def run(capfd: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    """What a command prints, on stderr if it fails."""
    found = command(list(args))
    shown = capfd.readouterr()
    assert found == code, shown.err
    return shown.err if code else shown.out


def test_the_page_shows_the_file_and_its_diff(capfd: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (diff,) = re.findall(r"^```diff\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    file = ROOT / "examples" / "mul_for_div.py"
    assert code == file.read_text(encoding="utf-8")
    net = str(ROOT / "examples" / "mnist" / "mlp.mir")
    assert run(capfd, "opt", "--load", str(file), "--mul-for-div", "--diff", net) == diff


def test_the_pages_pass_computes_nearly_the_same() -> None:
    mdsl.load_passes(ROOT / "examples" / "mul_for_div.py")
    net = ROOT / "examples" / "mnist" / "mlp.mir"
    image = np.random.default_rng(0).random((1, 784), np.float32)
    changed = mdsl.compile(net, pipeline="mul-for-div")(image)
    np.testing.assert_allclose(changed, mdsl.compile(net)(image), atol=1e-5)


def test_a_flag_with_its_value_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "opt", "--load", "own.py", "--twice=3", "net.mir").count("nn.relu") == 3
    assert run(capfd, "opt", "--load=own.py", "--twice", "net.mir").count("nn.relu") == 2
    shown = run(capfd, "opt", "--load", "own.py", "--help")
    assert re.search(r"--twice\[=TIMES\] +Do each relu more than once. times: How\s+often", shown)


def test_in_a_pipeline_of_several_files(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "other.py").write_text(OWN.replace("twice", "thrice").replace("option(2", "option(3"))
    given = ("--load", "own.py", "--load", "other.py", "net.mir")
    shown = run(capfd, "opt", "--pass-pipeline", "twice,thrice", *given)
    assert shown.count("nn.relu") == 6
    run(capfd, "run", "--pass-pipeline", "twice", *given)
    run(capfd, "compile", "--pass-pipeline", "thrice", *given, "-o", "net.mbc")
    assert (place / "net.mbc").exists()


def test_a_changed_file_is_loaded_anew(place: Path) -> None:
    mdsl.load_passes("own.py")
    assert str(mdsl.opt(NET, "twice")).count("nn.relu") == 2
    (place / "own.py").write_text(OWN.replace("option(2", "option(5"))
    mdsl.load_passes("own.py")
    assert str(mdsl.opt(NET, "twice")).count("nn.relu") == 5
    assert len(passes.OWN_FILES) == 1


WRONG = {
    "syntax": (OWN.replace("in module.walk():", "in module.walk()"), "own.py:15:32: error: expected ':'"),
    "import": (OWN.replace("import nn", "import nnn"), "own.py:3:1: error: ImportError: "),
    "run": (OWN.replace("op.operands[0]", "op.operand[0]"), "own.py:17:25: error: pass 'twice': AttributeError: "),
    "an exit of a pass": (OWN.replace("in module.walk():", "in [exit(0)]:"), "error: pass 'twice': SystemExit: 0"),
    "an exit": (OWN + "exit(0)\n", "error: SystemExit: 0"),
    "no pass": ("x = 1\n", "own.py: error: the file defines no pass"),
    "no name": (OWN.replace("name: ClassVar[str] =", "called ="), "own.py:8:1: error: class Twice: a pass has a name"),
    "a name that is taken": (OWN.replace('"twice"', '"tile"'), "there is a pass 'tile' already"),
    "a name of an option": (OWN.replace('"twice"', '"timing"'), "pass 'timing' is named as an option is"),
    "no level": (OWN.replace('"nn"\n', '"nnn"\n'), "'nnn' is no level"),
    "no dataclass": (OWN.replace("@dataclass(frozen=True)\n", ""), "a pass is a dataclass"),
    "no default": (OWN.replace('option(2, "How often.")', "option(2, 'x')").replace("times: int = option(2, 'x')", "times: int"),
                   "each option of a pass has a default"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_in_the_file_have_their_line(
    name: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, message = WRONG[name]
    (place / "own.py").write_text(text)
    flag = "--timing" if "option" in name else "--twice"
    shown = run(capfd, "opt", "--load", "own.py", flag, "net.mir", code=1)
    assert message in shown
    assert "Traceback" not in shown


def test_a_file_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    assert "gone.py: error: cannot read" in run(
        capfd, "opt", "--load", "gone.py", "--twice", "net.mir", code=1
    )
    assert "--load takes a Python file" in run(capfd, "opt", "net.mir", "--load", code=1)
    assert "no option or pass '--twice'" in run(capfd, "opt", "--twice", "net.mir", code=1)
    with pytest.raises(MdslError, match="cannot read"):
        mdsl.load_passes("gone.py")
