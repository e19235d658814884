"""`mdsl fmt --custom`: ops of the generic form get the custom one, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdsl.cli import command
from mdsl.errors import Source
from mdsl.syntax import layout
from mdsl.syntax.custom import customized
from mdsl.syntax.layout import formatted
from mdsl.syntax.parser import parse, parse_file
from mdsl.syntax.printer import print_module

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "docs" / "ops.mir", *sorted((ROOT / "tests" / "syntax").glob("*.mir"))]


def custom(text: str) -> str:
    return formatted(Source("net.mir", customized(Source("net.mir", text))))


@pytest.mark.parametrize("file", FILES, ids=[f.name for f in FILES])
def test_what_is_printed_in_the_generic_form_is_printed_in_the_custom_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "WIDTH", 1 << 30)
    text = "".join(print_module(op, generic=True) for op in parse_file(file).body.ops)
    assert custom(text) == "".join(print_module(op) for op in parse(text, folder=file.parent).body.ops)


BEFORE = """\
// what it is for
!row = tensor<4xf32>
#same = affine_map<(d0) -> (d0)>

func.func @main(%x: tensor<4xf32>, %n: index, %b: i1) -> tensor<4xf32> {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index  // the step

  // a loop
  %y = "scf.for"(%zero, %n, %one, %x) ({
  // its counter
  ^body(%i: index, %sum: tensor<4xf32>):
    %new = "nn.add"(%sum,   %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> // one more
    scf.yield %new : tensor<4xf32>
    // the end
  }) : (index, index, index, tensor<4xf32>) -> tensor<4xf32> loc("here":1:2)
  scf.for %i = %zero to %n step %one {
    %new = "nn.relu"(%x) : (tensor<4xf32>) -> tensor<4xf32>
    "scf.yield"() : () -> ()
  }
  %kept = "nn.relu"(%y) : (!row) -> !row
  %commented = "nn.relu"(  // why
      %y) : (tensor<4xf32>) -> tensor<4xf32>
  %pair:2 = "scf.if"(%b) ({
    scf.yield %kept, %y : tensor<4xf32>, tensor<4xf32>
  }, {
    "scf.yield"(%y, %commented) : (tensor<4xf32>, tensor<4xf32>) -> ()
  }) : (i1) -> (tensor<4xf32>, tensor<4xf32>)
  %z = "nn.add"(%pair#1, %pair#0) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %z : tensor<4xf32>
}
"""


AFTER = """\
// what it is for
!row = tensor<4xf32>
#same = affine_map<(d0) -> (d0)>

func.func @main(%x: tensor<4xf32>, %n: index, %b: i1) -> tensor<4xf32> {
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index // the step

  // a loop
  %y = scf.for %i = %zero to %n step %one iter_args(%sum = %x) -> (tensor<4xf32>) {
    // its counter

    %new = nn.add %sum, %x : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> // one more
    scf.yield %new : tensor<4xf32>
    // the end
  } loc("here":1:2)
  scf.for %i = %zero to %n step %one {
    %new = nn.relu %x : (tensor<4xf32>) -> tensor<4xf32>
    scf.yield
  }
  %kept = "nn.relu"(%y) : (!row) -> !row
  %commented = "nn.relu"( // why
      %y) : (tensor<4xf32>) -> tensor<4xf32>
  %pair:2 = scf.if %b -> (tensor<4xf32>, tensor<4xf32>) {
    scf.yield %kept, %y : tensor<4xf32>, tensor<4xf32>
  } else {
    scf.yield %y, %commented : tensor<4xf32>, tensor<4xf32>
  }
  %z = nn.add %pair#1, %pair#0 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %z : tensor<4xf32>
}
"""


def test_comments_names_aliases_and_places_stay() -> None:
    assert custom(BEFORE) == AFTER


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.mir"
    net.write_text(BEFORE)
    assert command(["fmt", "--custom", "--check", str(net)]) == 1
    assert command(["fmt", "--custom", str(net)]) == 0
    assert net.read_text() == AFTER
    net.write_text(BEFORE.replace("%n, %one", "%m, %one"))
    assert command(["fmt", "--custom", str(net)]) == 1
    assert "net.mir:10:25: error: %m is not defined" in capsys.readouterr().err
