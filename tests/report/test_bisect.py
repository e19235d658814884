"""`mdsl bisect` finds wrong rewrites that are planted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mdsl import passes
from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Builder, Op
from mdsl.ir.rewrites import rewriting
from mdsl.passes.base import Context, Pass
from mdsl.report.bisect import first_wrong

NET = """func.func @main(%x: tensor<2x3xf32>, %y: tensor<2x3xf32>) -> tensor<2x3xf32> {
  %a = nn.add %x, %y : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %b = nn.add %a, %y : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %c = nn.relu %b : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %d = nn.add %c, %x : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %e = nn.add %d, %x : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %e : tensor<2x3xf32>
}
"""


def _adds(module: ModuleOp) -> list[Op]:
    return [op for op in module.walk() if op.name == "nn.add"]


@dataclass(frozen=True)
class Commute(Pass):
    """Turns a + b into b + a, and the third into b - a."""

    name: ClassVar[str] = "commute"

    def run(self, module: ModuleOp, context: Context) -> None:
        for number, op in enumerate(_adds(module)):
            kind = nn.Sub if number == 2 else nn.Add
            op.replace_by(Builder.before(op).value(kind(*reversed(op.operands))))


@dataclass(frozen=True)
class Unsound(Pass):
    """Leaves the program wrong between two rewrites, where a value has lost its reader."""

    name: ClassVar[str] = "unsound"

    def run(self, module: ModuleOp, context: Context) -> None:
        first, second, third, last = _adds(module)
        with rewriting(first, "swap"):
            first.operands = first.operands[::-1]
        last.detach()  # until the next rewrite is done
        end = third.block
        assert end is not None and end.last is not None
        with rewriting(second, "swap"):
            second.operands = second.operands[::-1]
        with rewriting(third, "square"):
            end.insert(last, end.last)
            third.operands = [third.operands[0], third.operands[0]]


@dataclass(frozen=True)
class InPlace(Pass):
    """Changes what it does not count."""

    name: ClassVar[str] = "in-place"

    def run(self, module: ModuleOp, context: Context) -> None:
        op = _adds(module)[0]
        op.operands = [op.operands[0], op.operands[0]]


@dataclass(frozen=True)
class Invalid(Pass):
    """Makes the third addition one that the verifier refuses."""

    name: ClassVar[str] = "invalid"

    def run(self, module: ModuleOp, context: Context) -> None:
        for number, op in enumerate(_adds(module)):
            with rewriting(op, "note"):
                op.attributes["mdsl.note" if number != 2 else "note"] = StringAttr("seen")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.mir"
    path.write_text(NET)
    return path


def test_what_it_says_to_run_has_the_sizes(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Commute)
    net.write_text(NET.replace("2x3", "?x3"))
    told = mdsl("bisect", "--pass-pipeline=commute", "--bind", "x.0=2,y.0=2", net).stderr
    found = re.search(r"the program after it: mdsl (.*)", told)
    assert found and "--bind=x.0=2,y.0=2 " in found[1]
    assert " nn.sub " in mdsl(*shlex.split(found[1])).stdout


def test_a_wrong_rewrite_is_found(mdsl: Callable[..., Any], plant: Callable[..., None], net: Path) -> None:
    plant(Commute)
    ran = mdsl("bisect", "--pass-pipeline=canonicalize,commute,canonicalize", net)
    assert ran.code == 1
    lines = ran.stdout.splitlines()
    assert re.fullmatch(r"pass 2 of \d+ makes the program wrong: commute", lines[0])
    assert re.fullmatch(r"  output 'e'\[\d, \d\] is \S+ instead of \S+", lines[1])
    assert lines[2] == f"rewrite 3 of 4 does: nn.add at {net}:5:8"
    changed = [line for line in lines[3:] if re.match(r"[-+] ", line)]
    assert [line[:17] for line in changed] == ["- %d = nn.add %c,", "+ %d = nn.sub %x,"]
    # What it says to run shows the same program.
    command = re.search(r"the program after it: mdsl (.*)", ran.stderr)
    assert command and "--pass-pipeline=canonicalize,commute --rewrite-limit=3 " in command[1]
    shown = mdsl(*command[1].split()).stdout
    assert "%d = nn.sub %x, %c" in shown and "%e = nn.add %d, %x" in shown


OWN = """
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.ir.core import Builder
from mdsl.passes.base import Pass


@dataclass(frozen=True)
class SubForAdd(Pass):
    name: ClassVar[str] = "sub-for-add"
    level: ClassVar[str | None] = "nn"

    def run(self, module, context):
        for op in [op for op in module.walk() if isinstance(op, nn.Add)]:
            op.replace_by(Builder.before(op).value(nn.Sub(*op.operands), "sub"), rename=True)
