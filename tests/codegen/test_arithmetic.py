"""Every scalar op, as scalars and as vectors, against NumPy and the math module."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from apply import apply
from llvmlite import ir
from special_numbers import SPECIAL, floats, integers, same

from mdsl.arithmetic.ops import OPS, emit, llvm_type
from mdsl.codegen.native import to_object
from mdsl.reference import extrema
from mdsl.target.target import Target

BF16 = np.dtype(ml_dtypes.bfloat16)
LANES = [None, 16]


def units_in_the_last_place(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of f32 results against f64 ones, in units of the last place of the latter."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(np.float32)
        error = np.abs(got.astype(np.float64) - expected) / np.spacing(np.abs(rounded)).astype(np.float64)
    error[(got == rounded) | (np.isnan(got) & np.isnan(rounded))] = 0
    return float(np.where(np.isnan(error), np.inf, error).max())


FLOAT_BINARY = {
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.remf": np.fmod,
    "arith.maximumf": extrema.maximum,
    "arith.minimumf": extrema.minimum,
    "arith.maxnumf": extrema.maximum_number,
    "arith.minnumf": extrema.minimum_number,
    "math.copysign": np.copysign,
}


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("op", FLOAT_BINARY)
def test_float_binary(op: str, lanes: int | None) -> None:
    for dtype, name in ((np.float32, "f32"), (np.float64, "f64"), (np.float16, "f16"), (BF16, "bf16")):
        left = floats(dtype)
        right = np.roll(left, 1237)
        compute = np.float64 if name == "f64" else np.float32
        with np.errstate(all="ignore"):
            expected = FLOAT_BINARY[op](left.astype(compute), right.astype(compute)).astype(dtype)
        got = apply(op, left, right, result=name, lanes=lanes)
        same(got, expected)


FLOAT_UNARY = {
    "arith.negf": np.negative,
    "math.absf": np.abs,
    "math.ceil": np.ceil,
    "math.floor": np.floor,
    "math.roundeven": np.rint,
    "math.trunc": np.trunc,
    "math.sqrt": np.sqrt,
    "math.rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "math.round": lambda x: np.copysign(np.trunc(np.abs(x.astype(np.float64)) + 0.5), x).astype(x.dtype),
}


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("op", FLOAT_UNARY)
def test_float_unary(op: str, lanes: int | None) -> None:
    for dtype, name in ((np.float32, "f32"), (np.float16, "f16"), (BF16, "bf16")):
        values = floats(dtype)
        with np.errstate(all="ignore"):
            expected = FLOAT_UNARY[op](values.astype(np.float32)).astype(dtype)
        same(apply(op, values, result=name, lanes=lanes), expected)


def _lanewise(function):
    return np.vectorize(function, otypes=[np.float64])


ELEMENTARY = {
    "math.exp": (np.exp, 1.6),
    "math.exp2": (np.exp2, 1.7),
    "math.expm1": (np.expm1, 1.5),
    "math.log": (np.log, 1.0),
    "math.log2": (np.log2, 2.0),
    "math.log1p": (np.log1p, 1.5),
    "math.tanh": (np.tanh, 2.5),
    "math.erf": (_lanewise(math.erf), 1.5),
    "math.sin": (np.sin, 1.7),
    "math.cos": (np.cos, 1.7),
    "math.atan": (np.arctan, 1.8),
}
"""The reference and the largest error allowed, in units in the last place (measured over all f32)."""

FLUSHED = ("math.exp", "math.exp2")
"""Those that give 0 for less than 2^-127."""


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("op", ELEMENTARY)
def test_elementary(op: str, lanes: int | None) -> None:
    reference, limit = ELEMENTARY[op]
    dense = np.arange(0, 2**32, 40009, np.uint32)
    values = np.concatenate([dense[: len(dense) // 16 * 16].view(np.float32), floats(np.float32)])
    values = np.concatenate([values, np.linspace(-5, 5, 16384, dtype=np.float32)])
    if op == "math.erf":
        values = values[-32768:].copy()
    with np.errstate(all="ignore"):
        expected = reference(values.astype(np.float64))
    got = apply(op, values, result="f32", lanes=lanes)
    if op in FLUSHED:
        expected[expected < 2.0**-127] = 0
    assert units_in_the_last_place(got, expected) <= limit
    zero = np.flatnonzero(got == 0)
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(expected[zero]))


@pytest.mark.parametrize("op", ELEMENTARY)
def test_elementary_other_types(op: str) -> None:
    reference, _ = ELEMENTARY[op]
    with np.errstate(all="ignore"):
        wide = floats(np.float64)
        np.testing.assert_allclose(apply(op, wide, result="f64", lanes=8), reference(wide), rtol=1e-14)
        half = floats(np.float16)
        expected = reference(half.astype(np.float64)).astype(np.float16)
        np.testing.assert_allclose(apply(op, half, result="f16", lanes=16), expected, rtol=1e-3, atol=6e-8)


@pytest.mark.parametrize("lanes", LANES)
def test_complementary_error_function(lanes: int | None) -> None:
    """Close to 1 it is as exact as f32; the smaller it is, the larger its relative error, but never the absolute one."""
    near = np.linspace(-10, 10, 65536 - 4096, dtype=np.float32)
    values = np.concatenate([floats(np.float32), near])
    with np.errstate(all="ignore"):
        expected = _lanewise(math.erfc)(values.astype(np.float64))
        got = apply("math.erfc", values, result="f32", lanes=lanes).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    for until, relative in (
        (0.0, 1.7e-7),
        (0.5, 2.1e-7),
        (1.0, 3.1e-7),
        (2.0, 1.4e-6),
        (3.0, 7e-5),
        (5.5, 7e-4),
    ):
        within = values <= until
        np.testing.assert_allclose(got[within], expected[within], rtol=relative, atol=0)
    beyond = values > 5.5
    assert np.all((got[beyond] >= 0) & (got[beyond] <= 7.4e-15))
    assert np.all(got[values >= 9] == 0)


@pytest.mark.parametrize("lanes", LANES)
def test_complementary_error_function_of_other_types(lanes: int | None) -> None:
    wide = floats(np.float64)
    exact = np.errstate(all="ignore")(_lanewise(math.erfc))
    np.testing.assert_allclose(apply("math.erfc", wide, result="f64", lanes=lanes), exact(wide), rtol=1e-14)
    for dtype, name, places in ((np.float16, "f16", 2.0**-10), (BF16, "bf16", 2.0**-7)):
        half = floats(dtype)
        got = apply("math.erfc", half, result=name, lanes=lanes).astype(np.float64)
        np.testing.assert_allclose(
            got, exact(half.astype(np.float64)), rtol=places, atol=7.4e-15 + 6e-8 * (name == "f16")
        )


def _gelu(x: np.ndarray) -> np.ndarray:
    x = np.maximum(x, -64)  # the limit for -infinity
    return x * 0.5 * _lanewise(math.erfc)(-x * math.sqrt(0.5))


@pytest.mark.parametrize("lanes", LANES)
def test_gelu(lanes: int | None) -> None:
    """The error is 2.6e-7 of x at most; of small results it is a larger share, but far smaller than 1 + erf would make it."""
    dense = np.linspace(-10, 10, 65536 - 4096, dtype=np.float32)
    values = np.concatenate([floats(np.float32), dense])
    with np.errstate(all="ignore"):
        expected = _gelu(values.astype(np.float64))
        got = apply("math_ext.gelu", values, result="f32", lanes=lanes).astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
    for low, relative in ((0.0, 5.5e-7), (-1.0, 6.5e-7), (-2.0, 1.2e-6), (-3.0, 2.5e-6), (-4.0, 2e-5)):
        within = values >= low
        np.testing.assert_allclose(got[within], expected[within], rtol=relative, atol=1.2e-38)
    np.testing.assert_allclose(got[values < -4], expected[values < -4], rtol=0, atol=2e-8)
    assert np.all(got[values < -8.001] == 0)
    np.testing.assert_array_equal(got[values > 8.001], values[values > 8.001])


@pytest.mark.parametrize("lanes", LANES)
def test_gelu_of_other_types(lanes: int | None) -> None:
    for dtype, name, places, least in (
        (np.float64, "f64", 1e-14, 0.0),
        (np.float16, "f16", 2.0**-10, 8e-8),
        (BF16, "bf16", 2.0**-7, 2e-8),
    ):
        values = floats(dtype)
        with np.errstate(all="ignore"):
            exact = _gelu(values.astype(np.float64))
            got = apply("math_ext.gelu", values, result=name, lanes=lanes).astype(np.float64)
            np.testing.assert_allclose(got, exact, rtol=places, atol=least)


@pytest.mark.parametrize("lanes", LANES)
def test_power(lanes: int | None) -> None:
    special = np.array(SPECIAL, np.float32)
    bases, exponents = (grid.ravel().astype(np.float32) for grid in np.meshgrid(special, special))
    generator = np.random.default_rng(9)
    bases = np.concatenate([bases, np.exp(generator.normal(0, 8, 40000)).astype(np.float32)])
    exponents = np.concatenate([exponents, generator.normal(0, 6, 40000).astype(np.float32)])
    count = len(bases) // 16 * 16
    bases, exponents = bases[:count].copy(), exponents[:count].copy()
    with np.errstate(all="ignore"):
        expected = np.power(bases.astype(np.float64), exponents.astype(np.float64))
    got = apply("math.powf", bases, exponents, result="f32", lanes=lanes)
    assert units_in_the_last_place(got, expected) <= 0.51
    np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(expected[got == 0]))


def test_fma() -> None:
    """Rounded once, or twice where the processor has no instruction for it."""
    host = Target.host()
    fused = host.architecture != "x86_64" or "fma" in host.needs
    a, b, c = (np.roll(floats(np.float32), shift) for shift in (0, 911, 333))
    with np.errstate(all="ignore"):
        exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
        wanted = exact.astype(np.float32) if fused else a * b + c
        same(apply("math.fma", a, b, c, result="f32", lanes=16), wanted)


def _int_reference(op: str, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Python's exact integers, wrapped to the width."""
    width = left.dtype.itemsize * 8
    mask = (1 << width) - 1

    def one(a: int, b: int) -> int:
        ua, ub = a & mask, b & mask
        quotient = 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        table = {
            "addi": lambda: a + b,
            "subi": lambda: a - b,
            "muli": lambda: a * b,
            "divsi": lambda: quotient,
            "remsi": lambda: a - quotient * b if b else 0,
            "divui": lambda: ua // ub if ub else 0,
            "remui": lambda: ua % ub if ub else 0,
            "floordivsi": lambda: a // b if b else 0,
            "ceildivsi": lambda: -(-a // b) if b else 0,
            "ceildivui": lambda: -(-ua // ub) if ub else 0,
            "andi": lambda: a & b,
            "ori": lambda: a | b,
            "xori": lambda: a ^ b,
            "shli": lambda: a << ub if ub < width else 0,
            "shrui": lambda: ua >> ub if ub < width else 0,
            "shrsi": lambda: a >> min(ub, width - 1),
            "maxsi": lambda: max(a, b),
            "minsi": lambda: min(a, b),
            "maxui": lambda: max(ua, ub),
            "minui": lambda: min(ua, ub),
        }
        wrapped = table[op]() & mask
        return wrapped - (1 << width) if wrapped >> (width - 1) else wrapped

    return np.array([one(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)], left.dtype)


INT_BINARY = [name for name, signature in OPS.items() if signature.operands == ("int", "int")]
INT_BINARY = [name for name in INT_BINARY if OPS[name].kind == "binary"]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("op", INT_BINARY)
def test_int_binary(op: str, lanes: int | None) -> None:
    for dtype, name in ((np.int8, "i8"), (np.int32, "i32"), (np.int64, "index")):
        values = integers(dtype)
        left = np.concatenate([values, np.repeat(values[:16], 16)])
        right = np.concatenate([np.roll(values, 77), np.tile(values[:16], 16)])
        got = apply(op, left, right, result=name, lanes=lanes)
        np.testing.assert_array_equal(got, _int_reference(op.removeprefix("arith."), left, right))


@pytest.mark.parametrize("lanes", LANES)
def test_compare(lanes: int | None) -> None:
    left = floats(np.float32)
    right = np.concatenate([np.roll(left[:2048], 5), left[2048:]])
    unordered = np.isnan(left) | np.isnan(right)
    order = {"eq": left == right, "gt": left > right, "ge": left >= right}
    order |= {"lt": left < right, "le": left <= right, "ne": (left != right) & ~unordered}
    expected = {"o" + name: value & ~unordered for name, value in order.items()}
    expected |= {"u" + name: value | unordered for name, value in order.items()}
    expected |= {"ord": ~unordered, "uno": unordered, "false": unordered & False, "true": unordered | True}
    for predicate, value in expected.items():
        predicate = {"one": "one", "une": "une"}.get(predicate, predicate)
        got = apply(f"arith.cmpf:{predicate}", left, right, result="i1", lanes=lanes)
        np.testing.assert_array_equal(got, value, err_msg=predicate)
    a = integers(np.int32)
    b = np.roll(a, 3)
    b[::3] = a[::3]
    ua, ub = a.view(np.uint32), b.view(np.uint32)
    whole = {"eq": a == b, "ne": a != b, "slt": a < b, "sle": a <= b, "sgt": a > b, "sge": a >= b}
    whole |= {"ult": ua < ub, "ule": ua <= ub, "ugt": ua > ub, "uge": ua >= ub}
    for predicate, value in whole.items():
        got = apply(f"arith.cmpi:{predicate}", a, b, result="i1", lanes=lanes)
        np.testing.assert_array_equal(got, value, err_msg=predicate)


@pytest.mark.parametrize("lanes", LANES)
def test_select_and_absolute(lanes: int | None) -> None:
    a, b = floats(np.float32), np.roll(floats(np.float32), 9)
    condition = np.random.default_rng(3).integers(0, 2, a.size).astype(bool)
    same(apply("arith.select", condition, a, b, result="f32", lanes=lanes), np.where(condition, a, b))
    values = integers(np.int32)
    np.testing.assert_array_equal(apply("math.absi", values, result="i32", lanes=lanes), np.abs(values))


ELEMENTS = {"float": ["f64", "f32", "f16", "bf16"], "int": ["i1", "i8", "i16", "i32", "i64", "index"]}
ELEMENTS["any"] = ELEMENTS["float"] + ELEMENTS["int"]


def _function(module: ir.Module, op: str, element: str, result: str, lanes: int | None) -> None:
    conditions = [operand == "i1" for operand in OPS[op].operands]
    types = [llvm_type("i1" if condition else element, lanes) for condition in conditions]
    signature = ir.FunctionType(llvm_type(result, lanes), types)
    function = ir.Function(module, signature, f"{op}.{element}.{result}.{lanes}")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(emit(op, builder, function.args, element, result))


@pytest.mark.parametrize("kind", sorted({signature.kind for signature in OPS.values()}))
def test_every_op_compiles_for_every_type(kind: str) -> None:
    """Also those that the tests above do not run, such as divisions of i1."""
    module = ir.Module()
    for op, signature in OPS.items():
        if signature.kind != kind:
            continue
        for element in ELEMENTS[signature.operands[-1]]:
            results = ELEMENTS[signature.result] if kind == "convert" and "bitcast" not in op else [element]
            for result in ["i1"] if signature.result == "i1" else results:
                for lanes in (None, 3):
                    _function(module, op, element, result, lanes)
    assert to_object(str(module), Target.host())
