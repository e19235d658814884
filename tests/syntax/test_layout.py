"""`mdsl fmt`: the layout of a text changes, its meaning and what its author chose do not."""

from __future__ import annotations

import io
import random
import re
import sys
from pathlib import Path

import pytest

from mdsl.cli import command
from mdsl.errors import MdslError, Source
from mdsl.syntax import layout
from mdsl.syntax.layout import formatted
from mdsl.syntax.parser import parse, parse_file
from mdsl.syntax.printer import print_module

ROOT = Path(__file__).parents[2]
FILES = sorted(
    f
    for folder in ("docs", "examples", "tests")
    for f in (ROOT / folder).rglob("*.mir")
    if "findings" not in f.parts
)


def fmt(text: str) -> str:
    return formatted(Source("net.mir", text))


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_every_program_of_the_repository(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    once = fmt(text)
    assert fmt(once) == once
    assert re.findall("//.*?(?= *$)", once, re.MULTILINE) == re.findall("//.*?(?= *$)", text, re.MULTILINE)
    assert not [line for line in once.splitlines() if len(line) > layout.WIDTH and "//" not in line]
    if file.is_relative_to(ROOT / "docs") or file.is_relative_to(ROOT / "tests" / "passes"):
        assert print_module(parse(once), generic=True) == print_module(parse(text), generic=True)


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_what_is_printed_is_laid_out_well(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the width of lines, which the printer does not limit."""
    monkeypatch.setattr(layout, "WIDTH", 1 << 30)
    printed = print_module(parse_file(file))
    assert fmt(printed) == printed


def test_the_repository_is_laid_out(capsys: pytest.CaptureFixture[str]) -> None:
    tracked = (ROOT / folder for folder in ("bench", "docs", "examples", "tests"))
    files = [f for folder in tracked for f in folder.rglob("*.mir") if "findings" not in f.parts]
    assert len(files) > 100
    assert command(["fmt", "--check", *map(str, files)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_however_a_text_is_spaced(seed: int) -> None:
    text = (ROOT / "docs" / "ops.mir").read_text(encoding="utf-8")
    plain = "\n".join(
        line.partition("//")[0].strip() for line in text.splitlines() if line.partition("//")[0].strip()
    )
    chosen = random.Random(seed)
    # Between an op's words any space may stand; a blank line between ops is the author's.
    spaced = re.sub(r" ", lambda _: chosen.choice([" ", "  ", "\t"]), plain)
    assert fmt(spaced) == fmt(plain)


def test_the_generic_form_stays_and_is_laid_out_as_it_is_printed() -> None:
    generic = print_module(parse_file(ROOT / "examples" / "matmul.mir"), generic=True)
    assert fmt(re.sub(r"\n *", " ", generic)) == fmt(generic)
    assert '"func.func"() ({\n' in fmt(generic)


MESSY = """


// The head.

#id   =   affine_map<(row,col)->(row,-col+2)>
!t = tensor< 4x4xf32 >


func.func @main( %x:!t,%other : tensor<4x4xf32> {mdsl.name="x"} )->!t { // opens
   // before the first

   %0   = nn.relu   %x:(!t)->!t   // behind


   // alone

   %a,%b="my.thing"(%0)   {a=[1,2 , 3],b}   :(!t)->(!t,!t)
   %c:2 = nn.split   // in the midst
      %a
      // also in the midst
      {axis=0}:(!t)->(!t,!t) loc("net.onnx":1:2)
   %d = linalg.generic {indexing_maps=[#id,#id],iterator_types=["parallel","parallel"]} ins(%x:!t) outs(%x:!t) {
   ^bb0( %p:f32 , %q:f32 ):  // the label
   linalg.yield %p:f32 } -> !t
   return %c#1:!t
   // last in the region
}
// The end.
"""
NEAT = """// The head.

#id = affine_map<(row, col) -> (row, -col + 2)>
!t = tensor<4x4xf32>

func.func @main(%x: !t, %other: tensor<4x4xf32> {mdsl.name = "x"}) -> !t { // opens
  // before the first

  %0 = nn.relu %x : (!t) -> !t // behind

  // alone

  %a, %b = "my.thing"(%0) {a = [1, 2, 3], b} : (!t) -> (!t, !t)
  %c:2 = nn.split // in the midst
      %a
      // also in the midst
      {axis = 0} : (!t) -> (!t, !t) loc("net.onnx":1:2)
  %d = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%x : !t) outs(%x : !t) {
  ^bb0(%p: f32, %q: f32): // the label
    linalg.yield %p : f32
  } -> !t
  return %c#1 : !t
  // last in the region
}
// The end.
"""


def test_comments_names_aliases_and_locations_stay() -> None:
    assert fmt(MESSY) == NEAT
    assert fmt(NEAT) == NEAT


@pytest.mark.parametrize(
    ("text", "neat"),
    [
        ("", ""),
        ("\n\n", ""),
        ("// only a comment", "// only a comment\n"),
        ("func.func @f(){return}", "func.func @f() {\n  return\n}\n"),
        ("func.func @f() { // a\n\n  return\n\n}\n\n\n", "func.func @f() { // a\n  return\n}\n"),
        ("module{}", "module {\n}\n"),
        ("module attributes{a.b}{}", "module attributes {a.b} {\n}\n"),
        ('"builtin.module"()({}):()->()', '"builtin.module"() ({}) : () -> ()\n'),
        (
            "%x=arith.constant dense<[[1.0e-5,2.5]]>:tensor<1x2xf32>%y=arith.constant array<i64:1,2>",
            "%x = arith.constant dense<[[1.0e-5, 2.5]]> : tensor<1x2xf32>\n%y = arith.constant array<i64: 1, 2>\n",
        ),
    ],
)
def test_small_texts(text: str, neat: str) -> None:
    assert fmt(text) == neat
    assert fmt(neat) == neat


def test_a_text_with_wrong_syntax_has_all_its_errors() -> None:
    with pytest.raises(MdslError) as caught:
        fmt("func.func @f() {\n  return ;\n}\nfunc.func @g() {\n  return ;\n}\n")
    assert len(caught.value.errors) == 2


def test_the_command_rewrites_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    messy, neat, broken = tmp_path / "a.mir", tmp_path / "b.mir", tmp_path / "broken.mir"
    messy.write_text(MESSY)
    neat.write_text(NEAT)
    stamp = neat.stat().st_mtime_ns
    assert command(["fmt", "--check", str(tmp_path)]) == 1
    assert "a.mir: not formatted" in capfd.readouterr().err
    assert command(["fmt", "--diff", str(messy)]) == 0
    assert "+%a" not in capfd.readouterr().out
    assert messy.read_text() == MESSY
    broken.write_text("func.func @f( {\n")
    assert command(["fmt", str(tmp_path)]) == 1
    assert "broken.mir:1:" in capfd.readouterr().err
    assert (messy.read_text(), broken.read_text()) == (NEAT, "func.func @f( {\n")
    assert neat.stat().st_mtime_ns == stamp
    assert command(["fmt", "--check", str(messy), str(neat)]) == 0
    assert command(["fmt", str(tmp_path / "gone.mir")]) == 1


def test_an_editor_formats_through_pipes(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def given(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    given(MESSY.replace("\n", "\r\n"))
    assert command(["fmt", "-"]) == 0
    assert capfd.readouterr().out == NEAT
    given("%x = ;")
    assert command(["fmt", "-"]) == 1
    shown = capfd.readouterr()
    assert not shown.out
    assert shown.err.startswith("<stdin>:1:")


@pytest.mark.parametrize("name", ["matmul.mir", "kernel.mir", "mnist"])
def test_the_examples_are_laid_out_well(name: str) -> None:
    assert command(["fmt", "--check", str(ROOT / "examples" / name)]) == 0
