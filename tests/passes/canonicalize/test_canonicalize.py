"""canonicalize: what folds, merges and goes, what must stay, and that the results are the same."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.verifier import verify
from mdsl.reference import run
from mdsl.syntax.printer import print_module

SCALARS = "func.func @main(%x: f32, %y: f32, %i: index, %b: i1) -> {type} {{\n{body}\nreturn %r : {type}\n}}"


def canonical(text: str) -> ModuleOp:
    module = mdsl.opt(text, "canonicalize")
    verify(module)
    return module


def lines(module: ModuleOp) -> list[str]:
    """The printed ops of the only function."""
    return [line.strip() for line in print_module(module).splitlines()[1:-1]]


def names(module: ModuleOp) -> list[str]:
    return [op.name for op in module.walk() if op.name not in ("builtin.module", "func.func", "func.return")]


def scalars(body: str, type: str = "f32") -> list[str]:
    """The ops that are left of a body that computes `%r`; the results are compared besides."""
    text = SCALARS.format(type=type, body=body)
    module = canonical(text)
    arguments = [np.float32(2.5), np.float32(-0.0), np.int64(7), np.bool_(True)]
    wanted, found = (run(m, arguments)[0] for m in (mdsl.parse(text), module))
    np.testing.assert_array_equal(found, wanted)
    assert np.signbit(found) == np.signbit(wanted)
    return lines(module)


FOLDED = {
    "x * 1": ("%one = arith.constant 1.0 : f32\n%r = arith.mulf %x, %one : f32", "f32", ["func.return %x : f32"]),
    "1 * x": ("%one = arith.constant 1.0 : f32\n%r = arith.mulf %one, %x : f32", "f32", ["func.return %x : f32"]),
    "x - 0": ("%zero = arith.constant 0.0 : f32\n%r = arith.subf %x, %zero : f32", "f32", ["func.return %x : f32"]),
    "i + 0": ("%zero = arith.constant 0 : index\n%r = arith.addi %i, %zero : index", "index",
              ["func.return %i : index"]),
    "chain": ("%zero = arith.constant 0 : index\n%a = arith.addi %zero, %i : index\n"
              "%r = arith.subi %a, %zero : index", "index", ["func.return %i : index"]),
    "known choice": ("%t = arith.constant false\n%r = arith.select %t, %x, %y : f32", "f32",
                     ["func.return %y : f32"]),
    "numbers": ("%a = arith.constant 6 : index\n%c = arith.constant 7 : index\n%r = arith.muli %a, %c : index",
                "index", ["%r = arith.constant 42 : index", "func.return %r : index"]),
    "numbers that wrap": ("%a = arith.constant 100 : i8\n%r = arith.addi %a, %a : i8", "i8",
                          ["%r = arith.constant -56 : i8", "func.return %r : i8"]),
    "comparison": ("%a = arith.constant 6 : i32\n%c = arith.constant -7 : i32\n%r = arith.cmpi ult, %a, %c : i32",
                   "i1", ["%r = arith.constant true", "func.return %r : i1"]),
}  # fmt: skip
"""Ops on numbers, the type of the result, and what is left."""


@pytest.mark.parametrize("case", FOLDED)
def test_folds(case: str) -> None:
    body, type, wanted = FOLDED[case]
    assert scalars(body, type) == wanted


KEPT = {
    "x + 0, which makes 0 of -0": "%c = arith.constant 0.0 : f32\n%r = arith.addf %y, %c : f32",
    "0 - x": "%c = arith.constant 0.0 : f32\n%r = arith.subf %c, %x : f32",
    "1 / x": "%c = arith.constant 1.0 : f32\n%r = arith.divf %c, %x : f32",
    "x * 0, which keeps what is not finite": "%c = arith.constant 0.0 : f32\n%r = arith.mulf %x, %c : f32",
    "x - x": "%r = arith.subf %x, %x : f32",
    "a choice that is not known": "%r = arith.select %b, %x, %y : f32",
}


@pytest.mark.parametrize("case", KEPT)
def test_stays(case: str) -> None:
    assert scalars(KEPT[case])[:-1] == KEPT[case].split("\n")


def test_equal_ops_are_one() -> None:
    body = "%a = arith.mulf %x, %y : f32\n%b2 = arith.mulf %x, %y : f32\n%r = arith.addf %a, %b2 : f32"
    assert scalars(body) == [
        "%a = arith.mulf %x, %y : f32",
        "%r = arith.addf %a, %a : f32",
        "func.return %r : f32",
    ]


DIFFERENT = {
    "operands in another order": ("arith.subf %x, %y : f32", "arith.subf %y, %x : f32"),
    "another op": ("arith.addf %x, %y : f32", "arith.mulf %x, %y : f32"),
    "another attribute": ("arith.cmpf olt, %x, %y : f32", "arith.cmpf ole, %x, %y : f32"),
    "another type of result": ("arith.index_cast %i : index to i64", "arith.index_cast %i : index to i32"),
    "zeros of both signs": ("arith.constant 0.0 : f32", "arith.constant -0.0 : f32"),
    "numbers of two types": ("arith.constant 1 : i64", "arith.constant 1 : i32"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_different_ops_stay_two(case: str) -> None:
    first, second = DIFFERENT[case]
    types = [text.rpartition(" ")[2] if "cmpf" not in text else "i1" for text in (first, second)]
    text = (
        f"func.func @main(%x: f32, %y: f32, %i: index) -> ({', '.join(types)}) {{\n%p = {first}\n%q = {second}\n"
        f"return %p, %q : {', '.join(types)}\n}}"
    )
    module = canonical(text)
    assert lines(module)[:2] == [f"%p = {first}", f"%q = {second}"]


LOOP = """func.func @main(%x: memref<8xf32>, %out: memref<8xf32> {mdsl.output}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  BEFORE
  scf.for %i = %c0 to %c8 step %c1 {
    FIRST
    SECOND
  }
  AFTER
  return
}"""


def loop(first: str = "", second: str = "", before: str = "", after: str = "") -> list[str]:
    pieces = {"FIRST": first, "SECOND": second, "BEFORE": before, "AFTER": after}
    text = LOOP
    for name, piece in pieces.items():
        text = text.replace(name, piece)
    x = np.arange(8, dtype=np.float32)
    module = canonical(text)
    wanted, found = (run(m, [x]) for m in (mdsl.parse(text), module))
    np.testing.assert_array_equal(found, wanted)
    return names(module)


STORE = "memref.store %{}, %out[%i] : memref<8xf32>"


def test_an_op_in_a_loop_is_one_with_its_equal_in_front_of_it() -> None:
    text = """func.func @main(%n: index) -> index {
      %c0 = arith.constant 0 : index
      %a = arith.muli %n, %n : index
      %r = scf.for %i = %c0 to %n step %a iter_args(%s = %c0) -> (index) {
        %b = arith.muli %n, %n : index
        %t = arith.addi %s, %b : index
        scf.yield %t : index
      }
      return %r : index
    }"""
    module = canonical(text)
    assert names(module).count("arith.muli") == 1
    assert run(module, [np.int64(3)]) == run(mdsl.parse(text), [np.int64(3)])


def test_an_op_behind_a_loop_stays_though_one_in_it_is_equal() -> None:
    """That in the loop does not dominate it."""
    text = """func.func @main(%n: index, %f: i1) -> (index, index) {
      %c0 = arith.constant 0 : index
      %r = scf.if %f -> (index) {
        %a = arith.muli %n, %n : index
        scf.yield %a : index
      } else {
        %b = arith.muli %n, %n : index
        scf.yield %b : index
      }
      %c = arith.muli %n, %n : index
      return %r, %c : index, index
    }"""
    assert names(canonical(text)).count("arith.muli") == 3


def test_functions_share_nothing() -> None:
    text = "\n".join(
        f"func.func @{name}() -> f32 {{\n%c = arith.constant 1.0 : f32\nreturn %c : f32\n}}" for name in "fg"
    )
    assert names(canonical(text)).count("arith.constant") == 2


def test_loads_of_memory_that_may_have_changed_stay_two() -> None:
    load = "%{0} = memref.load %out[%i] : memref<8xf32>\n"
    body = load.format("a") + STORE.format("a") + "\n" + load.format("b")
    kept = loop(body + "%c = arith.addf %a, %b : f32", STORE.format("c"))
    assert kept.count("memref.load") == 2


def test_effects_stay_and_keep_their_order() -> None:
    stores = ["memref.store %p, %out[%i] : memref<8xf32>", "memref.store %q, %out[%i] : memref<8xf32>"]
    constants = "%p = arith.constant 1.0 : f32\n%q = arith.constant 2.0 : f32"
    kept = loop(stores[0], stores[1], before=constants)
    assert kept.count("memref.store") == 2


def test_what_nothing_uses_goes_with_all_that_only_it_used() -> None:
    unused = """%a = memref.load %x[%c1] : memref<8xf32>
    %b = arith.mulf %a, %a : f32
    %c = math.exp %b : f32"""
    loops = """%s = scf.for %j = %c0 to %c8 step %c1 iter_args(%t = %c0) -> (index) {
      %u = arith.addi %t, %j : index
      scf.yield %u : index
    }
    %room = memref.alloc() : memref<4xf32>"""
    kept = loop("%v = memref.load %x[%i] : memref<8xf32>", STORE.format("v"), before=unused, after=loops)
    assert sorted(set(kept)) == ["arith.constant", "memref.load", "memref.store", "scf.for", "scf.yield"]
    assert kept.count("memref.load") == 1 and kept.count("scf.for") == 1


def test_a_loop_that_writes_stays_though_nothing_uses_its_result() -> None:
    loops = """%s = scf.for %j = %c0 to %c8 step %c1 iter_args(%t = %c0) -> (index) {
      %v = memref.load %x[%j] : memref<8xf32>
      memref.store %v, %out[%j] : memref<8xf32>
      %u = arith.addi %t, %j : index
      scf.yield %u : index
    }"""
    assert loop(after=loops).count("memref.store") == 1


def test_destinations_that_look_alike_stay_two() -> None:
    text = """func.func @main() -> (tensor<4xf32>, tensor<4xf32>) {
      %p = arith.constant 1.0 : f32
      %q = arith.constant 2.0 : f32
      %a = tensor.empty() : tensor<4xf32>
      %b = tensor.empty() : tensor<4xf32>
      %c = linalg.fill ins(%p : f32) outs(%a : tensor<4xf32>) -> tensor<4xf32>
      %d = linalg.fill ins(%q : f32) outs(%b : tensor<4xf32>) -> tensor<4xf32>
      return %c, %d : tensor<4xf32>, tensor<4xf32>
    }"""
    module = canonical(text)
    assert names(module).count("tensor.empty") == 2
    np.testing.assert_array_equal(run(module, []), [[1] * 4, [2] * 4])


def test_views_of_one_arena_stay_two() -> None:
    view = "memref.view %arena[%c0][] : memref<64xi8> to memref<8xf32>"
    text = f"""func.func @main(%out: memref<8xf32> {{mdsl.output}}) {{
      %c0 = arith.constant 0 : index
      %arena = memref.alloc() {{alignment = 64}} : memref<64xi8>
      %a = {view}
      %b = {view}
      %v = memref.load %a[%c0] : memref<8xf32>
      memref.store %v, %b[%c0] : memref<8xf32>
      return
    }}"""
    assert names(canonical(text)).count("memref.view") == 2


def test_a_structured_op_without_iterations_is_its_destination() -> None:
    text = """func.func @main(%a: tensor<2x0xf32>, %b: tensor<0x3xf32>, %c: tensor<2x3xf32>) -> tensor<2x3xf32> {
      %r = linalg.matmul ins(%a, %b : tensor<2x0xf32>, tensor<0x3xf32>) outs(%c : tensor<2x3xf32>) -> tensor<2x3xf32>
      return %r : tensor<2x3xf32>
    }"""
    assert lines(canonical(text)) == ["func.return %c : tensor<2x3xf32>"]


def test_splats_fold_and_other_data_waits_for_who_wants_it() -> None:
    add = "%r = arith.addf %a, %b : tensor<2x2xf32>"
    text = "func.func @main() -> tensor<2x2xf32> {{\n%a = arith.constant dense<{}> : tensor<2x2xf32>\n{}\n{}\n{}\n}}"
    splat = "%b = arith.constant dense<2.0> : tensor<2x2xf32>"
    end = "return %r : tensor<2x2xf32>"
    assert lines(canonical(text.format("1.5", splat, add, end)))[0] == (
        "%r = arith.constant dense<3.5> : tensor<2x2xf32>"
    )
    assert names(canonical(text.format("[[1.0, 2.0], [3.0, 4.0]]", splat, add, end))).count("arith.addf") == 1


def test_reshaped_data_is_data() -> None:
    text = """func.func @main() -> tensor<4xf32> {
      %w = arith.constant dense<[[1.0, 2.0], [3.0, 4.0]]> : tensor<2x2xf32>
      %r = tensor.collapse_shape %w [[0, 1]] : tensor<2x2xf32> into tensor<4xf32>
      return %r : tensor<4xf32>
    }"""
    module = canonical(text)
    assert names(module) == ["arith.constant"]
    np.testing.assert_array_equal(run(module, [])[0], [1, 2, 3, 4])


def test_names_and_locations_are_kept() -> None:
    text = """func.func @main(%x: f32) -> f32 {
      %zero = arith.constant 0.0 : f32
      %copy = arith.subf %x, %zero : f32
      %wave = math.sin %copy : f32
      %again = math.sin %x : f32
      %six = arith.constant 6.0 : f32
      %twelve = arith.addf %six, %six : f32
      %a = arith.mulf %wave, %again : f32
      %sum = arith.addf %a, %twelve : f32
      return %sum : f32
    }"""
    before = {op.result.name: op.location for op in mdsl.parse(text, "f.mir").walk() if op.results}
    module = canonical(text)
    assert lines(module) == [
        "%wave = math.sin %x : f32",
        "%twelve = arith.constant 12.0 : f32",
        "%a = arith.mulf %wave, %wave : f32",
        "%sum = arith.addf %a, %twelve : f32",
        "func.return %sum : f32",
    ]
    found = {op.result.name: op.location for op in module.walk() if op.results}
    assert {name: str(where).partition(":")[2] for name, where in found.items()} == {
        name: str(where).partition(":")[2] for name, where in before.items() if name in found
    }


def test_what_has_nothing_to_do_stays_as_it_is() -> None:
    text = "func.func @main(%x: f32) -> f32 {\n  %y = math.sin %x : f32\n  func.return %y : f32\n}\n"
    assert print_module(canonical(text)).strip() == text.strip()
