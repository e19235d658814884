"""Conversions between types of scalars and of vectors, against NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from apply import apply
from special_numbers import floats, integers, same

BF16 = np.dtype(ml_dtypes.bfloat16)
LANES = [None, 16]


FLOATS = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": BF16}


@pytest.mark.parametrize("lanes", LANES)
def test_convert_floats(lanes: int | None) -> None:
    pairs = [("f32", "f64"), ("f16", "f32"), ("bf16", "f32"), ("f16", "f64"), ("bf16", "f64")]
    for narrow, wide in pairs:
        values = floats(FLOATS[narrow])
        with np.errstate(all="ignore"):
            same(apply("arith.extf", values, result=wide, lanes=lanes), values.astype(FLOATS[wide]))
            values = floats(FLOATS[wide]) * FLOATS[wide](1.0 + 2**-9)
            if narrow == "bf16" and wide == "f64":
                continue
            same(apply("arith.truncf", values, result=narrow, lanes=lanes), values.astype(FLOATS[narrow]))


@pytest.mark.parametrize("lanes", LANES)
def test_f64_is_rounded_once(lanes: int | None) -> None:
    """Halfway cases of f16 and bf16 that a detour through f32 would round the wrong way."""
    above_f16, above_bf16 = 1.0 + 2**-11 + 2**-40, 1.0 + 2**-8 + 2**-40
    values = np.repeat([above_f16, -above_f16, above_bf16, -above_bf16], 16)
    half = apply("arith.truncf", values, result="f16", lanes=lanes)[:32].astype(float)
    np.testing.assert_array_equal(half, np.repeat([1 + 2**-10, -1 - 2**-10], 16))
    brain = apply("arith.truncf", values, result="bf16", lanes=lanes)[32:].astype(float)
    np.testing.assert_array_equal(brain, np.repeat([1 + 2**-7, -1 - 2**-7], 16))


@pytest.mark.parametrize("lanes", LANES)
def test_convert_between_ints_and_floats(lanes: int | None) -> None:
    for dtype, name in ((np.int8, "i8"), (np.int32, "i32"), (np.int64, "i64")):
        values, info = integers(dtype), np.iinfo(dtype)
        unsigned = values.view(dtype.__name__.replace("int", "uint"))
        for result in ("f32", "f64"):
            same(apply("arith.sitofp", values, result=result, lanes=lanes), values.astype(FLOATS[result]))
            same(apply("arith.uitofp", values, result=result, lanes=lanes), unsigned.astype(FLOATS[result]))
        real = floats(np.float64)

        def saturated(low: int, high: int) -> list[int]:
            inside = np.nan_to_num(np.trunc(real), nan=0, posinf=1e30, neginf=-1e30)  # noqa: B023
            return [min(max(int(value), low), high) for value in inside.tolist()]

        got = apply("arith.fptosi", real, result=name, lanes=lanes)
        assert got.tolist() == saturated(info.min, info.max)
        got = apply("arith.fptoui", real, result=name, lanes=lanes).view(unsigned.dtype)
        assert got.tolist() == saturated(0, np.iinfo(unsigned.dtype).max)


@pytest.mark.parametrize("lanes", LANES)
def test_convert_ints(lanes: int | None) -> None:
    values = integers(np.int32)
    np.testing.assert_array_equal(
        apply("arith.extsi", values, result="i64", lanes=lanes), values.astype(np.int64)
    )
    got = apply("arith.extui", values, result="i64", lanes=lanes)
    np.testing.assert_array_equal(got, values.view(np.uint32).astype(np.int64))
    np.testing.assert_array_equal(
        apply("arith.trunci", values, result="i8", lanes=lanes), values.astype(np.int8)
    )
    np.testing.assert_array_equal(apply("arith.index_cast", values, result="index", lanes=lanes), values)
    flags = np.tile([True, False], 64)
    np.testing.assert_array_equal(
        apply("arith.extui", flags, result="i32", lanes=lanes), flags.astype(np.int32)
    )
    np.testing.assert_array_equal(
        apply("arith.uitofp", flags, result="f32", lanes=lanes), flags.astype(np.float32)
    )
    same(apply("arith.bitcast", values, result="f32", lanes=lanes), values.view(np.float32))
