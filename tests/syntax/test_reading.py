"""What a person may write: names, aliases, comments, locations, numbers, resources."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mdsl.dialects.affine import Apply
from mdsl.errors import MdslError
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.attributes import DenseAttr, DenseResourceAttr, FloatAttr, IntegerAttr
from mdsl.ir.core import Op
from mdsl.ir.location import Location
from mdsl.syntax.parser import parse, parse_file
from mdsl.syntax.printer import print_module, print_op


def ops(text: str) -> list[Op]:
    return parse(text).body.ops


def constant(text: str) -> object:
    return ops(f"%c = arith.constant {text}")[0].attributes["value"]


def test_names_are_kept() -> None:
    text = """func.func @main(%image.in: tensor<4xf32>, %0: tensor<4xf32>) -> tensor<4xf32> {
  %$odd-name_1 = arith.addf %image.in, %0 : tensor<4xf32>
  %1 = arith.addf %$odd-name_1, %0 : tensor<4xf32>
  func.return %1 : tensor<4xf32>
}
"""
    assert print_module(parse(text)) == text


def test_one_name_in_disjoint_scopes() -> None:
    text = """func.func @main(%n: index) {
  scf.for %i = %n to %n step %n {
    %x = arith.addi %i, %i : index
  }
  scf.for %i = %n to %n step %n {
    %x = arith.muli %i, %i : index
  }
  func.return
}
func.func @other(%n: index) {
  func.return
}
"""
    assert print_module(parse(text)) == text


def test_results_by_number() -> None:
    text = """func.func @main(%n: index) -> index {
  %pair:2 = scf.for %i = %n to %n step %n iter_args(%a = %n, %b = %n) -> (index, index) {
    scf.yield %b, %a : index, index
  }
  return %pair#1 : index
}"""
    printed = print_module(parse(text))
    assert "%pair, %pair_1 = scf.for" in printed and "func.return %pair_1" in printed


def test_comments_and_space() -> None:
    text = "// first\n%a = // in the middle\n  arith.constant\n\t1 : i32 // last\n// end without a newline"
    assert print_module(parse(text)) == "%a = arith.constant 1 : i32\n"


def test_aliases() -> None:
    text = """
      #map = affine_map<(m, n, k) -> (m, k)>
      !matrix = tensor<4x4xf32>
      func.func @main(%x: !matrix) -> !matrix {
        %y = "arith.addf"(%x, %x) : (!matrix, !matrix) -> !matrix loc(#where)
        func.return %y : !matrix loc(#nowhere)
      }
      #where = loc("net.py":3:7)
      #nowhere = loc(unknown)"""
    module = parse(text)
    add, end = module.body.ops[0].body.ops
    assert add.location == Location("net.py", 3, 7)
    assert end.location is None or end.location.file == "<text>"
    assert "%y = arith.addf %x, %x : tensor<4x4xf32>" in print_module(module)


MAPS = """#half = affine_map<(d0) -> (d0 floordiv 2)>
#map2 = affine_map<(d0) -> (d0 * 2)>
#map3 = affine_map<(d0) -> (d0 + 1)>
%n = arith.constant 8 : index
%h = affine.apply #half(%n)
%t = affine.apply #map2(%n)
%s = affine.apply #map3(%n)
"""


def test_maps_keep_their_aliases() -> None:
    assert print_module(parse(MAPS)) == MAPS
    assert '"affine.apply"(%n) {map = #half}' in print_module(parse(MAPS), generic=True)
    assert print_module(parse(MAPS).clone()) == MAPS


def test_a_new_map_takes_a_number_that_was_never_used() -> None:
    module = parse(MAPS)
    n, _, *applied = module.body.ops
    for op in applied:
        op.erase()
    module.body.append(Apply(n.result, map=AffineMap.select(1, [0])))
    again = Apply(n.result, map=AffineMap(1, 0, (Dim(0) * 2,)))
    module.body.append(again)
    assert print_module(module).splitlines()[:3] == [
        "#half = affine_map<(d0) -> (d0 floordiv 2)>",
        "#map2 = affine_map<(d0) -> (d0 * 2)>",
        "#map4 = affine_map<(d0) -> (d0)>",
    ]
    assert print_op(again) == "%apply = affine.apply affine_map<(d0) -> (d0 * 2)>(%n)"


def test_maps_within_attributes_are_aliases_too() -> None:
    text = """#map = affine_map<(d0) -> (d0)>
func.func @f() attributes {test.maps = [[#map], {inner = #map}]} {
  func.return
}
"""
    assert print_module(parse(text)) == text
    assert print_module(parse(text.replace("#map]", "affine_map<(x) -> (x)>]"))) == text


def test_locations_are_those_of_the_text() -> None:
    module = parse("%a = arith.constant 1 : i32\n  %b = arith.addi %a, %a : i32", "net.mir")
    assert [op.location for op in module.body.ops] == [Location("net.mir", 1, 6), Location("net.mir", 2, 8)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5 : f32", 1.5),
        ("1.0e-3 : f64", 1e-3),
        ("-0.0 : f32", -0.0),
        ("0x7F800000 : f32", math.inf),
        ("0xFF800000 : f32", -math.inf),
        ("0x3FC0 : bf16", 1.5),
        ("0x3C00 : f16", 1.0),
        ("0x3FF0000000000000 : f64", 1.0),
        ("0.1 : f32", float(np.float32(0.1))),
        ("0.1 : bf16", float(ml_dtypes.bfloat16(0.1))),
    ],
)
def test_floats(text: str, value: float) -> None:
    found = constant(text)
    assert (
        isinstance(found, FloatAttr)
        and found.value == value
        and math.copysign(1, found.value) == math.copysign(1, value)
    )
    assert constant(str(found)) == found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9223372036854775807 : i64", 2**63 - 1),
        ("-9223372036854775808 : i64", -(2**63)),
        ("255 : i8", -1),
        ("0xFF : i8", -1),
        ("-128 : i8", -128),
        ("true", 1),
        ("0 : index", 0),
        ("7", 7),
    ],
)
def test_integers(text: str, value: int) -> None:
    found = constant(text)
    assert isinstance(found, IntegerAttr) and found.value == value
    assert constant(str(found)) == found


