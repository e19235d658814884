"""nn: the reference against plain loops and formulas, shape inference, and what the verifier says."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mdsl.reference  # noqa: F401  (registers the semantics)
from mdsl.dialects import nn
from mdsl.dialects.nn.base import NnOp
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, dtype_of, f32, i1, i8, i64, type_of_dtype
from mdsl.reference.registry import meaning

RANDOM = np.random.default_rng(7)


def compute(
    kind: type[NnOp], /, *arrays: np.ndarray, result: Type | None = None, **attributes: Any
) -> np.ndarray:
    """What the reference makes of one op; its inferred type is checked against the array."""
    values = [Value(TensorType(a.shape, type_of_dtype(a.dtype))) for a in arrays]
    op = kind(*values, results=None if result is None else [result], **attributes)
    op.verify_op()
    with np.errstate(all="ignore"):
        known = meaning(op.name)
        assert known is not None
        found = known[0](op, *arrays)
    wanted = tensor_of(op.result)
    assert found.shape == wanted.shape and found.dtype == dtype_of(wanted.element)
    return found


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def close(found: np.ndarray, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


# Layers, against loops ------------------------------------------------------------------------------------


def naive_conv2d(
    x: np.ndarray, w: np.ndarray, strides: list[int], pads: list[int], dilations: list[int], groups: int
) -> np.ndarray:
    (n, c, height, width), (o, per_group, kh, kw) = x.shape, w.shape
    oh = (height + pads[0] + pads[2] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    ow = (width + pads[1] + pads[3] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((n, o, oh, ow))
    for b, f, i, j, k, p, q in product(*map(range, (n, o, oh, ow, per_group, kh, kw))):
        row = i * strides[0] + p * dilations[0] - pads[0]
        column = j * strides[1] + q * dilations[1] - pads[1]
        if 0 <= row < height and 0 <= column < width:
            channel = f // (o // groups) * (c // groups) + k
            y[b, f, i, j] += float(x[b, channel, row, column]) * float(w[f, k, p, q])
    return y


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_conv2d(data: st.DataObject) -> None:
    draw = data.draw
    groups, kernel = draw(st.integers(1, 2)), draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides, dilations = (draw(st.lists(st.integers(1, 2), min_size=2, max_size=2)) for _ in range(2))
    pads = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    x, w, bias = normal(1, 2 * groups, 5, 6), normal(2 * groups, 2, *kernel), normal(2 * groups)
    common = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    wanted = naive_conv2d(x, w, strides, pads, dilations, groups) + bias[:, None, None]
    close(compute(nn.Conv2d, x, w, bias, **common), wanted.astype(np.float32))
    last = compute(nn.Conv2d, x.transpose(0, 2, 3, 1), w, bias, layout="nhwc", **common)
    close(last.transpose(0, 3, 1, 2), wanted.astype(np.float32))


def windows(size: int, kernel: int, stride: int, pad: int) -> list[np.ndarray]:
    """For each place along one axis of `size`, the positions in the image that the window sees."""
    starts = range(-pad, size + pad - kernel + 1, stride)
    return [np.array([p for p in range(start, start + kernel) if 0 <= p < size]) for start in starts]


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", [0, 1])
def test_poolings(kernel: int, stride: int, pad: int) -> None:
    if pad >= kernel:
        return
    x = normal(1, 2, 6, 7)
    rows, columns = (windows(s, kernel, stride, pad) for s in (6, 7))
    common = {"kernel": [kernel, kernel], "strides": [stride, stride], "pads": [pad] * 4}
    parts = [[x[:, :, r][:, :, :, c] for c in columns] for r in rows]

    def table(f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return np.stack([np.stack([f(p) for p in line], -1) for line in parts], -2)

    close(compute(nn.MaxPool2d, x, **common), table(lambda p: p.max(axis=(2, 3))))
    close(compute(nn.AvgPool2d, x, **common), table(lambda p: p.mean(axis=(2, 3))))
    everything = table(lambda p: p.sum(axis=(2, 3)) / kernel**2)
    close(compute(nn.AvgPool2d, x, count_include_pad=True, **common), everything)
    last = compute(nn.MaxPool2d, x.transpose(0, 2, 3, 1), layout="nhwc", **common)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), compute(nn.MaxPool2d, x, **common))


def test_the_place_of_the_largest_of_a_window_is_that_of_the_first() -> None:
    x = np.array([[1, 5, 5], [np.nan, 5, 2], [-1, -1, -np.inf]], np.float32)[None, None]
    places = compute(nn.ArgMaxPool2d, x, kernel=[2, 2], pads=[0, 0, 0, 1])
    assert places[0, 0].tolist() == [[2, 0, 0], [0, 0, 0]]
    last = compute(nn.ArgMaxPool2d, np.moveaxis(x, 1, 3), kernel=[2, 2], pads=[0, 0, 0, 1], layout="nhwc")
    np.testing.assert_array_equal(np.moveaxis(last, 3, 1), places)


def test_the_gradient_of_a_max_pool_goes_where_its_places_say() -> None:
    places = np.array([[0, 1], [3, 9]], np.int32)[None, None]  # 9 is none
    grad = np.array([[1, 2], [4, 8]], np.float32)[None, None]
    image = TensorType((1, 1, 3, 3), f32)
    found = compute(nn.MaxPool2dGrad, places, grad, result=image, kernel=[2, 2])
    assert found[0, 0].tolist() == [[1, 0, 2], [0, 0, 0], [0, 4, 0]]
    padded = compute(
        nn.MaxPool2dGrad, places, grad, result=image, kernel=[2, 2], pads=[1, 1, 0, 0], strides=[2, 2]
    )
    assert padded[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [4, 0, 0]]  # the first row's are in the padding


def test_ceil_mode_keeps_a_partial_window_but_none_in_the_padding() -> None:
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 1, 5)
    common = {"kernel": [1, 2], "strides": [1, 2], "ceil_mode": True}
    assert compute(nn.MaxPool2d, x, **common).ravel().tolist() == [1, 3, 4]
    assert compute(nn.AvgPool2d, x, **common).ravel().tolist() == [0.5, 2.5, 4]
    padded = {**common, "kernel": [1, 3], "strides": [1, 3], "pads": [0, 1, 0, 1]}
    assert compute(nn.MaxPool2d, x, **padded).ravel().tolist() == [1, 4]
    assert compute(nn.AvgPool2d, x, count_include_pad=True, **padded).ravel().tolist() == [
        1 / np.float32(3),
        3,
    ]


def test_matrix_products() -> None:
    a, b, bias = normal(2, 1, 3, 4), normal(5, 4, 6), normal(6)
    wanted = np.zeros((2, 5, 3, 6))
    for n, g, i, j, k in product(range(2), range(5), range(3), range(6), range(4)):
        wanted[n, g, i, j] += float(a[n, 0, i, k]) * float(b[g, k, j])
    close(compute(nn.Matmul, a, b), wanted.astype(np.float32))
    close(
        compute(nn.Linear, a, np.ascontiguousarray(b[0].T), bias), (wanted[:, :1] + bias).astype(np.float32)
    )
    assert compute(nn.Matmul, a[0, 0, 0], b[0, :, 0]).shape == ()


def test_normalisations() -> None:
    x, scale, shift, mean, variance = (
        normal(2, 3, 4),
        *(normal(3) for _ in range(3)),
        RANDOM.random(3).astype(np.float32),
    )
    y = compute(nn.BatchNorm, x, scale, shift, mean, variance, epsilon=0.1)
    for n, c, i in product(range(2), range(3), range(4)):
        wanted = (x[n, c, i] - mean[c]) / math.sqrt(variance[c] + 0.1) * scale[c] + shift[c]
        assert math.isclose(y[n, c, i], wanted, rel_tol=1e-5, abs_tol=1e-6)
    y = compute(nn.LayerNorm, x, np.ones((3, 4), np.float32), axis=1, epsilon=0.0)
    close(y.mean(axis=(1, 2)), np.zeros(2))
    np.testing.assert_allclose(y.std(axis=(1, 2)), np.ones(2), rtol=1e-5)
    scaled = compute(nn.LayerNorm, x, np.full(4, 2, np.float32), np.ones(4, np.float32))
    np.testing.assert_allclose(scaled.mean(axis=2), np.ones((2, 3)), rtol=1e-5)


def test_softmax() -> None:
    x = normal(3, 5)
    y = compute(nn.Softmax, x, axis=0)
    for i, j in product(range(3), range(5)):
        assert math.isclose(y[i, j], math.exp(x[i, j]) / sum(math.exp(v) for v in x[:, j]), rel_tol=1e-5)
    np.testing.assert_allclose(np.exp(compute(nn.LogSoftmax, x, axis=0)), y, rtol=1e-5)
    assert compute(nn.Softmax, np.array([1e4, 0], np.float32)).tolist() == [1, 0]


# Elementwise, against Python's own arithmetic -------------------------------------------------------------

FORMULAS: dict[type[NnOp], Callable[[float], float]] = {
    nn.Relu: lambda x: max(x, 0.0),
    nn.LeakyRelu: lambda x: x if x >= 0 else 0.01 * x,
    nn.Sigmoid: lambda x: 1 / (1 + math.exp(-x)),
    nn.Tanh: math.tanh,
    nn.Gelu: lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    nn.Erf: math.erf,
    nn.Exp: math.exp,
    nn.Neg: lambda x: -x,
    nn.Abs: abs,
}


@pytest.mark.parametrize("kind", FORMULAS, ids=lambda k: k.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_unary(kind: type[NnOp], dtype: type) -> None:
    x = RANDOM.uniform(-4, 4, 50).astype(dtype)
    wanted = np.array([FORMULAS[kind](float(v)) for v in x])
    found = compute(kind, x)
    step = float(
        ml_dtypes.finfo(dtype).eps
    )  # rounded once: half a step, and a little for float64's own rounding
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0.51 * step + 1e-13, atol=1e-7)


def test_clip_log_sqrt_and_the_other_gelu() -> None:
    x = np.array([-2, 0.5, 3], np.float32)
    assert compute(nn.Clip, x, min=-1.0, max=1.0).tolist() == [-1, 0.5, 1]
    assert compute(nn.Clip, x, max=1.0).tolist() == [-2, 0.5, 1]
    assert compute(nn.Sqrt, np.array([4, 9], np.float32)).tolist() == [2, 3]
    close(compute(nn.Log, np.array([1, math.e], np.float32)), [0, 1])
    close(compute(nn.Gelu, x, approximate="tanh"), [-0.0454023, 0.345714, 2.9963627])


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (nn.Add, [10, -4, 9]), (nn.Sub, [4, -10, -5]), (nn.Mul, [21, -21, 14]), (nn.Div, [2, -2, 0]),
        (nn.Maximum, [7, 3, 7]), (nn.Minimum, [3, -7, 2]),
    ],
)  # fmt: skip
def test_integer_arithmetic(kind: type[NnOp], wanted: list[int]) -> None:
    a, b = np.array([7, -7, 2], np.int32), np.array([3, 3, 7], np.int32)
    assert compute(kind, a, b).tolist() == wanted


def test_float_arithmetic_broadcasts() -> None:
    a, b = normal(3, 1, 2), np.abs(normal(4, 1)) + 1
    for kind, f in (
        (nn.Add, float.__add__),
        (nn.Div, float.__truediv__),
        (nn.Sub, float.__sub__),
        (nn.Mul, float.__mul__),
    ):
        y = compute(kind, a, b)
        assert y.shape == (3, 4, 2)
        for i, j, k in product(range(3), range(4), range(2)):
            assert math.isclose(y[i, j, k], f(float(a[i, 0, k]), float(b[j, 0])), rel_tol=1e-6)
    close(compute(nn.Pow, b, np.full((1,), 2, np.float32)), b.astype(np.float64) ** 2)


def test_compare_select_cast() -> None:
    a, b = np.array([1, 2, np.nan], np.float32), np.array([2, 2, np.nan], np.float32)
    kinds = {
        "eq": [0, 1, 0],
        "ne": [1, 0, 1],
        "lt": [1, 0, 0],
        "le": [1, 1, 0],
        "gt": [0, 0, 0],
        "ge": [0, 1, 0],
    }
    for kind, wanted in kinds.items():
        assert compute(nn.Compare, a, b, kind=kind).tolist() == [bool(w) for w in wanted]
    chosen = compute(nn.Select, np.array([[True], [False]]), np.arange(3), np.array(9))
    assert chosen.tolist() == [[0, 1, 2], [9, 9, 9]]
    numbers = np.array([300.7, -300.7, np.nan, -1.9], np.float32)
    assert compute(nn.Cast, numbers, result=TensorType((4,), i8)).tolist() == [127, -128, 0, -1]
    assert compute(nn.Cast, numbers, result=TensorType((4,), i1)).tolist() == [True] * 4
    assert compute(nn.Cast, np.array([300, -1]), result=TensorType((2,), i8)).tolist() == [44, -1]


# Reductions, shapes, data movement ------------------------------------------------------------------------


def test_reduce_and_argmax() -> None:
    x = np.array([[1, 5, 5], [7, 0, -2]], np.float32)
    assert compute(nn.Reduce, x, kind="sum").tolist() == [[16]]
    assert compute(nn.Reduce, x, kind="mean", axes=[1]).ravel().tolist() == [
        np.float32(11 / 3),
        np.float32(5 / 3),
    ]
    assert compute(nn.Reduce, x, kind="max", axes=[-2], keepdims=False).tolist() == [7, 5, 5]
    assert compute(nn.Reduce, x, kind="min", axes=[0, 1], keepdims=False).item() == -2
    assert compute(nn.Reduce, np.array([100, 100], np.int8), kind="sum").tolist() == [-56]
    assert compute(nn.ArgMax, x).tolist() == [[1], [0]]
    assert compute(nn.ArgMax, x, axis=0, keepdims=False).tolist() == [1, 0, 0]


def test_shapes() -> None:
    x = np.arange(24).reshape(2, 3, 4)
    assert compute(nn.Reshape, x, result=TensorType((4, 6), i64))[1].tolist() == [6, 7, 8, 9, 10, 11]
    assert compute(nn.Flatten, x, axis=2).shape == (6, 4)
    assert compute(nn.Flatten, x, axis=-1).shape == (6, 4)
    y = compute(nn.Transpose, x, perm=[1, 2, 0])
    assert all(y[j, k, i] == x[i, j, k] for i, j, k in product(range(2), range(3), range(4)))
    joined = compute(nn.Concat, x, x[:, :1], axis=1)
    assert joined[:, :3].tolist() == x.tolist() and joined[:, 3].tolist() == x[:, 0].tolist()
    assert compute(nn.Broadcast, np.array([[1], [2]]), result=TensorType((2, 2), i64)).tolist() == [
        [1, 1],
        [2, 2],
    ]
    padded = compute(nn.Pad, np.array([[1, 2]]), pads=[1, 0, 0, 1], value=9.0)
    assert padded.tolist() == [[9, 9, 9], [1, 2, 9]]


@settings(max_examples=60, deadline=None)
@given(st.integers(-8, 8), st.integers(-8, 8), st.integers(-3, 3).filter(bool))
def test_slice_is_pythons(start: int, end: int, step: int) -> None:
    x = np.arange(6)
    assert (
        compute(nn.Slice, x, starts=[start], ends=[end], steps=[step]).tolist() == x[start:end:step].tolist()
    )


def test_gather() -> None:
    x, indices = np.arange(12).reshape(3, 4), np.array([[0, -1], [9, -9]], np.int32)
    assert compute(nn.Gather, x, indices, axis=1)[1].tolist() == [[4, 7], [7, 4]]
    assert compute(nn.Gather, x, np.array(1)).tolist() == [4, 5, 6, 7]


# Order, places, bits --------------------------------------------------------------------------------------


def test_argsort() -> None:
    x = np.array([[3, 1, np.nan, 1], [0, -0.0, np.inf, -np.inf]], np.float32)
    assert compute(nn.ArgSort, x).tolist() == [[1, 3, 0, 2], [3, 0, 1, 2]]
    assert compute(nn.ArgSort, x, descending=True, count=2).tolist() == [[2, 0], [2, 0]]
    assert compute(nn.ArgSort, x, axis=0, count=1).tolist() == [[1, 1, 1, 1]]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_scatter(data: st.DataObject) -> None:
    axis, kind = data.draw(st.integers(0, 1)), data.draw(st.sampled_from(["set", "add", "mul", "max", "min"]))
    x, shape = np.arange(12).reshape(3, 4), [3, 4]
    shape[axis] = 5
    updates = RANDOM.integers(-9, 9, shape)
    places = RANDOM.integers(-5, 6, shape)
    wanted, size = x.copy(), x.shape[axis]
    combine = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    for at in product(range(shape[0]), range(shape[1])):
        place = places[at] + size * (places[at] < 0)
        if 0 <= place < size:
            to = (place, at[1]) if axis == 0 else (at[0], place)
            wanted[to] = updates[at] if kind == "set" else combine[kind](wanted[to], updates[at])
    assert compute(nn.Scatter, x, places, updates, axis=axis, kind=kind).tolist() == wanted.tolist()


def test_remainders() -> None:
    a, b = np.array([7, -7, 7, -7, 5], np.int8), np.array([3, 3, -3, -3, 0], np.int8)
    with np.errstate(all="ignore"):
        assert compute(nn.Mod, a, b).tolist() == [1, 2, -2, -1, 0]
        assert compute(nn.Mod, a, b, fmod=True).tolist() == [1, -1, 1, -1, 0]
        found = compute(nn.Mod, np.array([5.5, -5.5, 1], np.float32), np.array([2, 2, 0], np.float32))
    assert found[:2].tolist() == [1.5, 0.5] and np.isnan(found[2])


def test_bits() -> None:
    a, b = np.array([5, -8, 127], np.int8), np.array([1, 2, 9], np.int8)
    assert compute(nn.ShiftLeft, a, b).tolist() == [10, -32, 0]
    assert compute(nn.ShiftRight, a, b).tolist() == [2, -2, 0]
    assert compute(nn.ShiftRight, a, b, logical=True).tolist() == [2, 62, 0]
    assert compute(nn.And, a, b).tolist() == [1, 0, 9]
    assert compute(nn.Or, a, b).tolist() == [5, -6, 127]
    assert compute(nn.Xor, np.array([True, False]), np.array([True, True])).tolist() == [False, True]


def test_rounding_and_signs() -> None:
    x = np.array([2.5, -2.5, 0.5, -0.0, np.nan, -np.inf], np.float32)
    np.testing.assert_array_equal(
        compute(nn.Round, x), np.array([2, -2, 0, -0.0, np.nan, -np.inf], np.float32)
    )
    np.testing.assert_array_equal(compute(nn.Floor, x[:3]), np.array([2, -3, 0], np.float32))
    np.testing.assert_array_equal(compute(nn.Ceil, x[:3]), np.array([3, -2, 1], np.float32))
    np.testing.assert_array_equal(compute(nn.Sign, x), np.array([1, -1, 1, 0, np.nan, -1], np.float32))
