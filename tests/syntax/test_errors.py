"""Bad text: one clear message, at the place, with the line and a caret."""

from __future__ import annotations

import re

import pytest

from mdsl.errors import MdslError
from mdsl.syntax.parser import parse

# Each text marks the place that the caret must point to with «».
TABLE = [
    # Literals and types that no reader can make sense of
    ('func.func @main() attributes {a = «"\\q"»} {\n  func.return\n}', "no escape '\\q' in a string"),
    ('func.func @main() {\n  func.return loc("f":«0x1»:2)\n}', "expected a natural number, got '0x1'"),
    ("func.func @main(%x: «memref<4xf32, strided<[4.5]>>») {\n  func.return\n}", "no type 'memref<4xf32"),
    ("func.func @main(%x: «memref<4x4xf32, strided<[4]>>») {\n  func.return\n}", "no type 'memref<4x4xf32"),
    ("func.func @main(%x: «memref<4xf32, strided<[1, 7]>>») {\n  func.return\n}", "no type 'memref<4xf32"),
    ("func.func @main(%x: «tensor<4xf32, strided<[1]>>») {\n  func.return\n}", "no type 'tensor<4xf32"),
    ("%a = affine.apply «affine_map<() -> (1 mod 0)>»()", "a map divides by 0"),
    # Operands that an op cannot be built on
    (
        "func.func @f(%x: f32, %i: index) {\n  %y = «memref.load» %x[%i] : f32\n  func.return\n}",
        "operand 'memory' must be a memref, got f32",
    ),
    ('«"func.func"»() <{sym_name = "f", function_type = i32}> ({}) : () -> ()', "must be a function type"),
    (
        "func.func @f(%x: tensor<4xf32>) {\n  %y = «nn.softmax» %x {axes = 0} : (tensor<4xf32>) -> tensor<4xf32>\n"
        "  func.return\n}",
        "has no attribute 'axes'; did you mean 'axis'?",
    ),
    (
        "func.func @f(%x: tensor<4xf32>) {\n  %y = «nn.softmax» %x {mode = 0} : (tensor<4xf32>) -> tensor<4xf32>\n"
        "  func.return\n}",
        "has no attribute 'mode'; it may have axis",
    ),
    ("func.func @f(%x: f32) {\n  %y = «negf» %x : f32\n  func.return\n}", "did you mean 'arith.negf'?"),
    # Syntax
    ("%a = arith.constant«» ", "expected an attribute after 'arith.constant'"),
    ("func.func @main() {\n  func.return«»\n", "got the end of the text"),
    ("%a = arith.constant 1 : i32 «}»", "got '}'"),
    ("%a = arith.constant «?» : i32", "got '?'"),
    ("«%a» arith", "expected an operation or the end of the text, got '%a'"),
    ("func.func @main() ->«» {\n func.return\n}", ""),
    ("«;»", "got ';'"),
    ('%a = arith.constant «"»abc', ""),
    # Brackets hold what the op's form says, and nothing else
    (
        "func.func @f(%x: memref<4xf32>, %i: index) {\n  %y = memref.load %x[%i «5»] : memref<4xf32>\n  func.return\n}",
        "unexpected '5' after what stands in '[]'",
    ),
    (
        "func.func @f(%x: tensor<4xf32>) {\n  %y = tensor.concat dim(0«,» 1) %x : (tensor<4xf32>) -> tensor<4xf32>\n"
        "  func.return\n}",
        "unexpected ',' after what stands in '()'",
    ),
    ("%y = tensor.empty «:» tensor<4xf32>", "expected '(', got ':'"),
    (
        "func.func @f(%x: memref<8xi8>, %i: index) {\n  %y = memref.view %x[%i] «:» memref<8xi8> to memref<2xf32>\n"
        "  func.return\n}",
        "expected '[', got ':'",
    ),
    # Names
    ("%a = «arith.adf» %b, %b : f32", "unknown operation 'arith.adf'; did you mean 'arith.addf'?"),
    ("%a = «arith.constants» 1 : i32", "unknown operation 'arith.constants'; did you mean 'arith.constant'?"),
    (
        "%count = arith.constant 1 : i32\n%b = arith.addi «%cout», %count : i32",
        "%cout is not defined; did you mean 'count'?",
    ),
    ("%a = arith.constant 1 : i32\n«%a =» arith.constant 2 : i32", "%a is already defined"),
    ("func.func @main(%a: f32) {\n  func.return\n}\n%b = arith.negf «%a» : f32", "%a is not defined"),
    (
        "%a = arith.constant 1 : i32\nfunc.func @main() {\n  %b = arith.addi «%a», %a : i32\n  func.return\n}",
        "%a is not defined",
    ),
    ("func.func @main(%a: f32, «%a»: f32) {\n  func.return\n}", "%a is already defined"),
    ("«%a, %b =» arith.constant 1 : i32", "'arith.constant' has 1 results, but other names are written"),
    ("%a = affine.apply «#map»()", "#map is not defined"),
    ("func.func @f() {\n  func.return\n}\n«func.func» @f() {\n  func.return\n}", "@f is already defined"),
    ("func.func @f() {\n  «func.call» @g() : () -> ()\n  func.return\n}", "@g is not defined"),
    (
        '%a = "arith.constant"() {value = 1 : i32, «value» = 2 : i32} : () -> i32',
        "attribute 'value' is given twice",
    ),
    # Types
    ("%a = arith.constant 1 : «i33»", "no type 'i33'"),
    ("%a = tensor.empty() : tensor<4x«f33»>", ""),
    ("%a = tensor.empty() : «!unknown»", ""),
    (
        "%a = arith.constant 1 : i32\n%b = arith.addi %a, %a : «i64»",
        "%a is of type i32, but i64 is written here",
    ),
    (
        '%a = arith.constant 1 : i32\n%b = "arith.addi"(«%a», %a) : (i64, i32) -> i32',
        "%a is of type i32, but i64 is written here",
    ),
    (
        '%a = arith.constant 1 : i32\n%b = «"arith.addi"»(%a) : (i32, i32) -> i32',
        "1 operands, but 2 operand types",
    ),
    (
        "%a = arith.constant 1.5 : f32\n%b = «arith.addi» %a, %a : f32",
        "operand 'lhs' must be an integer, or a vector or tensor of integers, got f32",
    ),
    ("%a = arith.constant 1 : i32\n%b = «arith.extsi» %a : i32 to i8", "must widen, from 32 to 8 bits"),
    ("%a = arith.constant «300» : i8", "300 does not fit in i8"),
    ("%a = arith.constant «1.5» : i32", "1.5 is not an integer"),
    ("%a = arith.constant «0x1FFFFFFFFFFFFFFFFF» : f32", "does not fit in f32"),
    ("%a = arith.constant dense<[«1», 2, 3]> : tensor<2xi32>", "dense data of shape [3] for tensor<2xi32>"),
    ("%a = arith.constant dense<[1, «300»]> : tensor<2xi8>", "300 does not fit in i8"),
    ("%a = arith.constant dense<«1.5»> : tensor<2xi32>", "1.5 is not an integer"),
    ("%a = arith.constant dense<1> : «tensor<?xi32>»", "dense data needs a static shape, not tensor<?xi32>"),
    ("%a = arith.constant dense_resource<«w»> : tensor<2xf32>", "resource 'w' is not in the text"),
    # Contracts
    ("%a = arith.constant 1 : i32\n%b = arith.cmpi «below», %a, %a : i32", "expected a predicate (eq, ne"),
    ('%a = «"arith.constant"»() : () -> i32', "attribute 'value' is missing (a number or dense data)"),
    (
        '%a = «"arith.constant"»() {value = "x"} : () -> i32',
        "attribute 'value' must be a number or dense data, got \"x\"",
    ),
    ("func.func @main() -> f32 {\n  «func.return»\n}", "returns (), the function declares () -> f32"),
    ("«func.func» @main() {\n}", "the body must end in 'func.return'"),
    (
        "func.func @main(%m: memref<4xf32>, %i: index) {\n  %a = «memref.load» %m[%i, %i] : memref<4xf32>\n  func.return\n}",
        "2 indices for memref<4xf32>",
    ),
    (
        "func.func @main(%x: tensor<4xf32>) {\n  %a = «tensor.extract_slice» %x[2] [3] [1] : tensor<4xf32> to tensor<3xf32>\n  func.return\n}",
        "[2] [3] [1] leaves a dimension of 4",
    ),
    (
        "func.func @main(%x: tensor<4x4xf32>, %y: tensor<3x4xf32>) {\n  %a = «linalg.matmul» ins(%x, %y : tensor<4x4xf32>, tensor<3x4xf32>) outs(%x : tensor<4x4xf32>) -> tensor<4x4xf32>\n  func.return\n}",
        "in a dimension of 3",
    ),
    (
        "func.func @main(%x: f32) {\n  «ukernel.dispatch» @main(%x) {outs = 0} : (f32)\n  func.return\n}",
        "@main is not a micro-kernel of this module",
    ),
    (
        "func.func @main(%x: f32) {\n  «func.return»\n  func.return\n}",
        "must be the last operation of its block",
    ),
]


