"""What the proof of a kernel's bounds accepts, and how it says no."""

from __future__ import annotations

import pytest
from proving import INDEX, A, proved

from mdsl.codegen.kernels import load_kernels
from mdsl.errors import MdslError
from mdsl.ir.core import VerifyError

ACCEPTED = {
    "a prefetch may point anywhere": (
        A,
        """memref.prefetch %a[%c17], read, locality<3>, data : memref<16xf32>
           %v = memref.load %a[%c0] : memref<16xf32>""",
    ),
    "constant": (A, "%v = memref.load %a[%c15] : memref<16xf32>"),
    "index in its declared range": (f"{A}, {INDEX}", "%v = memref.load %a[%i] : memref<16xf32>"),
    "last vector of a loop": (
        "%a: memref<20xf32>",
        """scf.for %i = %c0 to %c17 step %c4 {
             %v = vector.load %a[%i] : memref<20xf32>, vector<4xf32>
           }""",
    ),
    "columns of a block, repeated": (
        "%a: memref<8x4xf32>, %x: memref<f32>",
        """%p = memref.load %x[] : memref<f32>
           %v = vector.transfer_read %a[%c4, %c1], %p {permutation_map = affine_map<(d0, d1) -> (d1, 0, d0)>,
               in_bounds = [true, true, true]} : memref<8x4xf32>, vector<3x9x4xf32>""",
    ),
    "a loop that never runs": (
        A,
        "scf.for %i = %c17 to %c16 step %c1 { %v = memref.load %a[%i] : memref<16xf32> }",
    ),
    "clamped data": (
        f"{A}, %d: memref<1xi32>",
        """%x = memref.load %d[%c0] : memref<1xi32>
           %i = arith.index_cast %x : i32 to index
           %low = arith.maxsi %i, %c0 : index
           %j = arith.minsi %low, %c15 : index
           %v = memref.load %a[%j] : memref<16xf32>""",
    ),
    "affine": (
        f"{A}, {INDEX}",
        """%j = affine.apply affine_map<(d0) -> (d0 floordiv 4 * 4 + d0 mod 2)>(%i)
           %v = memref.load %a[%j] : memref<16xf32>""",
    ),
    "choice": (
        f"{A}, {INDEX}, %f: i1",
        """%j = scf.if %f -> (index) { scf.yield %i : index } else { scf.yield %c15 : index }
           %k = arith.select %f, %j, %c4 : index
           %v = memref.load %a[%k] : memref<16xf32>""",
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    assert proved(*ACCEPTED[case])[0][0] == "read"


REJECTED = {
    "past the end": (
        A,
        "%v = memref.load %a[%c16] : memref<16xf32>",
        r"memref.load.*index 0 .*dimension of 16.*\[16, 16\]",
    ),
    "vector past the end": (
        A,
        "%v = vector.load %a[%c1] : memref<16xf32>, vector<16xf32>",
        r"reaches \[1, 16\]",
    ),
    "block past the end of its rows": (
        "%a: memref<8x4xf32>, %x: memref<f32>",
        """%p = memref.load %x[] : memref<f32>
           %v = vector.transfer_read %a[%c4, %c1], %p {permutation_map = affine_map<(d0, d1) -> (d1, d0)>,
               in_bounds = [true, true]} : memref<8x4xf32>, vector<3x5xf32>""",
        r"index 0 .*dimension of 8: it reaches \[4, 8\]",
    ),
    "block written past the end of its columns": (
        "%a: memref<8x4xf32>",
        """%v = arith.constant dense<0.0> : vector<2x4xf32>
           vector.transfer_write %v, %a[%c0, %c1] {permutation_map = affine_map<(d0, d1) -> (d0, d1)>,
               in_bounds = [true, true]} : vector<2x4xf32>, memref<8x4xf32>""",
        r"index 1 .*dimension of 4: it reaches \[1, 4\]",
    ),
    "vectors that a loop carries": (
        A,
        "%v = arith.constant dense<0.0> : vector<4096x1xf32>\n"
        f"%r:64 = scf.for %i = %c0 to %c1 step %c1 iter_args({', '.join(f'%v{i} = %v' for i in range(64))})"
        f" -> ({', '.join(['vector<4096x1xf32>'] * 64)}) {{\n"
        f"scf.yield {', '.join(f'%v{i}' for i in range(64))} : {', '.join(['vector<4096x1xf32>'] * 64)} }}",
        "too large to be compiled",
    ),
    "store past the end": (
        f"{A}, %x: i32",
        "%f = arith.sitofp %x : i32 to f32\nmemref.store %f, %a[%c17] : memref<16xf32>",
        "memref.store",
    ),
    "unknown index": (f"{A}, %i: index", "%v = memref.load %a[%i] : memref<16xf32>", "not provably"),
    "negative": (
        A,
        "%m = arith.subi %c0, %c1 : index\n%v = memref.load %a[%m] : memref<16xf32>",
        r"\[-1, -1\]",
    ),
    "row end": (
        "%a: memref<4x8xf32, strided<[512, 1], offset: ?>>",
        "%v = memref.load %a[%c0, %c8] : memref<4x8xf32, strided<[512, 1], offset: ?>>",
        "index 1",
    ),
    "loop too far": (
        A,
        "scf.for %i = %c0 to %c17 step %c1 { %v = memref.load %a[%i] : memref<16xf32> }",
        r"reaches \[0, 16\]",
    ),
    "step zero": (
        A,
        "scf.for %i = %c0 to %c4 step %c0 { %v = memref.load %a[%i] : memref<16xf32> }",
        "step must be positive",
    ),
    "unknown step": (f"{A}, %i: index", "scf.for %j = %c0 to %c4 step %i { }", "step must be positive"),
    "loop to anywhere": (f"{A}, %i: index", "scf.for %j = %c0 to %i step %c1 { }", "may overflow"),
    "carried index": (
        A,
        """%r = scf.for %i = %c0 to %c4 step %c1 iter_args(%j = %c0) -> (index) {
             %v = memref.load %a[%j] : memref<16xf32>
             %n = arith.addi %j, %c1 : index
             scf.yield %n : index
           }""",
        "not provably",
    ),
    "data": (
        f"{A}, %d: memref<1xindex>",
        "%i = memref.load %d[%c0] : memref<1xindex>\n%v = memref.load %a[%i] : memref<16xf32>",
        "not provably",
    ),
    "wrapped": (
        f"{A}, %x: i8",
        """%y = arith.addi %x, %x : i8
           %i = arith.index_cast %y : i8 to index
           %j = arith.maxsi %i, %c0 : index
           %v = memref.load %a[%j] : memref<16xf32>""",
        r"reaches \[0, 127\]",
    ),
    "subview too far": (
        f"{A}, {INDEX}",
        "%s = memref.subview %a[%i] [2] [1] : memref<16xf32> to memref<2xf32, strided<[1], offset: ?>>",
        "offset 0",
    ),
    "view too far": (
        "%b: memref<64xi8>",
        "%v = memref.view %b[%c4][] : memref<64xi8> to memref<16xf32>",
        "byte shift",
    ),
    "view not aligned": (
        "%b: memref<80xi8>",
        "%v = memref.view %b[%c1][] : memref<80xi8> to memref<16xf32>",
        "multiple of 4",
    ),
    "carried memref": (
        A,
        """%r = scf.for %i = %c0 to %c4 step %c1 iter_args(%m = %a) -> (memref<16xf32>) {
             scf.yield %m : memref<16xf32>
           }""",
        "must come from an argument",
    ),
    "chosen memref": (
        f"{A}, %b: memref<16xf32>, %f: i1",
        "%m = arith.select %f, %a, %b : memref<16xf32>",
        "must come from an argument",
    ),
    "large frame": (A, "%m = memref.alloca() : memref<100000xf32>", "local memory exceeds"),
    "large vector": (
        A,
        "%m = arith.constant dense<0.0> : vector<100000xf32>",
        "no vector of 1 to 4096 elements",
    ),
    "sign of a bit": (
        A,
        """%t = arith.constant true
           %e = arith.extsi %t : i1 to i64
           %i = arith.index_cast %e : i64 to index
           %v = memref.load %a[%i] : memref<16xf32>""",
        "not provably",
    ),
    "bit as an index": (
        A,
        "%t = arith.constant true\n%i = arith.index_cast %t : i1 to index\n%v = memref.load %a[%i] : memref<16xf32>",
        "not provably",
    ),
    "lesser of two bits": (
        "%a: memref<1xf32>",
        """%t = arith.constant true
           %f = arith.constant false
           %m = arith.minsi %t, %f : i1
           %e = arith.extui %m : i1 to i64
           %i = arith.index_cast %e : i64 to index
           %v = memref.load %a[%i] : memref<1xf32>""",
        r"reaches \[0, 1\]",
    ),
    "large frame that is never used": (
        A,
        "scf.for %i = %c4 to %c0 step %c1 { %m = memref.alloca() : memref<100000xf32> }",
        "local memory exceeds",
    ),
    "large vector that is never made": (
        A,
        "scf.for %i = %c4 to %c0 step %c1 { %m = arith.constant dense<0.0> : vector<100000xf32> }",
        "no vector of 1 to 4096 elements",
    ),
    "range that is none": ("%i: index {mdsl.range = array<i64: 5, 3>}", "", "'mdsl.range' must be the least"),
    "range of infinities": ("%i: index {mdsl.range = array<f64: 0.0, 1.0e400>}", "", "'mdsl.range' must be"),
    "range that is no number": (
        "%i: index {mdsl.range = array<f64: 0.0, 0x7FF8000000000000>}",
        "",
        "'mdsl.range'",
    ),
    "range of floats": ("%i: index {mdsl.range = array<f64: 0.0, 3.0>}", "", "'mdsl.range' must be"),
    "range of one number": ("%i: index {mdsl.range = array<i64: 0>}", "", "'mdsl.range' must be"),
    "range of no array": ("%i: index {mdsl.range = [0, 3]}", "", "'mdsl.range' must be"),
    "range beyond its type": ("%i: i8 {mdsl.range = array<i64: 0, 300>}", "", "the greatest i8"),
    "product beyond 64 bits": (
        f"{A}, {INDEX}",
        """%j = affine.apply affine_map<(d0) -> ((d0 * 4611686018427387904 * 4 + d0) mod 16)>(%i)
           %k = affine.apply affine_map<(d0) -> (d0 * 4611686018427387904 * 4)>(%i)
           %v = memref.load %a[%k] : memref<16xf32>""",
        "reaches",
    ),
    "least number by -1": (
        "%a: memref<1xf32>, %i: index",
        """%m = arith.constant -1 : index
           %q = arith.floordivsi %i, %m : index
           %low = arith.maxsi %q, %c0 : index
           %v = memref.load %a[%low] : memref<1xf32>""",
        r"reaches \[0, 9223372036854775807\]",
    ),
    "sum of loop bound and step": (
        A,
        """%s = arith.constant 9223372036854775807 : index
           scf.for %i = %c0 to %c4 step %s { %v = memref.load %a[%i] : memref<16xf32> }""",
        "may overflow",
    ),
    "lanes of all vectors": (
        "%a: memref<4096xf64>",
        "%v0 = vector.load %a[%c0] : memref<4096xf64>, vector<4096xf64>\n"
        + "".join(f"%v{i + 1} = math.powf %v{i}, %v0 : vector<4096xf64>\n" for i in range(2)),
        "too large to be compiled",
    ),
    "constants of many lanes": (
        A,
        "".join(f"%s{i} = vector.step : vector<4096xindex>\n" for i in range(70)),
        "too large to be compiled",
    ),
    "lanes that are only stored": (
        "%a: memref<4096xf32>",
        "%v = vector.load %a[%c0] : memref<4096xf32>, vector<4096xf32>\n"
        + "vector.store %v, %a[%c0] : memref<4096xf32>, vector<4096xf32>\n" * 64,
        "too large to be compiled",
    ),
    "a long map many times": (
        INDEX,
        "".join(
            f"%j{i} = affine.apply affine_map<(d0) -> ({' + '.join(['d0 floordiv 3'] * 100)})>(%i)\n"
            for i in range(90)
        ),
        "too large to be compiled",
    ),
    "blocks": ("%f: i1", "scf.if %f { }\n" * 2100, "too large to be compiled"),
    "unknown shape": ("%a: memref<?xf32>", "", "static shape"),
    "float argument": ("%x: f32", "", "must be a memref, an index or an integer"),
    "tensor": ("%x: tensor<4xf32>", "", "no machine code for type tensor<4xf32>"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case: str) -> None:
    arguments, body, message = REJECTED[case]
    with pytest.raises(VerifyError, match=message):
        proved(arguments, body)


def test_kinds_follow_views() -> None:
    uses = proved(
        "%a: memref<16xf32>, %b: memref<16xf32>, %c: memref<2x4xi8>",
        """%s = memref.subview %b[4] [4] [2] : memref<16xf32> to memref<4xf32, strided<[2], offset: 4>>
           %v = memref.load %a[%c0] : memref<16xf32>
           memref.store %v, %s[%c1] : memref<4xf32, strided<[2], offset: 4>>""",
    )
    assert uses == [("read", 64), ("write", 64), ("read", 8)]


@pytest.mark.parametrize(
    "source",
    [
        "ukernel.func @k(",
        "ukernel.func @other() { ukernel.return }",
        "ukernel.func @k() { ukernel.return }\nukernel.func @l() { ukernel.return }",
        "func.func @k() { func.return }",
        'ukernel.func @k() { "os.system"() : () -> ()\nukernel.return }',
        "ukernel.func @k() { %c = arith.constant dense_resource<w> : vector<4xf32>\nukernel.return }",
        "ukernel.func @k(%a: tensor<4xf32>) -> tensor<4xf32> { ukernel.return %a : tensor<4xf32> }",
        "ukernel.func @k() { %c = arith.constant dense<1> : vector<4xi8>\n"
        "%d = vector.fma %c, %c, %c : vector<4xi8>\nukernel.return }",
        "ukernel.func @k(%b: i1) { " + "scf.if %b { " * 300 + "}" * 300 + "ukernel.return }",
    ],
)
def test_hostile_text_is_an_error(source: str) -> None:
    with pytest.raises((VerifyError, MdslError)):
        load_kernels({"k": source})
