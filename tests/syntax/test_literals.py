"""Literals are read bit by bit, and refused where upstream refuses them, whose parser is the judge."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mdsl
from mdsl.errors import MdslError
from mdsl.ir.attributes import DenseArrayAttr, DenseAttr, FloatAttr
from mdsl.ir.floats import bits_of, of_bits, to_numpy, to_python
from mdsl.ir.types import FLOATS, TensorType, Type, bf16, dtype_of, f16, f32, f64
from mdsl.syntax.parser import parse
from tests.upstream import SPLIT, needs_upstream, read_by_upstream

READ = """
0x1 : f32 | 0x7F800001 : f32 | 0x00000000000000007F800000 : f32 | 0x7FC1 : bf16 | 0xFF81 : bf16 | 0x7C01 : f16
0xFFF0000000000001 : f64 | 1. : f32 | 1.e5 : f32 | -1.5e-3 : f16 | 1.0E400 : f64 | 1.0E40 : f32 | 1.0E10 : f16
1.00390625000090949 : bf16 | -0.0 : f32 | 0xFF : i8 | -0x1 : i8 | -0x80 : i8 | 255 : i8 | -128 : i8 | 1 : i1 | -1 : i1
0x1 : i1 | true | 18446744073709551615 : i64 | -9223372036854775808 : i64 | 9223372036854775807 : index
dense<0x7F800001> : tensor<2xf32> | dense<-0x1> : tensor<2xi32> | dense<[1, 0, -1]> : tensor<3xi1>
dense<18446744073709551615> : tensor<2xi64> | dense<[0xFF81, 2.0]> : tensor<2xbf16> | dense<[-0.0, 0.0]> : tensor<2xf32>
dense<[[0x7C01, 1.0], [0xFE00, -0.0]]> : tensor<2x2xf16> | dense<0x7FF0000000000001> : tensor<f64>
dense<"0xFF"> : tensor<8xi1> | dense<"0x010001"> : tensor<3xi1> | dense<"0x0000803F"> : tensor<4xf32>
dense<"0x0100807F0000803F"> : tensor<2xf32> | dense<"0x"> : tensor<0xf32> | dense<"0x01FF"> : tensor<1xi16>
dense<> : tensor<2x0xf32> | dense<[]> : tensor<0xf32> | dense<[[], []]> : tensor<2x0xf32> | dense<1.0e400> : tensor<f32>
"""
REFUSED = """
-0x1 : f32 | 0x17F800000 : f32 | 0x12345 : f16 | 0x12345 : bf16 | 1 : f32 | 0x1FF : i8 | -0x81 : i8 | -129 : i8 | 256 : i8
2 : i1 | -2 : i1 | true : i1 | 18446744073709551616 : i64 | -9223372036854775809 : i64 | 9223372036854775808 : index
1.5 : i32 | 1 : none | 1 : tensor<2xi8> | dense<1> : tensor<2xf32> | dense<[1.0, 2]> : tensor<2xf32>
dense<0x17F800001> : tensor<2xf32> | dense<-0x1> : tensor<2xf32> | dense<1.0> : tensor<2xi32> | dense<true> : tensor<2xi32>
dense<2> : tensor<2xi1> | dense<true> : tensor<2xf32> | dense<256> : tensor<2xi8> | dense<-129> : tensor<2xi8>
dense<18446744073709551615> : tensor<2xindex> | dense<"0x0000803F00"> : tensor<1xf32> | dense<"0x0"> : tensor<1xf32>
dense<"0000803F"> : tensor<1xf32> | dense<"0x0000 803F"> : tensor<1xf32> | dense<""> : tensor<0xf32>
dense<[]> : tensor<2xf32> | dense<> : tensor<2xf32> | dense<[[1], [2]]> : tensor<2xi32> | dense<[1, 2, 3]> : tensor<2xi32>
dense<[1, [2]]> : tensor<2xi32> | dense<[1]> : tensor<i32> | dense<1> : i32 | dense<1> : tensor<?xi32>
dense<"0x0000803F0000803F"> : tensor<4xf32>
"""
ARRAYS = "f32: 0x7F800001, -0.0 | bf16: 0x7FC1 | i8: 255, -128, -0x1 | i1: true, false | i64: 18446744073709551615 | i64"
NO_ARRAYS = "f32: -0x1 | f32: 0x17F800001 | f32: 1 | i8: 256 | i8: -129 | i1: 1, 0 | i32: true | i32: 1.0 | i64: 1.5 | index: 1"


def listed(text: str, before: str = "", after: str = "") -> list[str]:
    return [f"{before}{literal.strip()}{after}" for literal in re.split(r"[|\n]", text) if literal.strip()]


def program(literal: str) -> str:
    if literal.startswith("array<"):
        return f"func.func @f() attributes {{x.a = {literal}}} {{\n  func.return\n}}\n"
    return f"func.func @f() {{\n  %c = arith.constant {literal}\n  func.return\n}}\n"


ACCEPTED = listed(READ) + listed(ARRAYS, "array<", ">")
WRONG = listed(REFUSED) + listed(NO_ARRAYS, "array<", ">")


@pytest.mark.parametrize("literal", ACCEPTED)
def test_what_is_read_prints_so_that_it_reads_the_same(literal: str) -> None:
    module = parse(program(literal))
    assert str(parse(str(module))) == str(module)


@pytest.mark.parametrize("literal", WRONG)
def test_what_upstream_refuses_is_refused_at_its_place(literal: str) -> None:
    with pytest.raises(MdslError, match=r"^<text>:\d+:\d+: error: .*\n.*\n *\^"):
        parse(program(literal))


@needs_upstream
def test_upstream_judges_likewise() -> None:
    """What upstream prints of its reading reads here as what was read here; what is refused here is refused there."""
    read = read_by_upstream(map(program, ACCEPTED))
    theirs = [re.sub(r"%[^ ]+ =", "%c =", m) for m in read.stdout.split("// -----")]
    ours = [parse(program(literal)) for literal in ACCEPTED]
    assert read.returncode == 0, read.stderr
    for literal, module, text in zip(ACCEPTED, ours, theirs, strict=True):
        assert str(parse(text)) == str(module), literal
    refused = read_by_upstream(map(program, WRONG))
    places = {int(n) for n in re.findall(r":(\d+):\d+: error", refused.stderr)}
    lines = SPLIT.join(map(program, WRONG)).split("\n")
    missed = [w for w in WRONG if not any(w in lines[n - 1] or w in lines[n - 2] for n in places)]
    assert not missed


@given(st.sampled_from(FLOATS), st.integers(0, 2**64 - 1))
def test_every_bit_pattern(type: Type, bits: int) -> None:
    """Through Python's float, NumPy, attributes and text; also a signalling NaN."""
    dtype = dtype_of(type)
    bits &= (1 << 8 * dtype.itemsize) - 1
    number = to_python(of_bits(bits, dtype))
    assert bits_of(number, dtype) == bits
    tensor = TensorType((2,), type)
    dense = DenseAttr(np.array([bits, 0], f"u{dtype.itemsize}").view(dtype), tensor)
    for attr in (FloatAttr(number, type), DenseAttr.splat(number, tensor), dense):
        found = parse(f"%c = arith.constant {attr}").body.ops[0].attributes["value"]
        assert found == attr and hash(found) == hash(attr)
        first = found.value if isinstance(found, FloatAttr) else found.array[0]  # type: ignore[attr-defined]
        assert bits_of(first, dtype) == bits