@pytest.mark.parametrize(("text", "message"), TABLE, ids=[str(i) for i in range(len(TABLE))])
def test_message_and_place(text: str, message: str) -> None:
    start, end = text.index("«"), text.index("»") - 1
    plain = text.replace("«", "").replace("»", "")
    line = plain.count("\n", 0, start) + 1
    column = start - (plain.rfind("\n", 0, start) + 1) + 1
    with pytest.raises(MdslError) as error:
        parse(plain, "net.mir")
    head, shown, carets = str(error.value).split("\n")
    assert head.startswith(f"net.mir:{line}:{column}: error: "), head
    assert message in head
    assert shown == plain.split("\n")[line - 1]
    assert carets.index("^") == column - 1
    if end > start:
        assert carets.count("^") <= end - start


def test_the_caret_stands_under_a_tab() -> None:
    with pytest.raises(MdslError) as error:
        parse("\t\t%a = arith.nothing 1")
    assert str(error.value).split("\n")[2] == "\t\t     " + "^" * len("arith.nothing")


def test_no_text_crashes_the_parser() -> None:
    """Every prefix, and every text with one piece gone, is a program or an MdslError."""
    text = """#m = affine_map<(d0)[s0] -> (d0 * 2 + s0)>
func.func @main(%x: tensor<4xf32> {mdsl.name = "x"}, %i: index) -> tensor<4xf32> {
  %c = arith.constant dense<[1.0, 0x7F800000, -2.0, 0.5]> : tensor<4xf32>
  %y:2 = "scf.for"(%i, %i, %i, %x, %c) ({
  ^bb0(%k: index, %a: tensor<4xf32>, %b: tensor<4xf32>):
    scf.yield %b, %a : tensor<4xf32>, tensor<4xf32>
  }) : (index, index, index, tensor<4xf32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
  %j = affine.apply #m(%i)[%i]
  %p = tensor.extract_slice %y#1[%j] [2] [1] : tensor<4xf32> to tensor<2xf32>
  func.return %y#0 : tensor<4xf32>
}
"""
    parse(text)
    pieces = re.findall(r"[%#@^!\w.$]+|\s+|.", text)
    starts = [sum(map(len, pieces[:i])) for i in range(len(pieces))]
    candidates = [text[:s] for s in starts] + [
        text[:s] + text[s + len(p) :] for s, p in zip(starts, pieces, strict=True)
    ]
    for candidate in candidates:
        try:
            parse(candidate)
        except MdslError as error:
            assert "error: " in str(error)
