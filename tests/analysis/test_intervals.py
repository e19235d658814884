"""The intervals of integer ops hold every result that the reference computes, and no more where that is promised."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mdsl.analysis.intervals import TRANSFERS, Interval, affine, clip, constant, transfer_of, whole
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import interval_of
from mdsl.reference import run
from mdsl.syntax.parser import parse

ENDS = (-128, -127, -7, -2, -1, 0, 1, 2, 5, 100, 127)
INTERVALS = [Interval(lo, hi) for lo, hi in itertools.combinations_with_replacement(ENDS, 2)]
CASTS = ("arith.extsi", "arith.extui", "arith.trunci")


def points(interval: Interval) -> list[int]:
    """Numbers of the interval: its ends, what lies beside them and beside 0."""
    near = {n + d for n in (*interval, 0) for d in (-2, -1, 0, 1, 2)}
    return sorted(n for n in near if interval.lo <= n <= interval.hi)


def binary(op: str) -> ModuleOp:
    n = 256 * 256
    return parse(
        f"func.func @main(%a: tensor<{n}xi8>, %b: tensor<{n}xi8>) -> tensor<{n}xi8> {{\n"
        f"%r = {op} %a, %b : tensor<{n}xi8>\nreturn %r : tensor<{n}xi8>\n}}"
    )


@pytest.mark.parametrize("op", [op for op in TRANSFERS if op not in CASTS])
def test_an_interval_holds_every_result(op: str) -> None:
    numbers = np.arange(-128, 128).astype(np.int8)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(numbers, numbers, indexing="ij"))
    with np.errstate(all="ignore"):
        results = np.asarray(run(binary(op), [a, b])[0]).reshape(256, 256)
    for left, right in itertools.product(INTERVALS, repeat=2):
        known = clip(TRANSFERS[op](left, right), "i8")
        rows, columns = ([n + 128 for n in points(x)] for x in (left, right))
        found = results[np.ix_(rows, columns)]
        if "div" in op or "rem" in op:  # what has no result may give any
            found = found[:, np.asarray(columns) != 128]
        if found.size:
            assert known.lo <= found.min() and found.max() <= known.hi, (op, left, right, known)


EXACT = {
    "arith.addi": [((1, 2), (10, 20), (11, 22))],
    "arith.subi": [((1, 2), (10, 20), (-19, -8))],
    "arith.muli": [((-2, 3), (10, 20), (-40, 60))],
    "arith.divsi": [((8, 15), (4, 4), (2, 3))],
    "arith.divui": [((8, 15), (4, 4), (2, 3))],
    "arith.ceildivui": [((8, 15), (4, 4), (2, 4))],
    "arith.floordivsi": [((-8, 15), (4, 4), (-2, 3))],
    "arith.remsi": [((0, 100), (4, 4), (0, 3)), ((1, 3), (4, 9), (1, 3)), ((0, 100), (4, 8), (0, 7))],
    "arith.remui": [((0, 100), (4, 4), (0, 3))],
    "arith.andi": [((-5, 9), (0, 7), (0, 7)), ((0, 3), (0, 7), (0, 3))],
    "arith.minsi": [((-5, 9), (0, 7), (-5, 7))],
    "arith.maxsi": [((-5, 9), (0, 7), (0, 9))],
    "arith.minui": [((1, 9), (0, 7), (0, 7))],
    "arith.maxui": [((1, 9), (0, 7), (1, 9))],
}


@pytest.mark.parametrize("op", EXACT)
def test_an_interval_is_no_wider_than_it_must_be(op: str) -> None:
    for left, right, wanted in EXACT[op]:
        assert TRANSFERS[op](Interval(*left), Interval(*right)) == wanted


UNKNOWN = {
    "arith.divsi": [((-8, 15), (4, 4)), ((8, 15), (0, 4)), ((8, 15), (-4, -1))],
    "arith.divui": [((-8, 15), (4, 4)), ((8, 15), (-4, 4))],
    "arith.ceildivui": [((-8, 15), (4, 4)), ((8, 15), (-4, -1))],
    "arith.remsi": [((-1, 100), (4, 4)), ((0, 100), (0, 4))],
    "arith.remui": [((-1, 100), (4, 4)), ((0, 100), (-4, 4))],
    "arith.andi": [((-5, 9), (-1, 7))],
    "arith.minui": [((-1, 9), (0, 7)), ((1, 9), (-2, 7))],
    "arith.maxui": [((-1, 9), (0, 7)), ((1, 9), (-2, 7))],
}


@pytest.mark.parametrize("op", UNKNOWN)
def test_nothing_is_said_of_what_is_not_known(op: str) -> None:
    for left, right in UNKNOWN[op]:
        assert TRANSFERS[op](Interval(*left), Interval(*right)) is None


def test_casts() -> None:
    small, negative = Interval(0, 100), Interval(-3, 5)
    assert TRANSFERS["arith.extsi"](negative) == negative
    assert TRANSFERS["arith.extui"](small) == small and TRANSFERS["arith.extui"](negative) is None
    assert clip(TRANSFERS["arith.trunci"](Interval(0, 300)), "i8") == whole("i8")
    assert clip(TRANSFERS["arith.trunci"](small), "i8") == small


def test_bits_are_known_to_be_widened_only() -> None:
    """As a signed number true is -1, in an interval it is 1."""
    assert transfer_of("arith.extui", "i1", "i64") is TRANSFERS["arith.extui"]
    for op in ("arith.extsi", "arith.addi", "arith.minsi", "arith.trunci"):
        assert transfer_of(op, "i1", "i64") is None and transfer_of(op, "i64", "i1") is None
    assert transfer_of("arith.addi", "i64", "i64", "i64") is TRANSFERS["arith.addi"]
    assert transfer_of("arith.xori", "i64", "i64", "i64") is None


@pytest.mark.parametrize("kind", ["+", "*", "floordiv", "ceildiv", "mod"])
def test_affine_operations(kind: str) -> None:
    """Every interval of a few numbers with every other; a divisor that may be 0 has no answer."""
    compute = {
        "+": lambda a, b: a + b,
        "*": lambda a, b: a * b,
        "floordiv": lambda a, b: a // b,
        "ceildiv": lambda a, b: -(-a // b),
        "mod": lambda a, b: a - b * (a // b),
    }[kind]
    few = [Interval(lo, hi) for lo, hi in itertools.combinations_with_replacement(range(-4, 5), 2)]
    for left, right in itertools.product(few, repeat=2):
        found = interval_of(kind, left, right)
        if kind not in "+*" and right.lo <= 0 <= right.hi:
            assert found is None
            continue
        assert found is not None
        results = [compute(a, b) for a in range(left.lo, left.hi + 1) for b in range(right.lo, right.hi + 1)]
        assert found[0] <= min(results) and max(results) <= found[1], (left, right)
        assert kind == "mod" or found == (min(results), max(results)), (left, right)


def test_an_address_holds_what_its_parts_give() -> None:
    for base, index in itertools.product(INTERVALS[::3], repeat=2):
        for stride, offset in itertools.product((-3, 0, 2), (-5, 0, 7)):
            places = [b + i * stride + offset for b in base for i in index]
            assert affine(base, index, stride, offset) == (min(places), max(places))


def test_intervals_in_each_other() -> None:
    assert Interval(1, 5).join(Interval(-2, 3)) == (-2, 5) == Interval(-2, 3).join(Interval(1, 5))
    assert Interval(1, 5).join(Interval(2, 3)) == (1, 5) == Interval(2, 3).join(Interval(1, 5))
    assert Interval(1, 5) in Interval(1, 5)
    for other in (Interval(0, 5), Interval(1, 6), Interval(0, 6), Interval(-9, -8), Interval(8, 9), 3):
        assert other not in Interval(1, 5)


def test_what_a_type_holds() -> None:
    assert [whole(t) for t in ("i1", "i8", "i16")] == [(0, 1), (-128, 127), (-(1 << 15), (1 << 15) - 1)]
    assert clip(constant(127), "i8") == (127, 127) and clip(constant(-128), "i8") == (-128, -128)
    for beyond in (128, -129):
        assert clip(constant(beyond), "i8") == whole("i8")
    assert clip(None, "i1") == (0, 1)
