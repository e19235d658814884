"""What the verifier refuses, on IR that no text could make or that the generic form spells out."""

from __future__ import annotations

import pytest

from mdsl.dialects import arith, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp, Return
from mdsl.errors import MdslError
from mdsl.ir.core import Block, Builder, Region, VerifyError
from mdsl.ir.registry import operations
from mdsl.ir.types import f32, index
from mdsl.ir.verifier import verify
from mdsl.syntax.parser import parse


def function() -> tuple[ModuleOp, FuncOp, Builder]:
    func = FuncOp.make("main", [f32, index], [], ["x", "n"])
    end = func.body.append(Return([]))
    module = ModuleOp(regions=[Region(Block())])
    module.body.append(func)
    return module, func, Builder.before(end)


def test_a_value_of_an_erased_op() -> None:
    module, func, builder = function()
    neg = builder.add(arith.NegF(func.args[0]), "neg")
    builder.add(arith.NegF(neg.result))
    neg.detach()
    with pytest.raises(VerifyError, match="operand %neg belongs to an erased operation"):
        verify(module)


def test_a_value_from_inside_a_loop() -> None:
    module, func, builder = function()
    n = func.args[1]
    loop = builder.add(scf.For.make(n, n, n))
    inner = loop.body.append(arith.NegF(func.args[0]))
    loop.body.append(scf.Yield([]))
    builder.add(arith.NegF(inner.result))
    with pytest.raises(VerifyError, match="does not dominate its use"):
        verify(module)


def test_a_value_of_another_function() -> None:
    module, func, _ = function()
    other = FuncOp.make("other", [], [])
    other.body.append(arith.NegF(func.args[0]))
    other.body.append(Return([]))
    module.body.append(other)
    with pytest.raises(VerifyError, match="%x does not dominate its use"):
        verify(module)


def test_blocks_end_in_terminators() -> None:
    module, func, builder = function()
    n = func.args[1]
    loop = builder.add(scf.For.make(n, n, n))
    loop.body.append(arith.NegF(func.args[0]))
    with pytest.raises(VerifyError, match="the last operation in 'scf.for' must be a terminator"):
        verify(module)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ('%r = "arith.addf"(%x) : (f32) -> f32', "takes 2 operands, got 1"),
        ('%r, %q = "arith.addf"(%x, %x) : (f32, f32) -> (f32, f32)', "takes 1 results, got 2"),
        ('%r = "arith.addf"(%x, %n) : (f32, index) -> f32', "operand 'rhs' must be a float"),
        (
            '%r = "arith.addf"(%x, %x) : (f32, f32) -> f64',
            "operands and results must be of one type, got f32, f64",
        ),
        (
            '"scf.for"(%n, %n) ({\n^bb0(%i: index):\n scf.yield\n}) : (index, index) -> ()',
            "takes at least 3 operands, got 2",
        ),
        ('"scf.for"(%n, %n, %n) : (index, index, index) -> ()', "the body must take the counter"),
        ('"memref.store"(%x) : (f32) -> ()', "takes at least 2 operands, got 1"),
        ('%r = "arith.cmpf"(%x, %x) {predicate = 16 : i64} : (f32, f32) -> i1', "predicate must be 0 to 15"),
        ('%r = "arith.constant"() {value = 1.0 : f64} : () -> f32', "value 1.0 : f64 is not of type f32"),
        ('%r = "memref.alloc"(%n) : (index) -> memref<?xf32>', "attribute 'operandSegmentSizes' is missing"),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 1>} : (index) -> memref<?xf32>',
            "'operandSegmentSizes' must be 2 numbers",
        ),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 2, -1>} : (index) -> memref<?xf32>',
            "'operandSegmentSizes' must be 2 numbers",
        ),
        (
            '%r = "memref.alloc"(%n) {operandSegmentSizes = array<i32: 1, 1>} : (index) -> memref<?xf32>',
            "operandSegmentSizes do not fit 1 operands",
        ),
        (
            '%r = "memref.alloc"() {operandSegmentSizes = array<i32: 0, 0>} : () -> memref<?xf32>',
            "0 values for 1 unknown sizes",
        ),
        ('%r = "tensor.empty"(%n) : (index) -> tensor<4xf32>', "1 values for 0 unknown sizes"),
        (
            "%d = tensor.empty() : tensor<1x1x2x2xf32>\n%s = tensor.empty() : tensor<2x1xf32>\n"
            "%r = linalg.pack %s inner_dims_pos = [0, 0] inner_tiles = [2, 2] into %d"
            " : tensor<2x1xf32> -> tensor<1x1x2x2xf32>",
            "inner_dims_pos and inner_tiles do not fit",
        ),
        ("%r = arith.select %x, %x, %x : f32, f32, f32", ""),
    ],
)
def test_generic_ops(op: str, message: str) -> None:
    with pytest.raises(MdslError) as error:
        parse(f"func.func @main(%x: f32, %n: index) {{\n{op}\nfunc.return\n}}")
    assert message in str(error.value)


def test_every_declaration_is_documented() -> None:
    assert len(operations()) > 100
    for name, declaration in operations().items():
        assert declaration.name == name
        assert declaration.__doc__, f"{name} says nothing of what it does"
        fields = [f.name for f in declaration.fields]
        assert len(set(fields)) == len(fields), name
