"""lower-vm: what workers share, what addresses become, and that every engine computes the same."""

from __future__ import annotations

import numpy as np
import pytest

import mdsl
from mdsl.dialects import mvm
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.verifier import verify
from mdsl.reference import run
from mdsl.syntax.printer import print_module
from mdsl.target.cost import shared_loop

HEAD = """func.func @main(%x: memref<8x16xf32>, %y: memref<16xf32>, %out: memref<8x16xf32> {mdsl.output}) {
  %c0 = arith.constant 0 : index
  %c1 = arith.constant 1 : index
  %c8 = arith.constant 8 : index
  %c16 = arith.constant 16 : index
  %one = arith.constant 1.0 : f32
"""
X = np.arange(128, dtype=np.float32).reshape(8, 16) % 7 - 2
Y = (
    np.arange(16, dtype=np.float32) / 8 - 1
)  # no product or sum is rounded, so that fused ones are not different


def lowered(text: str) -> ModuleOp:
    module = mdsl.opt(text, "lower-vm")
    verify(module)
    return module


def lines(body: str, *parts: str) -> list[str]:
    """The mvm ops of a body, without what holds numbers; what it computes is compared on every engine."""
    text = HEAD + body + "\nreturn\n}" + "".join(parts)
    module = lowered(text)
    wanted = np.asarray(run(mdsl.parse(text), [X, Y])[0])
    written = ~np.isnan(wanted)  # what the program leaves as it is may hold anything
    np.testing.assert_array_equal(run(module, [X, Y])[0], wanted)
    for engine, threads in (("vm", 1), ("vm", 3), ("jit", 2)):
        found = mdsl.compile(module, engine=engine, threads=threads)(X, Y)
        np.testing.assert_array_equal(np.asarray(found)[written], wanted[written])
    (func,) = (op for op in module.walk() if isinstance(op, mvm.Func))
    printed = [line.strip() for line in print_module(func).splitlines()[1:]]
    return [line for line in printed if "arith.constant" not in line and "memref.alloc" not in line]


def kinds(found: list[str]) -> list[str]:
    """The ops' names, with what closes a block."""
    words = [line.split(" = ", 1)[1] if line.startswith("%") else line for line in found]
    return [word.split(" ")[0].removeprefix("mvm.") for word in words][:-2]


FILL = "linalg.fill ins(%one : f32) outs(%out : memref<8x16xf32>)"
FORALL = """scf.forall (%i, %j) = (0, 0) to (8, 16) step (1, 1) {
    %v = memref.load %x[%i, %j] : memref<8x16xf32>
    %w = arith.addf %v, %one : f32
    memref.store %w, %out[%i, %j] : memref<8x16xf32>
}"""
AGAIN = FORALL.replace("%x[", "%out[")
SHARED = ["parallel", "lea", "loop", "load", "arith.addf", "store", "}", "}"]


def test_what_is_not_parallel_is_done_by_one() -> None:
    assert kinds(lines(FILL)) == ["fill"]


def test_a_parallel_loop_is_shared() -> None:
    assert kinds(lines(FORALL)) == SHARED


def test_parallel_loops_are_shared_wherever_they_are() -> None:
    """In a loop, in a branch that depends on data, after a loop that writes and computes a number."""
    assert kinds(lines(f"scf.for %k = %c0 to %c8 step %c1 {{\n{AGAIN}\n}}")) == ["loop", *SHARED, "}"]
    body = f"""%sum = scf.for %k = %c0 to %c8 step %c1 iter_args(%s = %one) -> (f32) {{
      %v = memref.load %x[%k, %k] : memref<8x16xf32>
      memref.store %v, %out[%c0, %k] : memref<8x16xf32>
      %t = arith.addf %s, %v : f32
      scf.yield %t : f32
    }}
    %above = arith.cmpf ogt, %sum, %one : f32
    scf.if %above {{
      {FORALL.replace("%one", "%sum")}
    }}"""
    found = kinds(lines(body))
    assert found[found.index("if") + 1 :] == [*SHARED, "}"]