def test_dense_bytes() -> None:
    found = constant('dense<"0x0000803F00000040"> : tensor<2xf32>')
    assert isinstance(found, DenseAttr) and found.array.tolist() == [1.0, 2.0]


def test_every_bit_pattern_of_a_half_survives() -> None:
    for dtype, name in ((np.dtype(np.float16), "f16"), (np.dtype(ml_dtypes.bfloat16), "bf16")):
        bits = np.arange(0, 2**16, 37, dtype=np.uint16)
        values = [
            FloatAttr(float(v), constant(f"0.0 : {name}").type)
            for v in bits.view(dtype)
            if not math.isnan(float(v))
        ]  # type: ignore[attr-defined]
        again = constant(
            f"dense<[{', '.join(str(v).split(' ')[0] for v in values)}]> : tensor<{len(values)}x{name}>"
        )
        assert isinstance(again, DenseAttr)
        assert again.array.astype(float).tolist() == [v.value for v in values]


def test_both_spellings_of_an_alignment() -> None:
    old = parse(
        "%m = memref.alloc() {alignment = 64} : memref<4xf32>\nmemref.global @g : memref<1xi8> = dense<1> {alignment = 64}"
    )
    new = parse(
        "%m = memref.alloc() alignment = 64 : memref<4xf32>\nmemref.global @g : memref<1xi8> = dense<1> alignment = 64"
    )
    assert print_module(new) == print_module(old)
    assert all(op.attr("alignment") == 64 for op in new.body.ops)


SECTION = """
{-#
  dialect_resources: {
    builtin: {
      w: "0x400000000000803F00000040"
    }
  }
#-}
"""
USE = "%w = arith.constant dense_resource<w> : tensor<2xf32>\n"


def test_resource_section() -> None:
    module = parse(USE + SECTION)
    data = module.body.ops[0].attributes["value"]
    assert isinstance(data, DenseResourceAttr) and data.array.tolist() == [1.0, 2.0]
    assert print_module(module) == USE
    text = print_module(module, data=True)
    assert print_module(parse(text), data=True) == text


def test_weights_beside_the_file(tmp_path: Path) -> None:
    arrays = {"w": np.array([1, 2], np.float32), "half": np.array([[1.5]], ml_dtypes.bfloat16)}
    save_file(arrays, tmp_path / "net.safetensors")
    path = tmp_path / "net.mir"
    path.write_text(USE + "%h = arith.constant dense_resource<half> : tensor<1x1xbf16>\n")
    module = parse_file(path)
    first, second = (op.attributes["value"].array for op in module.body.ops)  # type: ignore[attr-defined]
    assert first.tolist() == [1, 2] and second.dtype == ml_dtypes.bfloat16
    assert print_module(module) == path.read_text()
    alone = parse(print_module(module, data=True))  # no file beside it
    assert [op.attributes["value"].array.tolist() for op in alone.body.ops] == [[1, 2], [[1.5]]]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("dense_resource<v> : tensor<2xf32>", r"net.mir:1:40: error: no tensor 'v' in .*net.safetensors"),
        ("dense_resource<w> : tensor<3xf32>", "resource 'w' is a tensor<2xf32>, not a tensor<3xf32>"),
        ("dense_resource<w> : tensor<2xf16>", "resource 'w' is a tensor<2xf32>, not a tensor<2xf16>"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, use: str, message: str) -> None:
    save_file({"w": np.array([1, 2], np.float32)}, tmp_path / "net.safetensors")
    path = tmp_path / "net.mir"
    path.write_text(f"%value = arith.constant {use}\n")
    with pytest.raises(MdslError, match=message):
        parse_file(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MdslError, match="cannot read the file: No such file"):
        parse_file(tmp_path / "none.mir")
    binary = tmp_path / "binary.mir"
    binary.write_bytes(b"abc\xff\xfe")
    with pytest.raises(MdslError, match=r"not a text file \(byte 3 is not UTF-8\)"):
        parse_file(binary)
    path = tmp_path / "net.mir"
    path.write_text(USE)
    with pytest.raises(
        MdslError, match=r"resource 'w' is not in the text and the weights file .* does not exist"
    ):
        parse_file(path)
    for damage in (b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{]", b"\x02\0\0\0\0\0\0\0[]"):
        (tmp_path / "net.safetensors").write_bytes(damage)
        with pytest.raises(MdslError, match="not a readable .safetensors file"):
            parse_file(path)