@given(st.floats(width=64), st.sampled_from([f16, bf16, f32, f64]))
def test_a_number_is_rounded_once(value: float, type: Type) -> None:
    if value != value:
        return
    dtype = dtype_of(type)
    near = float(to_numpy(value, dtype))  # type: ignore[arg-type]
    for bits in {max(bits_of(near, dtype) - 1, 0), bits_of(near, dtype) + 1} if np.isfinite(near) else ():
        other = float(of_bits(bits & (1 << 8 * dtype.itemsize) - 1, dtype))  # type: ignore[arg-type]
        assert not abs(other - value) < abs(near - value)


def test_attributes_differ_by_their_bits() -> None:
    zeros, nans = (0.0, -0.0), (to_python(of_bits(0x7FC00001, dtype_of(f32))), float("nan"))
    for one, other in (zeros, nans):
        for make in (
            lambda v: FloatAttr(v, f32),
            lambda v: DenseArrayAttr(f32, (v,)),
            lambda v: DenseAttr.splat(v, TensorType((2,), f32)),
            lambda v: DenseAttr(np.array([to_numpy(v, dtype_of(f32)), 1], np.float32), TensorType((2,), f32)),
        ):
            assert make(one) == make(one) != make(other)
            assert hash(make(one)) == hash(make(one))


@pytest.mark.parametrize("engine", ["reference", "vm", "jit"])
@pytest.mark.parametrize(
    ("bits", "type"),
    [
        ("0x7F800001", "f32"),
        ("0xFFC00001", "f32"),
        ("0x7FC1", "bf16"),
        ("0xFF81", "bf16"),
        ("0x7C01", "f16"),
        ("0xFFF0000000000001", "f64"),
    ],
)
def test_engines_keep_the_bits(engine: str, bits: str, type: str) -> None:
    """Of a splat, of one among others, of a scalar, and of a constant that is folded."""
    width = 4 * (len(bits) - 2)
    text = f"""func.func @main(%x: tensor<3x{type}>, %yes: tensor<3xi1>) -> (tensor<3xi{width}>, tensor<3xi{width}>) {{
      %splat = arith.constant dense<{bits}> : tensor<3x{type}>
      %some = arith.constant dense<[{bits}, 0.0, -0.0]> : tensor<3x{type}>
      %a = arith.select %yes, %splat, %x : tensor<3xi1>, tensor<3x{type}>
      %b = arith.bitcast %a : tensor<3x{type}> to tensor<3xi{width}>
      %c = arith.bitcast %some : tensor<3x{type}> to tensor<3xi{width}>
      return %b, %c : tensor<3xi{width}>, tensor<3xi{width}>
    }}"""
    chosen, some = mdsl.compile(text, engine=engine)(
        np.zeros(3, mdsl_dtype(type)), np.array([True, False, True])
    )
    number, sign = int(bits, 16), 1 << width - 1
    assert chosen.view(f"u{width // 8}").tolist() == [number, 0, number]
    assert some.view(f"u{width // 8}").tolist() == [number, 0, sign]


def mdsl_dtype(name: str) -> np.dtype:
    return dtype_of(next(t for t in FLOATS if str(t) == name))
