"""All errors of a text at once, without those that only follow from others."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import mdsl
from mdsl.errors import MdslError, SyntaxError_
from mdsl.syntax.parser import parse

T = "tensor<4xf32>"

# Each text marks the places of its errors with «; there must be no others.
TABLE = {
    "names and operations": f"""
func.func @main(%x: {T}) -> {T} {{
  %a = «nn.rellu %x : ({T}) -> {T}
  %b = nn.relu %a : ({T}) -> {T}
  %c = nn.add «%q, «%xx : ({T}, {T}) -> {T}
  %d = nn.add %q, %b : ({T}, {T}) -> {T}
  %e = nn.relu %d : (tensor<5xf32>) -> {T}
  %f = nn.relu %x : («tensor<5xf32>) -> {T}
  func.return %f : {T}
}}""",
    "an op that reads a wrong one says nothing, the next one does": f"""
func.func @main(%x: {T}) -> {T} {{
  %a = «nn.softmax %x {{axes = 0}} : ({T}) -> {T}
  %b = nn.softmax %a {{axes = 0}} : ({T}) -> {T}
  %c = «nn.softmax %x {{axsi = 0}} : ({T}) -> {T}
  func.return %c : {T}
}}""",
    "attributes and the verifier": f"""
func.func @main(%x: {T}, %i: i32) -> {T} {{
  %a = arith.constant «300 : i8
  %b = «arith.extsi %i : i32 to i8
  func.return %x : {T}
}}
func.func @g(%x: {T}) -> f32 {{
  «func.return %x : {T}
}}""",
    "symbols": """
func.func @main() {
  «func.call @mian() : () -> ()
  «func.call @gone() : () -> ()
  func.return
}
«func.func @main() {
  func.return
}""",
    "what refers to or from an op whose attributes are wrong": """
ukernel.func @k(%a: memref<4xf32>, %b: memref<4xf32>) {
  ukernel.return
}
«"func.func"() ({
^bb0:
  "func.return"() : () -> ()
}) {sym_name = "typed", function_type = 4} : () -> ()
func.func @main(%a: memref<4xf32>) {
  «"ukernel.dispatch"(%a, %a) {batch = "two", callee = @k} : (memref<4xf32>, memref<4xf32>) -> ()
  «"ukernel.dispatch"(%a, %a) {batch = 0, callee = @k} : (memref<4xf32>, memref<4xf32>) -> ()
  «"memref.get_global"() {name = @typed, type = 4} : () -> f32
  func.call @typed() : () -> ()
  func.return
}""",
    "an operation without its dialect": f"""
func.func @main(%x: {T}) -> {T} {{
  %a = nn.relu %x : ({T}) -> {T}
  %b = «relu %a : ({T}) -> {T}
  %c = nn.relu %b : ({T}) -> {T}
  %d = «sigmoid %c : ({T}) -> {T}
  func.return %d : {T}
}}""",
    "a function's head": f"""
func.func @main(%x: {T}, %w: «tensr<4xf32>) -> {T} {{
  %a = nn.relu %x : ({T}) -> {T}
  %b = nn.add %a, %w : ({T}, {T}) -> {T}
  %c = «nn.relus %a : ({T}) -> {T}
  func.return %c : {T}
}}
func.func @g(%x: {T}) -> {T} {{
  func.call @main(%x) : ({T}) -> ()
  func.return «%y : {T}
}}""",
    "brackets": f"""