def test_a_parallel_loop_in_another_is_not_shared() -> None:
    inner = FORALL.replace("(%i, %j) = (0, 0) to (8, 16) step (1, 1)", "(%j) = (0) to (16) step (1)")
    assert kinds(lines(f"scf.forall (%i) = (0) to (8) step (1) {{\n{inner}\n}}")) == SHARED
    assert kinds(lines(f"scf.forall (%i) = (0) to (8) step (1) {{\n{inner}\n}}\n{AGAIN}")) == [
        *SHARED,
        *SHARED,
    ]


def test_loops_without_trips_are_gone_and_give_what_they_were_given() -> None:
    body = f"""%sum = scf.for %k = %c8 to %c8 step %c1 iter_args(%s = %one) -> (f32) {{
      %t = arith.addf %s, %s : f32
      scf.yield %t : f32
    }}
    %n = scf.for %k = %c8 to %c1 step %c1 iter_args(%s = %c8) -> (index) {{
      %t = arith.addi %s, %s : index
      scf.yield %t : index
    }}
    scf.forall (%i) = (0) to (0) step (1) {{
      memref.store %one, %out[%c0, %i] : memref<8x16xf32>
    }}
    {FILL.replace("%one :", "%sum :")}
    scf.for %k = %c0 to %n step %c1 {{
      memref.store %one, %out[%k, %k] : memref<8x16xf32>
    }}"""
    found = [kind for kind in kinds(lines(body)) if kind != "lea"]
    assert found == ["fill", "loop", "store", "}"]


def test_the_shared_loop_of_a_nest() -> None:
    assert shared_loop([8, 100]) == 0 and shared_loop([7, 8]) == 1 and shared_loop([2, 9, 100]) == 1
    assert shared_loop([3, 7, 5]) == 1 and shared_loop([1, 1]) == 0


def test_names_and_places_are_kept() -> None:
    text = HEAD + FORALL + "\nreturn\n}"
    source = {op.name: op.location for op in mdsl.parse(text, "f.mir").walk()}
    module = lowered(text)
    (parallel,) = (op for op in module.walk() if isinstance(op, mvm.Parallel))
    assert parallel.iv.name == "i"
    (add,) = (op for op in module.walk() if op.name == "arith.addf")
    assert (
        add.result.name == "w"
        and str(add.location).split(":")[1:] == str(source["arith.addf"]).split(":")[1:]
    )
    (func,) = (op for op in module.walk() if isinstance(op, mvm.Func))
    assert [v.name for v in func.args] == ["x", "y", "out"]


def test_views_are_offsets() -> None:
    body = """scf.forall (%i) = (0) to (8) step (2) {
      %part = memref.subview %x[%i, 4] [2, 6] [1, 2] : memref<8x16xf32>
          to memref<2x6xf32, strided<[16, 2], offset: ?>>
    %v = memref.load %part[%c1, %c1] : memref<2x6xf32, strided<[16, 2], offset: ?>>
      memref.store %v, %out[%i, %c0] : memref<8x16xf32>
    }"""
    (load,) = (line for line in lines(body) if "mvm.load" in line)
    assert "part" not in load and "%x" in load


def test_a_copy_of_rows_is_a_loop_of_copies() -> None:
    rows = """%part = memref.subview %{0}[0, {1}] [8, 4] [1, 1] : memref<8x16xf32>
        to memref<8x4xf32, strided<[16, 1], offset: {1}>>"""
    body = (
        rows.format("x", 3)
        + rows.format("out", 8).replace("%part", "\n%to")
        + """
    memref.copy %part, %to : memref<8x4xf32, strided<[16, 1], offset: 3>> to memref<8x4xf32, strided<[16, 1], offset: 8>>
    """
    )
    found = lines(body)
    assert kinds(found).count("loop") == 1
    assert any("count = 4" in line for line in found)
    whole = lines("memref.copy %x, %out : memref<8x16xf32> to memref<8x16xf32>")
    assert kinds(whole) == ["copy"] and "count = 128" in whole[0]


