"""arith: every op on the values where it is easy to be wrong."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from evaluating import array, body, converted, elementwise, tensor_type

from mdsl.dialects.arith import CMPF, CMPI
from mdsl.ir.registry import operations
from mdsl.reference.registry import meaning

nan, inf = float("nan"), float("inf")
MIN, MAX = -(2**31), 2**31 - 1
MIN64, MAX64 = -(2**63), 2**63 - 1


@pytest.mark.parametrize(
    ("op", "element", "lhs", "rhs", "wanted"),
    [
        ("addf", "f32", [1.5, inf], [2.0, -inf], [3.5, nan]),
        ("subf", "f32", [1.5, inf], [2.0, inf], [-0.5, nan]),
        ("mulf", "f32", [1.5, 0.0], [2.0, inf], [3.0, nan]),
        ("divf", "f32", [1.0, -1.0, 0.0], [4.0, 0.0, 0.0], [0.25, -inf, nan]),
        ("remf", "f32", [5.5, -5.5, 1.0], [2.0, 2.0, 0.0], [1.5, -1.5, nan]),
        ("maximumf", "f32", [1.0, nan, 2.0], [2.0, 1.0, nan], [2.0, nan, nan]),
        ("minimumf", "f32", [1.0, nan, 2.0], [2.0, 1.0, nan], [1.0, nan, nan]),
        ("maxnumf", "f32", [1.0, nan, 2.0, nan], [2.0, 1.0, nan, nan], [2.0, 1.0, 2.0, nan]),
        ("minnumf", "f32", [1.0, nan, 2.0, nan], [2.0, 1.0, nan, nan], [1.0, 1.0, 2.0, nan]),
        ("addf", "bf16", [256.0, 1.0], [1.0, 2.0], [256.0, 3.0]),
        ("mulf", "f16", [300.0, 2.0], [300.0, 2.0], [inf, 4.0]),
        ("addi", "i32", [MAX, 1], [1, 2], [MIN, 3]),
        ("addi", "i8", [127, -128], [1, -1], [-128, 127]),
        ("addi", "index", [MAX64], [1], [MIN64]),
        ("subi", "i32", [MIN, 1], [1, 2], [MAX, -1]),
        ("muli", "i32", [2**20, -3], [2**12, 5], [0, -15]),
        ("divsi", "i32", [7, -7, 7, -7, 5, MIN], [2, 2, -2, -2, 0, -1], [3, -3, -3, 3, 0, MIN]),
        ("remsi", "i32", [7, -7, 7, -7, 5, MIN], [2, 2, -2, -2, 0, -1], [1, -1, 1, -1, 0, 0]),
        ("divui", "i32", [-1, 7, 5], [2, 2, 0], [MAX, 3, 0]),
        ("remui", "i32", [-1, 7, 5], [10, 4, 0], [5, 3, 0]),
        ("andi", "i32", [12, -1], [10, 5], [8, 5]),
        ("ori", "i32", [12, -1], [10, 5], [14, -1]),
        ("xori", "i32", [12, -1], [10, 5], [6, -6]),
        ("shli", "i32", [1, 1, 3, 1], [31, 32, 1, -1], [MIN, 0, 6, 0]),
        ("shrsi", "i32", [-8, -8, 8, -8], [1, 32, 99, -1], [-4, -1, 0, -1]),
        ("shrui", "i32", [-1, -1, 8], [28, 32, 1], [15, 0, 4]),
        ("maxsi", "i8", [-1, 3], [1, 2], [1, 3]),
        ("minsi", "i8", [-1, 3], [1, 2], [-1, 2]),
        ("maxui", "i8", [-1, 3], [1, 2], [-1, 3]),
        ("minui", "i8", [-1, 3], [1, 2], [1, 2]),
        ("addi", "i1", [True, True, False], [True, False, False], [False, True, False]),
        ("subi", "i1", [True, False], [True, True], [False, True]),
        ("muli", "i1", [True, True], [True, False], [True, False]),
        ("divsi", "i1", [True, True], [True, False], [True, False]),
        ("maxsi", "i1", [True], [False], [False]),
        ("maxui", "i1", [True], [False], [True]),
        ("xori", "i1", [True, True], [True, False], [False, True]),
        ("shli", "i1", [True, True], [False, True], [True, False]),
        ("shrsi", "i1", [True], [True], [True]),
        ("shrui", "i1", [True], [True], [False]),
    ],
)
def test_binary(op: str, element: str, lhs: list[float], rhs: list[float], wanted: list[float]) -> None:
    np.testing.assert_array_equal(elementwise(f"arith.{op}", element, lhs, rhs), wanted)


def test_negf_flips_the_sign_of_zero() -> None:
    found = elementwise("arith.negf", "f32", [0.0, -1.5])
    assert found == [0.0, 1.5] and np.signbit(found[0])


@pytest.mark.parametrize("word", CMPF)
def test_cmpf(word: str) -> None:
    a, b = [1.0, 2.0, 2.0, nan, 1.0], [2.0, 1.0, 2.0, 1.0, nan]
    holds = {
        "eq": [0, 0, 1],
        "gt": [0, 1, 0],
        "ge": [0, 1, 1],
        "lt": [1, 0, 0],
        "le": [1, 0, 1],
        "ne": [1, 1, 0],
    }
    unordered = [word[0] == "u"] * 2
    wanted = {
        "false": [False] * 5,
        "true": [True] * 5,
        "ord": [True] * 3 + [False] * 2,
        "uno": [False] * 3 + [True] * 2,
    }.get(word) or [*map(bool, holds[word[1:]]), *unordered]
    lines = f"%r = arith.cmpf {word}, %a, %b : tensor<5xf32>"
    found = body(lines, [array(a, "f32"), array(b, "f32")], ["tensor<5xf32>"] * 2, "tensor<5xi1>")
    assert found.tolist() == wanted
    for x, y, z in zip(a, b, wanted, strict=True):
        one = body(f"%r = arith.cmpf {word}, %a, %b : f32", [np.float32(x), np.float32(y)], ["f32"] * 2, "i1")
        assert bool(one) == z


@pytest.mark.parametrize("word", CMPI)
def test_cmpi(word: str) -> None:
    a, b = [-1, 1, 1], [1, -1, 1]
    sign = 1 if word[0] == "u" else -1
    less = [sign < 0, sign > 0, False]
    equal = [False, False, True]
    wanted = {
        "eq": equal,
        "ne": [not e for e in equal],
        "lt": less,
        "le": [x or e for x, e in zip(less, equal, strict=True)],
        "gt": [not x and not e for x, e in zip(less, equal, strict=True)],
        "ge": [not x for x in less],
    }[word[-2:]]
    for element in ("i8", "i32", "i64", "index"):
        lines = f"%r = arith.cmpi {word}, %a, %b : tensor<3x{element}>"
        found = body(
            lines, [array(a, element), array(b, element)], [f"tensor<3x{element}>"] * 2, "tensor<3xi1>"
        )
        assert found.tolist() == wanted


def test_cmpi_of_bits_is_signed_or_not() -> None:
    def compare(word: str) -> bool:
        return bool(body(f"%r = arith.cmpi {word}, %a, %b : i1", [np.True_, np.False_], ["i1", "i1"], "i1"))

    assert compare("slt") and not compare("ult") and compare("ugt") and compare("ne")


@pytest.mark.parametrize(
    ("op", "source", "target", "values", "wanted"),
    [
        ("extf", "f16", "f32", [1.5, inf, nan], [1.5, inf, nan]),
        ("truncf", "f32", "bf16", [1.00390625, 1.01171875, 3.0e38], [1.0, 1.015625, 3.00405527e38]),
        ("truncf", "f64", "f16", [1.0e6, 0.1], [inf, 0.0999755859375]),
        ("extsi", "i8", "i32", [-1, 127], [-1, 127]),
        ("extsi", "i1", "i32", [True, False], [-1, 0]),
        ("extui", "i8", "i32", [-1, 127], [255, 127]),
        ("extui", "i1", "i32", [True, False], [1, 0]),
        ("trunci", "i32", "i8", [257, -129], [1, 127]),
        ("trunci", "i32", "i1", [2, 3, -1], [False, True, True]),
        ("sitofp", "i8", "f32", [-1, 127], [-1.0, 127.0]),
        ("sitofp", "i1", "f32", [True, False], [-1.0, 0.0]),
        ("uitofp", "i8", "f32", [-1, 127], [255.0, 127.0]),
        ("uitofp", "i1", "f32", [True, False], [1.0, 0.0]),
        ("fptosi", "f32", "i8", [1.9, -1.9, 300.0, -300.0, nan, inf, -inf], [1, -1, 127, -128, 0, 127, -128]),
        ("fptosi", "f64", "i64", [1.0e300, -1.0e300, 2.0**62], [MAX64, MIN64, 2**62]),
        ("fptosi", "f32", "i32", [2147483648.0, -2147483648.0], [MAX, MIN]),
        ("fptosi", "f32", "i1", [1.0, -1.0, -0.5, -7.0, nan], [False, True, False, True, False]),
        ("fptoui", "f32", "i8", [200.0, -1.0, 300.0, nan], [-56, 0, -1, 0]),
        ("fptoui", "f64", "i64", [2.0**63, 1.0e300], [MIN64, -1]),
        ("fptoui", "f32", "i1", [1.0, 0.5, 9.0, -1.0], [True, False, True, False]),
        ("index_cast", "index", "i32", [2**32 + 5, -1], [5, -1]),
        ("index_cast", "i8", "index", [-1, 5], [-1, 5]),
        ("bitcast", "f32", "i32", [1.0, -0.0], [0x3F800000, MIN]),
        ("bitcast", "i16", "bf16", [0x3F80, -1], [1.0, nan]),
    ],
)
def test_conversion(op: str, source: str, target: str, values: list[float], wanted: list[float]) -> None:
    found = converted(f"arith.{op}", source, target, values)
    if target == "bf16":
        np.testing.assert_allclose(np.array(found, float), wanted, rtol=1e-3, equal_nan=True)
    else:
        np.testing.assert_array_equal(found, wanted)


def test_select_by_one_bit_and_by_element() -> None:
    a, b = array([1, 2, 3], "f32"), array([4, 5, 6], "f32")
    types = ["tensor<3xf32>", "tensor<3xf32>"]
    each = body(
        "%r = arith.select %c, %a, %b : tensor<3xi1>, tensor<3xf32>",
        [a, b, array([1, 0, 1], "i1")],
        [*types, "tensor<3xi1>"],
        types[0],
    )
    assert each.tolist() == [1, 5, 3]
    whole = body("%r = arith.select %c, %a, %b : tensor<3xf32>", [a, b, np.False_], [*types, "i1"], types[0])
    assert whole.tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    ("constant", "type", "wanted"),
    [
        ("1.5 : bf16", "bf16", ml_dtypes.bfloat16(1.5)),
        ("0x7FC00000 : f32", "f32", np.float32(nan)),
        ("-1 : i8", "i8", np.int8(-1)),
        ("true", "i1", np.True_),
        ("7 : index", "index", np.int64(7)),
        ("dense<[1, 2]> : tensor<2xi32>", "tensor<2xi32>", np.array([1, 2], np.int32)),
        ("dense<0.5> : tensor<2xf64>", "tensor<2xf64>", np.array([0.5, 0.5])),
    ],
)
def test_constant(constant: str, type: str, wanted: np.ndarray) -> None:
    found = body(f"%r = arith.constant {constant}", [], [], type)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_vectors_are_arrays_too() -> None:
    a = array([1.0, nan], "f32")
    text = "vector<2xf32>"
    assert tensor_type(a, "f32") == "tensor<2xf32>"
    found = body(f"%r = arith.maxnumf %a, %a : {text}", [a], [text], text)
    np.testing.assert_array_equal(found, a)


@pytest.mark.parametrize("op", ["maxnumf", "minnumf"])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_a_signalling_nan_is_left_out_for_a_number(op: str, count: int) -> None:
    """However many there are; NumPy's own answer depends on that, and on the processor."""
    signalling, ones = np.full(count, 0x7FA00000, np.uint32).view(np.float32), np.ones(count, np.float32)
    text = f"vector<{count}xf32>"
    for operands in ([signalling, ones], [ones, signalling]):
        np.testing.assert_array_equal(
            body(f"%r = arith.{op} %a, %b : {text}", operands, [text, text], text), ones
        )


TERMINATORS = {
    "func.return",
    "linalg.yield",
    "linalg_ext.yield",
    "scf.yield",
    "tensor.yield",
    "ukernel.yield",
    "ukernel.return",
    "mvm.yield",
    "mvm.return",
    "scf.forall.in_parallel",
}
DEFINITIONS = {
    "builtin.module",
    "func.func",
    "ukernel.func",
    "mvm.func",
    "memref.global",
    "tensor.parallel_insert_slice",
}


def test_every_op_has_a_meaning() -> None:
    known = {name for name in operations() if meaning(name)}
    assert set(operations()) == known | TERMINATORS | DEFINITIONS
    assert not known & (DEFINITIONS - {"tensor.parallel_insert_slice"})