func.func @main(%x: {T}) -> {T} {{
  %a = nn.softmax %x {{axis = «}} : ({T}) -> {T}
  %b = nn.relu %a : «({T} -> {T}
  %c = nn.add %b, %a : ({T}, {T}) -> {T}
  %d = nn.add %c, «%z : ({T}, {T}) -> {T}
  func.return %d : {T}
}}
func.func @g() {{
  func.return «;
}}""",
    "a region inside": f"""
func.func @main(%x: {T}, %n: index) -> {T} {{
  %r = scf.for %i = %n to %n step «%m iter_args(%a = %x) -> ({T}) {{
    %b = «nn.rellu %a : ({T}) -> {T}
    %c = memref.load %b[%i] : memref<4xf32>
    scf.yield %b : {T}
  }}
  func.return %r : {T}
}}""",
    "aliases": """
#good = affine_map<(d0) -> (d0)>
#bad = «affine_map<(d0) -> (d1)>
func.func @main(%i: index) {
  %a = affine.apply #bad(%i)
  %b = affine.apply «#goood(%i)
  func.return
}""",
    "the generic form": f"""
func.func @main(%x: {T}) -> {T} {{
  %a = «"nn.rellu"(%x) : ({T}) -> {T}
  %b = "nn.relu"(«%q) : ({T}) -> {T}
  func.return %b : {T}
}}""",
    "an end that is missing": f"""
func.func @main(%x: {T}) {{
  %a = nn.relu «%q : ({T}) -> {T}
  func.return«""",
}


@pytest.mark.parametrize("text", TABLE.values(), ids=TABLE)
def test_every_error_is_found_and_no_other(text: str) -> None:
    lines = text.split("\n")
    wanted = [(n, column) for n, line in enumerate(lines, 1) for column in _marked(line)]
    assert wanted
    with pytest.raises(SyntaxError_) as caught:
        parse(text.replace("«", ""), "net.mir")
    found = [(e.line, e.column) for e in caught.value.errors if isinstance(e, SyntaxError_)]
    assert found == wanted, caught.value


def _marked(line: str) -> list[int]:
    return [match.start() + 1 - i for i, match in enumerate(re.finditer("«", line))]


HINTS = [
    ("%a = arith.constant 1 : f23", "'f32'"),
    (f"func.func @f(%x: tenso<4xf32>) {{\n  func.return\n}}\nfunc.func @g(%x: {T}) {{\n  func.return\n}}", "'tensor'"),
    ("%a = tensor.empty() : tensor<4xf33>", "'f32'"),
    ("%a = lnalg.fill 1 : i32", "'linalg.fill'"),
    ("%a = linag.something 1 : i32", "'linalg"),
    ("%a = tosa.relu 1 : i32", "'nn.relu'"),
    ("#map = affine_map<() -> ()>\n%a = affine.apply #mop()", "'#map'"),
    ("func.func @main() {\n  func.call @mian() : () -> ()\n  func.return\n}", "'main'"),
    (
        "func.func @f(%x: tensor<1x1xf32>) {\n"
        "  %y = \"tensor.concat\"(%x, %x) {dims = 0} : (tensor<1x1xf32>, tensor<1x1xf32>) -> tensor<2x1xf32>\n"
        "  func.return\n}",
        "by 'dims'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meant"), HINTS)
def test_a_name_that_is_nearly_right_gets_a_hint(text: str, meant: str) -> None:
    with pytest.raises(MdslError, match=f"did you mean .*{re.escape(meant)}"):
        parse(text)


def _wrong(count: int) -> str:
    lines = "".join(f"  %y{i} = nn.rellu %x : ({T}) -> {T}\n" for i in range(count))
    return f"func.func @main(%x: {T}) {{\n{lines}  func.return\n}}\n"


def test_the_first_twenty_are_shown_and_the_rest_is_counted() -> None:
    with pytest.raises(MdslError) as caught:
        mdsl.parse(_wrong(57))
    assert len(caught.value.errors) == 57
    shown = str(caught.value).split("\n")
    assert len(shown) == 61
    assert shown[-1] == "and 37 more errors"


def test_after_very_many_errors_reading_ends() -> None:
    start = time.process_time()
    with pytest.raises(MdslError, match="and at least 180 more errors"):
        mdsl.parse(_wrong(5000))
    assert time.process_time() - start < 20


def test_one_error_consists_of_itself() -> None:
    with pytest.raises(MdslError) as caught:
        mdsl.parse(_wrong(1))
    assert list(caught.value.errors) == [caught.value]


def test_the_command_shows_them_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mdsl.cli import command

    file = tmp_path / "net.mir"
    file.write_text(_wrong(3))
    assert command(["opt", str(file)]) == 1
    shown = capfd.readouterr()
    assert not shown.out
    assert [line.split(": ")[0] for line in shown.err.split("\n")[::3] if line] == [
        f"{file}:{line}:9" for line in (2, 3, 4)
    ]


@pytest.mark.parametrize("attribute", ["", ', iterator_types = "parallel"'])
def test_a_body_asks_nothing_of_a_wrong_op(attribute: str) -> None:
    """`linalg.index` asks how many loops there are around it."""
    text = f"""func.func @main(%x: tensor<4xindex>) -> tensor<4xindex> {{
      %y = "linalg.generic"(%x) ({{
      ^bb0(%out: index):
        %i = linalg.index 1 : index
        linalg.yield %i : index
      }}) {{indexing_maps = [affine_map<(d0) -> (d0)>], operandSegmentSizes = array<i32: 0, 1>{attribute}}} : (tensor<4xindex>) -> tensor<4xindex>
      return %y : tensor<4xindex>
    }}"""
    with pytest.raises(MdslError, match="iterator_types") as caught:
        mdsl.parse(text)
    assert str(caught.value).count("error:") == 1
