"""The interval of an op's result holds every result, also those that wrap around."""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import pytest

from mdsl.analysis.intervals import TRANSFERS, Interval, clip, whole
from tests.fuzz.checked import compute, wrap

BINARY = [op for op in TRANSFERS if op.partition(".")[2] not in ("extsi", "extui", "trunci")]
SMALL = range(-3, 5)
ENDS = (-128, -127, -2, -1, 0, 1, 2, 126, 127)


def some_of(interval: Interval) -> list[int]:
    """All of a short interval; of a long one its ends and what is next to them, and to 0."""
    lo, hi = interval
    if hi - lo < 10:
        return list(range(lo, hi + 1))
    return [value for value in (lo, lo + 1, -1, 0, 1, 2, hi - 1, hi) if lo <= value <= hi]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("ends", [SMALL, ENDS], ids=["small", "ends"])
def test_holds_every_result(op: str, ends: range | tuple[int, ...]) -> None:
    intervals = [Interval(lo, hi) for lo, hi in combinations_with_replacement(ends, 2)]
    for a, b in product(intervals, intervals):
        found = clip(TRANSFERS[op](a, b), "i8")
        for x, y in product(some_of(a), some_of(b)):
            result = wrap(compute(op.partition(".")[2], "", [x, y], "i8"), "i8")
            assert found.lo <= result <= found.hi, (op, a, b, x, y, result, found)


@pytest.mark.parametrize("op", ["arith.extsi", "arith.extui", "arith.trunci"])
def test_casts_hold_every_result(op: str) -> None:
    result = "i8" if op == "arith.trunci" else "i32"
    numbers = (*ENDS, 128, 255, 256) if op == "arith.trunci" else ENDS
    for lo, hi in combinations_with_replacement(numbers, 2):
        found = clip(TRANSFERS[op](Interval(lo, hi)), result)
        for value in some_of(Interval(lo, hi)):
            element = "i32" if op == "arith.trunci" else "i8"
            number = wrap(compute(op.partition(".")[2], "", [value], element), result)
            assert found.lo <= number <= found.hi, (op, lo, hi, value, number, found)


def test_what_may_not_fit_may_be_anything() -> None:
    assert clip(Interval(-1, 128), "i8") == whole("i8") == clip(None, "i8")
