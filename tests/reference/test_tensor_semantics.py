"""tensor: shapes and parts."""

from __future__ import annotations

import numpy as np
import pytest
from evaluating import body, evaluate

from mdsl.errors import MdslError

X = np.arange(12, dtype=np.float32).reshape(3, 4)
T = "tensor<3x4xf32>"


def test_extract_slice_with_strides_and_values() -> None:
    lines = "%r = tensor.extract_slice %a[%b, 1] [2, 2] [1, 2] : tensor<3x4xf32> to tensor<2x2xf32>"
    found = body(lines, [X, np.int64(1)], [T, "index"], "tensor<2x2xf32>")
    np.testing.assert_array_equal(found, X[1:3, 1:4:2])


def test_extract_slice_drops_units() -> None:
    lines = "%r = tensor.extract_slice %a[2, 0] [1, 4] [1, 1] : tensor<3x4xf32> to tensor<4xf32>"
    np.testing.assert_array_equal(body(lines, [X], [T], "tensor<4xf32>"), X[2])


@pytest.mark.parametrize("offset", [-1, 2])
def test_extract_slice_out_of_bounds(offset: int) -> None:
    lines = "%r = tensor.extract_slice %a[%b, 0] [2, 4] [1, 1] : tensor<3x4xf32> to tensor<2x4xf32>"
    with pytest.raises(
        MdslError, match=r"<text>:2:6: error: 'tensor.extract_slice': .*leaves dimension 0, which has 3"
    ):
        body(lines, [X, np.int64(offset)], [T, "index"], "tensor<2x4xf32>")


def test_insert_slice_leaves_the_destination() -> None:
    lines = """%i = tensor.insert_slice %b into %a[1, 0] [1, 4] [1, 1] : tensor<4xf32> into tensor<3x4xf32>
      %r = tensor.concat dim(0) %a, %i : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<6x4xf32>"""
    row = np.full(4, 9, np.float32)
    found = body(lines, [X, row], [T, "tensor<4xf32>"], "tensor<6x4xf32>")
    np.testing.assert_array_equal(found[:3], X)
    np.testing.assert_array_equal(found[3:], [X[0], row, X[2]])


def test_collapse_and_expand() -> None:
    lines = """%c = tensor.collapse_shape %a [[0, 1]] : tensor<3x4xf32> into tensor<12xf32>
      %r = tensor.expand_shape %c [[0, 1, 2]] output_shape [2, 3, 2] : tensor<12xf32> into tensor<2x3x2xf32>"""
    np.testing.assert_array_equal(body(lines, [X], [T], "tensor<2x3x2xf32>"), X.reshape(2, 3, 2))


def test_pad_with_a_constant_and_with_its_indices() -> None:
    constant = """%r = tensor.pad %a low[1, 0] high[0, 2] {
      ^bb0(%i: index, %j: index):
        tensor.yield %b : f32
      } : tensor<3x4xf32> to tensor<4x6xf32>"""
    found = body(constant, [X, np.float32(7)], [T, "f32"], "tensor<4x6xf32>")
    np.testing.assert_array_equal(found, np.pad(X, ((1, 0), (0, 2)), constant_values=7))
    counted = """%r = tensor.pad %a low[1, 0] high[0, 2] {
      ^bb0(%i: index, %j: index):
        %s = arith.addi %i, %j : index
        %n = arith.index_cast %s : index to i32
        %v = arith.sitofp %n : i32 to f32
        tensor.yield %v : f32
      } : tensor<3x4xf32> to tensor<4x6xf32>"""
    found = body(counted, [X], [T], "tensor<4x6xf32>")
    assert found[0].tolist() == [0, 1, 2, 3, 4, 5] and found[3, 5] == 8


def test_elements() -> None:
    assert (
        body("%r = tensor.extract %a[%b, %b] : tensor<3x4xf32>", [X, np.int64(2)], [T, "index"], "f32") == 10
    )
    lines = "%r = tensor.insert %c into %a[%b, %b] : tensor<3x4xf32>"
    found = body(lines, [X, np.int64(2), np.float32(-1)], [T, "index", "f32"], T)
    assert found[2, 2] == -1 and X[2, 2] == 10
    with pytest.raises(MdslError, match="index 3 is out of bounds for dimension 0"):
        body("%r = tensor.extract %a[%b, %b] : tensor<3x4xf32>", [X, np.int64(3)], [T, "index"], "f32")
    with pytest.raises(MdslError, match="index -1 is out of bounds"):
        body("%r = tensor.extract %a[%b, %b] : tensor<3x4xf32>", [X, np.int64(-1)], [T, "index"], "f32")


def test_making_tensors() -> None:
    pair = body(
        "%r = tensor.from_elements %a, %b : tensor<2xi32>",
        [np.int32(1), np.int32(2)],
        ["i32", "i32"],
        "tensor<2xi32>",
    )
    assert pair.tolist() == [1, 2] and pair.dtype == np.int32
    assert body("%r = tensor.splat %a : tensor<2x2xi1>", [np.True_], ["i1"], "tensor<2x2xi1>").all()
    empty = body("%r = tensor.empty() : tensor<2xf32>", [], [], "tensor<2xf32>")
    assert np.isnan(empty).all(), "what nobody wrote must show"


def test_unknown_sizes() -> None:
    text = """func.func @main(%a: tensor<?x4xf32>) -> (index, tensor<?x4xf32>) {
      %zero = arith.constant 0 : index
      %n = tensor.dim %a, %zero : tensor<?x4xf32>
      %e = tensor.empty(%n) : tensor<?x4xf32>
      %r = tensor.insert_slice %a into %e[0, 0] [%n, 4] [1, 1] : tensor<?x4xf32> into tensor<?x4xf32>
      func.return %n, %r : index, tensor<?x4xf32>
    }"""
    size, copy = evaluate(text, X)
    assert size == 3
    np.testing.assert_array_equal(copy, X)
    cast = "func.func @main(%a: tensor<?xf32>) -> tensor<2xf32> {\n %r = tensor.cast %a : tensor<?xf32> to tensor<2xf32>\n func.return %r : tensor<2xf32>\n}"
    assert evaluate(cast, X[0, :2])[0].tolist() == [0, 1]
    with pytest.raises(MdslError, match="not a tensor<2xf32>"):
        evaluate(cast, X[0])
