"""Types, attributes and affine maps as values."""

from __future__ import annotations

import copy
import math
import pickle

import ml_dtypes
import numpy as np
import pytest

from mdsl.ir import types as t
from mdsl.ir.affine import AffineMap, Dim, Sym, lift
from mdsl.ir.attributes import (
    ArrayAttr,
    DenseArrayAttr,
    DenseAttr,
    DictAttr,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
    attribute,
    python_value,
)


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (t.TensorType((2, t.DYNAMIC), t.f32), "tensor<2x?xf32>"),
        (t.TensorType((), t.bf16), "tensor<bf16>"),
        (t.VectorType((16,), t.i1), "vector<16xi1>"),
        (t.MemRefType((4, 8), t.f32), "memref<4x8xf32>"),
        (t.MemRefType((4, 8), t.f32, (8, 1)), "memref<4x8xf32>"),
        (t.MemRefType((4, 8), t.f32, (16, 1)), "memref<4x8xf32, strided<[16, 1]>>"),
        (t.MemRefType((4, 8), t.f32, (8, 1), 3), "memref<4x8xf32, strided<[8, 1], offset: 3>>"),
        (t.MemRefType((4,), t.f32, (t.DYNAMIC,), t.DYNAMIC), "memref<4xf32, strided<[?], offset: ?>>"),
        (t.FunctionType((t.f32, t.index), (t.i1,)), "(f32, index) -> i1"),
        (t.FunctionType((), ()), "() -> ()"),
        (t.FunctionType((), (t.FunctionType((), (t.f32,)),)), "() -> (() -> f32)"),
    ],
)
def test_spelling(type: t.Type, text: str) -> None:
    assert str(type) == text


def test_memref_layouts() -> None:
    assert t.MemRefType((4, 8), t.f32) == t.MemRefType((4, 8), t.f32, (8, 1))
    part = t.MemRefType((4, 8), t.f32, (16, 1), t.DYNAMIC)
    assert not part.is_dense and part.layout == (16, 1) and part.span == 3 * 16 + 8
    assert t.MemRefType((1, 8), t.f32, (99, 1)).is_dense, "a unit dimension has no gap"
    assert t.MemRefType((0, 8), t.f32).span == 0
    assert t.MemRefType((3, 5), t.bf16).nbytes == 30
    assert t.dense_strides((2, 3, 4)) == (12, 4, 1)
    assert t.dense_strides((2, t.DYNAMIC, 4)) == (t.DYNAMIC, 4, 1)


def test_dtypes() -> None:
    for element in (t.f16, t.bf16, t.f32, t.f64, t.i1, t.i8, t.i16, t.i32, t.i64):
        assert t.type_of_dtype(t.dtype_of(element)) == element
    assert t.dtype_of(t.index) == np.int64 and t.type_of_dtype(np.dtype(ml_dtypes.bfloat16)) == t.bf16
    with pytest.raises(KeyError):
        t.type_of_dtype(np.dtype(np.complex64))


@pytest.mark.parametrize("value", [1, -1, True, 2.5, "text", [1, [2, "x"]], {"a": 1, "b": {"c": True}}])
def test_attributes_from_python(value: object) -> None:
    written = attribute(value)  # type: ignore[arg-type]
    if isinstance(written, DictAttr):
        assert [k for k, _ in written.entries] == ["a", "b"]
        return
    back = python_value(written)
    assert back == value and type(back) is type(value)


def test_attribute_spelling() -> None:
    assert str(FloatAttr(math.nan, t.f32)) == "0x7FC00000 : f32"
    assert str(FloatAttr(1e-7, t.f32)) == "1.0e-07 : f32"
    assert FloatAttr(math.nan) == FloatAttr(math.nan) and FloatAttr(0.0) != FloatAttr(-0.0)
    assert str(IntegerAttr(1, t.i1)) == "true" and str(IntegerAttr(-3, t.i8)) == "-3 : i8"
    assert str(StringAttr('a"b\n')) == '"a\\22b\\0A"' and str(SymbolRefAttr("odd name")) == '@"odd name"'
    assert (
        str(DenseArrayAttr(t.i64, ())) == "array<i64>"
        and str(DenseArrayAttr(t.i1, (1, 0))) == "array<i1: true, false>"
    )
    assert str(DictAttr((("a", UnitAttr()), ("b", ArrayAttr(()))))) == "{a, b = []}"


def test_dense_attributes() -> None:
    type = t.TensorType((2, 2), t.f32)
    splat = DenseAttr.splat(1.5, type)
    assert splat.is_splat and str(splat) == "dense<1.5> : tensor<2x2xf32>"
    assert splat == DenseAttr(np.full((2, 2), 1.5, np.float32), type)
    assert not DenseAttr(np.array([[1, 1], [1, 2]], np.float32), type).is_splat
    assert (
        str(DenseAttr(np.zeros((0, 2), np.float32), t.TensorType((0, 2), t.f32)))
        == "dense<> : tensor<0x2xf32>"
    )
    assert not DenseAttr(np.array([0.0, -0.0], np.float32), t.TensorType((2,), t.f32)).is_splat
    assert DenseAttr(np.full((3, 5000), np.nan, np.float32)[:, ::2], t.TensorType((3, 2500), t.f32)).is_splat


def test_affine_expressions_fold() -> None:
    d, s = Dim(0), Sym(0)
    assert str(d + 0) == "d0" and str(d * 1) == "d0" and d * 0 == lift(0) and d % 1 == lift(0)
    assert (
        str(d - 3) == "d0 - 3" and str((d + 1) * 2) == "(d0 + 1) * 2" and str(d + (d + s)) == "d0 + (d0 + s0)"
    )
    assert lift(7) // 2 == lift(3) and lift(-7) // 2 == lift(-4) and lift(-7) % 4 == lift(1)
    assert (lift(2) * d).coefficients() == ({0: 2}, 0)
    assert (d * 2 + Dim(1) - 5).coefficients() == ({0: 2, 1: 1}, -5)
    assert (d // 2).coefficients() is None and (d + s).coefficients() is None
    assert (d * 2 + Dim(3)).dims() == {0, 3}


def test_affine_maps() -> None:
    identity = AffineMap.identity(3)
    assert identity.is_permutation and identity.dim_positions() == (0, 1, 2)
    swapped = AffineMap.select(2, (1, 0))
    assert swapped.is_permutation and swapped.dim_positions() == (1, 0)
    projected = AffineMap.select(3, (2, 0))
    assert projected.is_projected_permutation and not projected.is_permutation
    assert not AffineMap.select(2, (0, 0)).is_projected_permutation
    window = AffineMap(2, 0, (Dim(0) * 2 + Dim(1),))
    assert window.dim_positions() is None and window.evaluate((3, 1)) == (7,)
    moved = window.compose([Dim(1) + 4, Dim(0)], 2)
    assert str(moved) == "(d0, d1) -> ((d1 + 4) * 2 + d0)"
    with_symbol = AffineMap(1, 1, (Dim(0) + Sym(0),))
    assert with_symbol.compose([Dim(0) * 2], 1).evaluate((5,), (1,)) == (11,)
    arrays = window.evaluate((np.arange(3), np.array([1, 1, 1])))
    assert arrays[0].tolist() == [1, 3, 5]


@pytest.mark.parametrize("name", t.SCALARS)
def test_a_scalar_type_is_one_object(name: str) -> None:
    type = t.SCALARS[name]
    assert copy.deepcopy(type) is pickle.loads(pickle.dumps(type)) is type