DOT = """scf.for %i = %c0 to %c8 step %c1 {{
  %sum = scf.for %k = %c0 to %c16 step %c1 iter_args(%s = %one) -> (f32) {{
    %a = memref.load %x[%i, %k] : memref<8x16xf32>
    %b = memref.load %y[%k] : memref<16xf32>
    {}
    %t = math.fma %a, %b, %s : f32
    {}
  }}
  memref.store %sum, %out[%i, %c1] : memref<8x16xf32>
}}"""
YIELD = "scf.yield %t : f32"


@pytest.mark.parametrize(
    ("between", "end", "dots"),
    [
        ("", YIELD, 1),
        ("memref.store %s, %out[%i, %k] : memref<8x16xf32>", YIELD, 0),
        ("", "%u = arith.addf %t, %a : f32\nscf.yield %u : f32", 0),
    ],
    ids=["alone", "something is written between", "a factor is read again"],
)
def test_two_loads_and_a_multiply_add_are_a_dot(between: str, end: str, dots: int) -> None:
    found = kinds(lines(DOT.format(between, end)))
    assert found.count("dot") == dots and found.count("load") == 2 - 2 * dots


def test_what_a_dispatch_passes() -> None:
    """Pointers are buffers with strides and offsets in bytes, numbers are registers."""
    kernel = """
    ukernel.func @k(%a: memref<4xf32, strided<[1], offset: ?>>, %b: memref<4xf32, strided<[1], offset: ?>>,
        %n: index {mdsl.range = array<i64: 0, 7>}) {
      %c0 = arith.constant 0 : index
      %v = memref.load %a[%c0] : memref<4xf32, strided<[1], offset: ?>>
      memref.store %v, %b[%c0] : memref<4xf32, strided<[1], offset: ?>>
      ukernel.return
    }"""
    type = "memref<4xf32, strided<[1], offset: ?>>"
    body = f"""scf.forall (%i) = (0) to (8) step (1) {{
      %from = memref.subview %x[%i, 4] [1, 4] [1, 1] : memref<8x16xf32> to {type}
      %to = memref.subview %out[%i, 0] [1, 4] [1, 1] : memref<8x16xf32> to {type}
      ukernel.dispatch @k(%from, %to, %i) : ({type}, {type}, index)
    }}"""
    (dispatch,) = (line for line in lines(body, kernel) if "mvm.dispatch" in line)
    assert "%x, %i, %out, %i, %i" in dispatch
    assert "[array<i64: 1, 1, 64, 16>, array<i64: 1, 1, 64, 0>, array<i64: 0, 1, 0, 0>]" in dispatch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("func.func @main(%x: memref<?xf32>) { return }", "1:.*%x must be a dense memref of static shape"),
        ("func.func @main(%x: memref<4xf32, strided<[2]>>) { return }", "%x must be a dense memref"),
        ("func.func @main(%x: memref<4xf32>, %n: index) { return }", "%n must be a dense memref"),
        ("func.func @main(%x: memref<4xf32>) -> f32 {\n%c = arith.constant 1.0 : f32\nreturn %c : f32\n}",
         "returns values"),
        ("func.func @main(%x: memref<4xf32>) {\n%c0 = arith.constant 0 : index\n"
         "scf.for %i = %c0 to %c0 step %c0 {\n}\nreturn\n}", "3:.*step must be a positive constant"),
        ("func.func @main(%x: memref<4xf32>, %y: memref<4xf32>, %f: memref<1xi1>) {\n%c0 = arith.constant 0 : index\n"
         "%b = memref.load %f[%c0] : memref<1xi1>\n%m = arith.select %b, %x, %y : memref<4xf32>\n"
         "memref.copy %m, %y : memref<4xf32> to memref<4xf32>\nreturn\n}", "4:.*the VM has no pointers"),
    ],
)  # fmt: skip
def test_what_cannot_be_lowered(text: str, message: str) -> None:
    with pytest.raises(MdslError, match=message):
        mdsl.opt(text, "lower-vm")
