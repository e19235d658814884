"""bind: every dynamic op becomes the static one that means the same, and what goes wrong is told clearly."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mdsl
from mdsl.bytecode.module import TensorSpec
from mdsl.compiler.driver import bind_dims
from mdsl.compiler.entry import open_signature, random_arrays
from mdsl.dialects.nn.dynamic import Dynamic
from mdsl.errors import MdslError
from mdsl.ir.types import ShapedType
from mdsl.ir.verifier import verify
from mdsl.reference import run
from mdsl.runtime.signature import sizes_of
from mdsl.syntax.parser import parse


def main(arguments: str, body: str, result: str) -> str:
    return f"func.func @main({arguments}) -> {result} {{\n{body}\n  return %y : {result}\n}}\n"


def numbers(name: str, *values: int) -> str:
    return f"  %{name} = arith.constant dense<[{', '.join(map(str, values))}]> : tensor<{len(values)}xi64>\n"


N = '%x: tensor<?x6xf32> {mdsl.dims = ["n", ""]}'

PROGRAMS: dict[str, str] = {
    "reshape, one size that remains": main(
        N, "  %y = nn.reshape %x : (tensor<?x6xf32>) -> tensor<?x2x3xf32>", "tensor<?x2x3xf32>"
    ),
    "reshape, sizes taken and one that remains": main(
        N,
        numbers("s", 0, 3, -1)
        + "  %y = nn.dynamic_reshape %x, %s : (tensor<?x6xf32>, tensor<3xi64>) -> tensor<?x3x?xf32>",
        "tensor<?x3x?xf32>",
    ),
    "broadcast, both ways": main(
        N,
        numbers("s", 2, 1, 1)
        + "  %y = nn.dynamic_broadcast %x, %s : (tensor<?x6xf32>, tensor<3xi64>) -> tensor<2x?x6xf32>",
        "tensor<2x?x6xf32>",
    ),
    "slice up to half of the size": main(
        N,
        "  %sizes = nn.shape %x : (tensor<?x6xf32>) -> tensor<2xi64>\n"
        "  %n = nn.slice %sizes {starts = [0], ends = [1]} : (tensor<2xi64>) -> tensor<1xi64>\n"
        + numbers("two", 2)
        + numbers("zero", 0)
        + "  %half = nn.div %n, %two : (tensor<1xi64>, tensor<1xi64>) -> tensor<1xi64>\n"
        "  %y = nn.dynamic_slice %x, %zero, %half : (tensor<?x6xf32>, tensor<1xi64>, tensor<1xi64>) -> tensor<?x6xf32>",
        "tensor<?x6xf32>",
    ),
    "slice with axes and steps": main(
        N,
        numbers("starts", -1, 0)
        + numbers("ends", -(2**63), 2**63 - 1)
        + "  %y = nn.dynamic_slice %x, %starts, %ends {axes = [1, 0], steps = [-2, 1]} : "
        "(tensor<?x6xf32>, tensor<2xi64>, tensor<2xi64>) -> tensor<?x?xf32>",
        "tensor<?x?xf32>",
    ),
    "slice of an open dimension": main(
        N,
        "  %y = nn.slice %x {starts = [1], ends = [100]} : (tensor<?x6xf32>) -> tensor<?x6xf32>",
        "tensor<?x6xf32>",
    ),
    "pad": main(
        N,
        numbers("p", 1, 0, 0, 2)
        + "  %y = nn.dynamic_pad %x, %p {value = 0.5} : (tensor<?x6xf32>, tensor<4xi64>) -> tensor<?x?xf32>",
        "tensor<?x?xf32>",
    ),
    "tile": main(
        N,
        numbers("r", 3, 2)
        + "  %y = nn.dynamic_tile %x, %r : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?x?xf32>",
        "tensor<?x?xf32>",
    ),
    "range": main(
        "%x: tensor<?xi64>",
        "  %sizes = nn.shape %x : (tensor<?xi64>) -> tensor<1xi64>\n"
        "  %n = nn.reshape %sizes : (tensor<1xi64>) -> tensor<i64>\n"
        "  %zero = arith.constant dense<0> : tensor<i64>\n"
        "  %minus = arith.constant dense<-1> : tensor<i64>\n"
        "  %down = nn.range %n, %zero, %minus : (tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<?xi64>\n"
        "  %y = nn.add %x, %down : (tensor<?xi64>, tensor<?xi64>) -> tensor<?xi64>",
        "tensor<?xi64>",
    ),
    "floats that follow from sizes": main(
        N,
        "  %sizes = nn.shape %x : (tensor<?x6xf32>) -> tensor<2xi64>\n"
        "  %float = nn.cast %sizes : (tensor<2xi64>) -> tensor<2xf32>\n"
        "  %root = nn.sqrt %float : (tensor<2xf32>) -> tensor<2xf32>\n"
        "  %last = nn.slice %root {starts = [1], ends = [2]} : (tensor<2xf32>) -> tensor<1xf32>\n"
        "  %y = nn.div %x, %last : (tensor<?x6xf32>, tensor<1xf32>) -> tensor<?x6xf32>",
        "tensor<?x6xf32>",
    ),
    "functions called with several sizes": main(
        f"{N}, %z: tensor<?x6xf32>",
        "  %a = func.call @sum(%x) : (tensor<?x6xf32>) -> tensor<1x6xf32>\n"
        "  %b = func.call @sum(%z) : (tensor<?x6xf32>) -> tensor<1x6xf32>\n"
        "  %y = nn.add %a, %b : (tensor<1x6xf32>, tensor<1x6xf32>) -> tensor<1x6xf32>",
        "tensor<1x6xf32>",
    )
    + "func.func @sum(%v: tensor<?x6xf32>) -> tensor<1x6xf32> {\n"
    '  %sum = nn.reduce %v {kind = "sum", axes = [0]} : (tensor<?x6xf32>) -> tensor<1x6xf32>\n'
    "  return %sum : tensor<1x6xf32>\n}\n",
}


SHAPES = {("x", "f32"): (5, 6), ("z", "f32"): (3, 6), ("x", "i64"): (5,)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_bound_program_is_static_and_computes_the_same(name: str) -> None:
    module = parse(PROGRAMS[name], "program.mir")
    specs = open_signature(module)[0]
    inputs = random_arrays([TensorSpec(s.name, s.dtype, SHAPES[s.name, s.dtype]) for s in specs])
    wanted = run(module, inputs)
    bound = bind_dims(module.clone(), sizes_of(specs, inputs))
    verify(bound)
    values = [v for op in bound.walk() for v in (*op.operands, *op.results)]
    assert all(v.type.is_static for v in values if isinstance(v.type, ShapedType))
    assert not any(isinstance(op, Dynamic) for op in bound.walk())
    assert "mdsl.dims" not in str(bound)
    np.testing.assert_array_equal(run(bound, inputs)[0], wanted[0])
    np.testing.assert_allclose(mdsl.compile(module)(*inputs), wanted[0], rtol=1e-5, atol=1e-5)


def test_some_dimensions_may_stay_open() -> None:
    text = '%x: tensor<?x?x6xf32> {mdsl.dims = ["n", "m", ""]}'
    body = "  %y = nn.relu %x : (tensor<?x?x6xf32>) -> tensor<?x?x6xf32>"
    module = bind_dims(parse(main(text, body, "tensor<?x?x6xf32>")), {"m": 7})
    assert '%x: tensor<?x7x6xf32> {mdsl.dims = ["n", "", ""]}' in str(module)
    assert "nn.relu %x : (tensor<?x7x6xf32>) -> tensor<?x7x6xf32>" in str(module)
    assert "tensor<4x7x6xf32>" in str(bind_dims(module, {"n": 4}))


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        (PROGRAMS["pad"], {"m": 3}, r"program.mir:1:1: error: pass 'bind': .*no dimension 'm' \(dimensions without a size: n\)"),
        (PROGRAMS["pad"], {"n": -1}, "at least 0"),
        (PROGRAMS["pad"], {"n": 1 << 60}, "more elements than can be addressed"),
        (
            main("%x: tensor<?xf32>, %s: tensor<1xi64>", "  %y = nn.dynamic_reshape %x, %s : (tensor<?xf32>, tensor<1xi64>) -> tensor<?xf32>", "tensor<?xf32>"),
            {"x.0": 4},
            r"program.mir:2:8: error: pass 'bind': 'nn.dynamic_reshape': the shape of its result tensor<\?xf32> does not follow "
            r"from the inputs' shapes: it depends on the numbers in %s",
        ),
        (
            main("%x: tensor<?x4xf32>, %z: tensor<3x4xf32>", "  %y = nn.add %x, %z : (tensor<?x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>", "tensor<3x4xf32>"),
            {"x.0": 2},
            r"program.mir:2:8: error: pass 'bind': 'nn.add': shapes 2x4 and 3x4 do not broadcast together",
        ),
        (
            main(N, numbers("s", 4, -1) + "  %y = nn.dynamic_reshape %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<4x?xf32>", "tensor<4x?xf32>"),
            {"n": 3},
            r"the 18 elements of tensor<3x6xf32> do not fill tensor<4x\?xf32>",
        ),
        (
            main("%x: tensor<?xf32>", "  %a = nn.shape %x : (tensor<?xf32>) -> tensor<1xi64>\n  %n = nn.reshape %a : (tensor<1xi64>) -> tensor<i64>\n"
            "  %c = arith.constant dense<1> : tensor<i64>\n  %z = arith.constant dense<0> : tensor<i64>\n"
            "  %y = nn.range %z, %n, %c : (tensor<i64>, tensor<i64>, tensor<i64>) -> tensor<?xi64>", "tensor<?xi64>"),
            {"x.0": 10**9},
            "from 0 to 1000000000 by 1 is more than 65536 numbers",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_bound(text: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(MdslError, match=message):
        bind_dims(parse(text, "program.mir"), sizes)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ('["n"]', "mdsl.dims of %x must hold 2 strings, one a dimension"),
        ('["n", "m"]', 'mdsl.dims of %x: "m" names a dimension of known size 6'),
        ('["a=b", ""]', 'mdsl.dims of %x: "a=b" is not the name of a dimension'),
        ('"n"', "mdsl.dims of %x must hold 2 strings"),
    ],
)
def test_names_are_verified(dims: str, message: str) -> None:
    text = PROGRAMS["pad"].replace('["n", ""]', dims)
    with pytest.raises(MdslError, match=re.escape(message)):
        parse(text)


def test_a_dynamic_op_is_not_lowered() -> None:
    with pytest.raises(MdslError, match="the shape of its result is computed; --bind makes it a number"):
        mdsl.opt(PROGRAMS["pad"], "lower-nn")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("nn.dynamic_reshape %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?x?x?xf32>", "shape must have 3 elements"),
        ("nn.dynamic_reshape %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?x?xi64>", "cannot change the element type"),
        ("nn.dynamic_broadcast %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?xf32>", "must have 2 dimensions"),
        ("nn.dynamic_slice %x, %s, %s {axes = [0]} : (tensor<?x6xf32>, tensor<2xi64>, tensor<2xi64>) -> tensor<?x?xf32>", "equal lengths"),
        ("nn.dynamic_pad %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?x?xf32>", "pads must have 4 elements"),
        ("nn.dynamic_tile %x, %s : (tensor<?x6xf32>, tensor<2xi64>) -> tensor<?xf32>", "must have 2 dimensions"),
        ("nn.shape %x : (tensor<?x6xf32>) -> tensor<3xi64>", "the result is a tensor<2xi64>"),
    ],
)  # fmt: skip
def test_operands_are_verified(op: str, message: str) -> None:
    result = op.rpartition("-> ")[2]
    with pytest.raises(MdslError, match=message):
        parse(main(N, numbers("s", 1, 1) + f"  %y = {op}", result))
