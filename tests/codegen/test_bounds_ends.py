"""The proof of a kernel's bounds where one step more or less makes the difference."""

from __future__ import annotations

import pytest
from proving import INDEX, A, proved, uses

from mdsl.codegen.bounds import prove
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import VerifyError
from mdsl.syntax.parser import parse

LOAD = "%v = memref.load %a[{}] : memref<16xf32>"


def ranged(name: str, lo: int, hi: int) -> str:
    return f"%{name}: index {{mdsl.range = array<i64: {lo}, {hi}>}}"


def loop(lower: str, upper: str, step: str = "%c1", body: str = LOAD.format("%j")) -> str:
    return f"scf.for %j = {lower} to {upper} step {step} {{ {body} }}"


def subview(offset: str, size: int, stride: int, type: str) -> str:
    return f"%view = memref.subview %a[{offset}] [{size}] [{stride}] : memref<16xf32> to {type}"


def choice(first: str, second: str) -> str:
    return (
        f"%j = scf.if %f -> (index) {{ scf.yield {first} : index }} else {{ scf.yield {second} : index }}\n"
    )


ROWS = "%a: memref<4x8xf32>"
VECTOR = "%v = vector.load %a[{}, {}] : memref<4x8xf32>, vector<8xf32>"

ACCEPTED = {
    "one trip": (A, loop("%c15", "%c16")),
    "last step before the end": (A, loop("%c0", "%c17", "%c15")),
    "vector in the last row": (ROWS, VECTOR.format("%c0", "%c0") + VECTOR.format("%c3", "%c0").replace("%v", "\n%w")
                               .replace("%c3", "%r").replace("%r", "%c1")),
    "steps of a view": (A, subview("0", 4, 5, "memref<4xf32, strided<[5]>>")),
    "bytes at any shift": (f"%b: memref<20xi8>, {INDEX}", "%v = memref.view %b[%i][] : memref<20xi8> to memref<5xi8>"),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    assert proved(*ACCEPTED[case])[0][0] == "read"


REJECTED = {
    "a view of nothing": (A, subview("0", 0, 1, "memref<0xf32>"), "sizes and strides must be positive"),
    "one trip too far": (A, loop("%c16", "%c17"), r"\[16, 16\]"),
    "a loop that may run": (f"{A}, {INDEX}", loop("%i", "%c17"), r"\[0, 16\]"),
    "a loop that seldom runs": (f"%a: memref<16xf32>, {ranged('s', 0, 30)}", loop("%s", "%c17"), r"\[0, 16\]"),
    "a start that is not on the grid": (f"%a: memref<15xf32>, {ranged('s', 0, 3)}",
                                        loop("%s", "%c16", "%c4").replace("16xf32", "15xf32"), r"\[0, 15\]"),
    "steps of more than one length": (f"{A}, {ranged('s', 3, 5)}", loop("%c0", "%c17", "%s"), r"\[0, 16\]"),
    "a start before 0": (f"{A}, {ranged('s', -1, 3)}", loop("%s", "%c16"), r"\[-1, 15\]"),
    "a start anywhere": (f"{A}, %s: index", loop("%s", "%c4"), "may overflow"),
    "the first of two branches": (f"{A}, %f: i1", choice("%c16", "%c0") + LOAD.format("%j"), r"\[0, 16\]"),
    "the second of two branches": (f"{A}, %f: i1", choice("%c0", "%c16") + LOAD.format("%j"), r"\[0, 16\]"),
    "in a branch": (f"{A}, %f: i1", f"scf.if %f {{ {LOAD.format('%c16')} }}", r"\[16, 16\]"),
    "the first choice": (f"{A}, %f: i1", "%j = arith.select %f, %c16, %c0 : index\n" + LOAD.format("%j"),
                         r"\[0, 16\]"),
    "the second choice": (f"{A}, %f: i1", "%j = arith.select %f, %c0, %c16 : index\n" + LOAD.format("%j"),
                          r"\[0, 16\]"),
    "vector at a row's end": (ROWS, VECTOR.format("%c0", "%c1"), r"index 1 .*\[1, 8\]"),
    "vector beyond the rows": (ROWS, VECTOR.format("%c4", "%c0"), r"index 0 .*\[4, 4\]"),
    "store beyond the rows": (ROWS, VECTOR.format("%c0", "%c0")
                              + "\nvector.store %v, %a[%c0, %c1] : memref<4x8xf32>, vector<8xf32>", r"\[1, 8\]"),
    "steps of a view": (f"{A}, {ranged('s', 0, 1)}", subview("%s", 4, 5, "memref<4xf32, strided<[5], offset: ?>>"),
                        r"offset 0 .*\[0, 16\]"),
    "a view before the start": (f"{A}, {ranged('s', -1, 1)}",
                                subview("%s", 4, 1, "memref<4xf32, strided<[1], offset: ?>>"), r"\[-1, 4\]"),
    "a shift that is not known": (f"%b: memref<80xi8>, {INDEX}",
                                  "%v = memref.view %b[%i][] : memref<80xi8> to memref<16xf32>", "constant multiple"),
    "numbers of a map that wrap": (
        f"{A}, {ranged('s', 0, 3)}",
        "%j = affine.apply affine_map<(d0) -> ((d0 * 4611686018427387904) floordiv 4611686018427387904)>(%s)\n"
        + LOAD.format("%j"), r"\[-2, 1\]"),
    "local memory with gaps": (A, "%m = memref.alloca() : memref<4x4xf32, strided<[8, 1]>>", "dense memory"),
    "local memory in parts": (A, "".join(f"%m{n} = memref.alloca() : memref<{1 << 13}xf32>\n" for n in range(9)),
                              "local memory exceeds"),
    "an op without machine code": (f"{A}, %b: memref<16xf32>",
                                   "linalg.copy ins(%a : memref<16xf32>) outs(%b : memref<16xf32>)", "cannot stand"),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case: str) -> None:
    arguments, body, message = REJECTED[case]
    with pytest.raises(VerifyError, match=message):
        uses(arguments, body)


def test_what_a_caller_must_know() -> None:
    found = uses(
        "%a: memref<4x8xf32, strided<[16, 1]>>, %b: memref<3xf64>, %c: memref<5xi8>, %i: index, "
        "%s: i8 {mdsl.range = array<i64: -3, 7>}",
        "",
    )
    assert [(use.kind, use.span, use.alignment) for use in found[:3]] == [
        ("read", 4 * (3 * 16 + 8), 4),
        ("read", 24, 8),
        ("read", 5, 1),
    ]
    assert [use.interval for use in found[3:]] == [(-(1 << 63), (1 << 63) - 1), (-3, 7)]


def test_a_kernel_on_memory_returns_nothing() -> None:
    text = "ukernel.func @k(%a: memref<4xf32>) -> memref<4xf32> { ukernel.return %a : memref<4xf32> }"
    (func,) = parse(text).body.ops
    assert isinstance(func, UkernelFunc)
    with pytest.raises(VerifyError, match="returns nothing"):
        prove(func)