"""


def test_the_command_that_it_names_loads_the_file_of_the_pass(
    mdsl: Callable[..., Any], net: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    ran = mdsl("bisect", "--load", tmp_path / "own.py", "--pass-pipeline=sub-for-add", net)
    command = re.search(r"the program after it: mdsl (.*)", ran.stderr)
    assert command and f"--load {tmp_path / 'own.py'} " in command[1]
    assert "nn.sub" in mdsl(*command[1].split()).stdout
    passes.OWN.pop("sub-for-add")
    passes.OWN_FILES.clear()


def test_a_script_says_what_is_wrong(
    mdsl: Callable[..., Any], plant: Callable[..., None], script: Callable[[str], Path], net: Path
) -> None:
    plant(Commute)
    judged = script('grep -q "nn.sub\\|arith.subf" "$1"')
    ran = mdsl("bisect", "--pass-pipeline=commute", f"--test={judged}", net)
    assert ran.code == 1 and "rewrite 3 of 4 does: nn.add" in ran.stdout
    assert "the script says so" in ran.stdout


def test_what_cannot_be_told_is_passed_over(
    mdsl: Callable[..., Any], plant: Callable[..., None], script: Callable[[str], Path], net: Path
) -> None:
    plant(Commute)
    judged = script(
        'grep -q "nn.relu" "$1" || exit 0; grep -q "nn.add %x, %d" "$1" && exit 0; grep -q nn.sub "$1" && exit 125; exit 1'
    )
    ran = mdsl("bisect", "--pass-pipeline=commute", f"--test={judged}", net)
    assert "one of its rewrites 3 to 4 of 4 does, the last of nn.add" in ran.stdout


def test_a_test_that_takes_too_long_cannot_tell(
    mdsl: Callable[..., Any], plant: Callable[..., None], script: Callable[[str], Path], net: Path
) -> None:
    plant(Commute)
    judged = script(
        'grep -q "nn.relu" "$1" || exit 0; grep -q "nn.add %x, %d" "$1" && exit 0; grep -q nn.sub "$1" && sleep 60; exit 1'
    )
    ran = mdsl("bisect", "--pass-pipeline=commute", f"--test={judged}", "--timeout=1", net)
    assert "one of its rewrites 3 to 4 of 4 does, the last of nn.add" in ran.stdout
    assert re.search(r"^note: \d tests? \w+ ended after 1 s \(--timeout\)$", ran.stderr, re.MULTILINE)


def test_a_program_between_two_rewrites_that_is_invalid_is_passed_over(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Unsound)
    ran = mdsl("bisect", "--pass-pipeline=unsound", net)
    assert ran.code == 1 and re.search(r"pass 1 of \d+ makes the program wrong: unsound", ran.stdout)
    assert "one of its rewrites 1 to 3 of 3 does, the last of square" in ran.stdout


def test_a_pass_without_counted_rewrites_is_named(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(InPlace)
    ran = mdsl("bisect", "--pass-pipeline=in-place", net)
    assert ran.code == 1 and re.search(r"pass 1 of \d+ makes the program wrong: in-place", ran.stdout)
    assert "not by one of its rewrites that are counted" in ran.stdout


def test_the_rewrite_is_found_that_makes_a_pass_fail(
    mdsl: Callable[..., Any], plant: Callable[..., None], net: Path
) -> None:
    plant(Invalid)
    ran = mdsl("bisect", "--pass-pipeline=canonicalize,invalid", net)
    assert ran.code == 1 and re.search(r"pass 2 of \d+ makes the program wrong: invalid", ran.stdout)
    assert "made an invalid program: 'nn.add': has no attribute 'note'" in ran.stdout
    assert "rewrite 3 of 4 does: note at" in ran.stdout


def test_passes_that_are_right_are_acquitted(mdsl: Callable[..., Any], net: Path) -> None:
    ran = mdsl("bisect", net)
    assert ran.code == 0 and re.fullmatch(r"none of \d+ passes makes the program wrong\n", ran.stdout)


def test_a_program_that_is_wrong_from_the_start_is_an_error(
    mdsl: Callable[..., Any], script: Callable[[str], Path], net: Path
) -> None:
    ran = mdsl("bisect", f"--test={script('exit 0')}", net)
    assert ran.code == 1 and "the program is wrong before any pass has run" in ran.stderr
    assert "cannot run './nothing'" in mdsl("bisect", "--test=./nothing", net).stderr
    assert "expected a command" in mdsl("bisect", "--test=", net).stderr


@pytest.mark.parametrize("wrong_from", [1, 2, 7, 10])
@pytest.mark.parametrize("unknown", [set[int](), {5}, {1, 2}, {6, 7, 8}])
def test_bisection_narrows_as_far_as_can_be_told(wrong_from: int, unknown: set[int]) -> None:
    asked: list[int] = []

    def judge(number: int) -> str | None:
        asked.append(number)
        return None if number in unknown else "wrong" if number >= wrong_from else ""

    right, wrong = first_wrong(0, 10, judge)
    assert right < wrong_from <= wrong
    assert all(n in unknown for n in range(right + 1, wrong))
    assert len(asked) <= 4 + len(unknown)


def test_passes_for_a_target_that_is_not_here_are_judged(
    mdsl: Callable[..., Any], net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDSL_HOST", "avx2")
    ran = mdsl("bisect", "--target=neon", net)
    assert ran.code == 0 and "none of" in ran.stdout
    assert "note: code for neon does not run here: the bytecode is not compared" in ran.stderr
