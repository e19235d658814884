"""inline: what takes a call's place, what goes and stays, and what cannot be inlined."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.verifier import verify
from mdsl.passes.base import functions
from mdsl.reference import run
from mdsl.syntax.printer import print_module

MATHS = """
func.func private @wave(%v: f32) -> f32 {
  %s = math.sin %v : f32
  %w = math.exp %s : f32
  return %w : f32
}
func.func private @both(%p: f32, %q: f32) -> (f32, f32) {
  %d = arith.subf %p, %q : f32
  return %d, %p : f32, f32
}
func.func private @deep(%v: f32) -> f32 {
  %a = func.call @wave(%v) : (f32) -> f32
  %b = func.call @wave(%a) : (f32) -> f32
  return %b : f32
}
"""


def inlined(text: str) -> ModuleOp:
    module = mdsl.opt(text, "inline")
    verify(module)
    return module


def body(text: str, *arguments: np.generic | np.ndarray) -> list[str]:
    """The printed ops of @main when nothing is called any more; the results are compared besides."""
    module = inlined(text)
    assert not any(op.name == "func.call" for op in module.walk())
    for wanted, found in zip(run(mdsl.parse(text), arguments), run(module, arguments), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return [line.strip() for line in print_module(module).splitlines()[1:-1]]


def main(*lines: str, results: str) -> str:
    types = ", ".join(["f32"] * len(results.split(",")))
    return "\n".join(
        [
            f"func.func @main(%x: f32, %y: f32) -> ({types}) {{",
            *lines,
            f"return {results} : {types}",
            "}",
            MATHS,
        ]
    )


X, Y = np.float32(0.5), np.float32(3)


def test_a_call_becomes_the_body_and_its_result_keeps_its_name() -> None:
    assert body(main("%r = func.call @wave(%x) : (f32) -> f32", results="%r"), X, Y) == [
        "%s = math.sin %x : f32",
        "%r = math.exp %s : f32",
        "func.return %r : f32",
    ]


def test_results_that_are_arguments_keep_the_names_of_these() -> None:
    text = main("%r, %t = func.call @both(%x, %y) : (f32, f32) -> (f32, f32)", results="%t, %r")
    assert body(text, X, Y) == ["%r = arith.subf %x, %y : f32", "func.return %x, %r : f32, f32"]


def test_each_call_has_ops_of_its_own() -> None:
    text = main(
        "%a = func.call @wave(%x) : (f32) -> f32",
        "%b = func.call @wave(%y) : (f32) -> f32",
        "%r = arith.divf %a, %b : f32",
        results="%r",
    )
    found = body(text, X, Y)
    assert [line.split(" = ")[1] for line in found[:4:2]] == ["math.sin %x : f32", "math.sin %y : f32"]
    assert found[-2:] == ["%r = arith.divf %a, %b : f32", "func.return %r : f32"]


def test_calls_in_called_functions() -> None:
    found = body(main("%r = func.call @deep(%x) : (f32) -> f32", results="%r"), X, Y)
    assert [line.split()[2] for line in found[:-1]] == ["math.sin", "math.exp"] * 2


def test_calls_in_loops_and_what_they_write() -> None:
    """The stores of two calls stay in their order."""
    text = """func.func @main(%x: memref<8xf32>, %out: memref<8xf32> {mdsl.output}) {
      %c0 = arith.constant 0 : index
      %c1 = arith.constant 1 : index
      %c8 = arith.constant 8 : index
      scf.for %i = %c0 to %c8 step %c1 {
        func.call @twice(%x, %i, %out) : (memref<8xf32>, index, memref<8xf32>) -> ()
        func.call @twice(%out, %i, %out) : (memref<8xf32>, index, memref<8xf32>) -> ()
      }
      return
    }
    func.func private @twice(%from: memref<8xf32>, %at: index, %to: memref<8xf32>) {
      %v = memref.load %from[%at] : memref<8xf32>
      %w = arith.addf %v, %v : f32
      memref.store %w, %to[%at] : memref<8xf32>
      return
    }"""
    x = np.arange(8, dtype=np.float32)
    found = body(text, x)
    assert [line.split("(")[0].split(" ")[0] for line in found if "store" in line] == ["memref.store"] * 2
    np.testing.assert_array_equal(run(inlined(text), [x])[0], 4 * x)


def test_locations_are_those_of_the_called_function() -> None:
    text = main("%r = func.call @wave(%x) : (f32) -> f32", results="%r")
    before = {op.name: op.location for op in mdsl.parse(text).walk() if op.name.startswith("math")}
    after = {op.name: op.location for op in inlined(text).walk() if op.name.startswith("math")}
    assert {k: str(v) for k, v in after.items()} == {k: str(v) for k, v in before.items()}


def test_private_functions_go_and_others_stay() -> None:
    text = main("%r = func.call @wave(%x) : (f32) -> f32", results="%r")
    text += "func.func @other(%x: f32) -> f32 {\n%r = func.call @wave(%x) : (f32) -> f32\nreturn %r : f32\n}"
    module = inlined(text)
    assert [func.symbol for func in functions(module)] == ["main", "other"]
    assert sum(op.name == "math.sin" for op in module.walk()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("func.func @f(%x: f32) -> f32 {\n%r = func.call @f(%x) : (f32) -> f32\nreturn %r : f32\n}",
         "2:.*@f calls itself: f -> f"),
        ("func.func @f(%x: f32) -> f32 {\n%r = func.call @g(%x) : (f32) -> f32\nreturn %r : f32\n}\n"
         "func.func @g(%x: f32) -> f32 {\n%r = func.call @f(%x) : (f32) -> f32\nreturn %r : f32\n}",
         "@f calls itself: f -> g -> f"),
        ("func.func @f(%x: f32) -> f32 {\n%r = func.call @g(%x) : (f32) -> f32\nreturn %r : f32\n}",
         "2:.*@g"),
        ("func.func @f(%x: f32) -> f32 {\n%r = func.call @k(%x) : (f32) -> f32\nreturn %r : f32\n}\n"
         "ukernel.func @k() {\nukernel.return\n}", "2:.*@k is no function"),
        ("func.func @f(%x: f32) -> f64 {\n%r = func.call @g(%x) : (f32) -> f64\nreturn %r : f64\n}\n"
         "func.func @g(%x: f32) -> f32 {\nreturn %x : f32\n}", "2:.*@g is no function of type"),
        ("func.func @f(%x: f32) -> f32 {\n%r = func.call @g(%x) : (f32) -> f32\nreturn %r : f32\n}\n"
         "func.func @g(%x: f64) -> f32 {\n%c = arith.constant 0.0 : f32\nreturn %c : f32\n}", "2:.*@g is no function of type"),
    ],
)  # fmt: skip
def test_what_cannot_be_inlined(text: str, message: str) -> None:
    with pytest.raises(MdslError, match=message):
        mdsl.opt(text, "inline")
