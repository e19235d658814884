"""Interval arithmetic on the two's complement integers of the registers.

Each function takes the intervals of an op's operands and returns one that contains every result. A
result that may not fit the type may wrap around, so it is the whole type; `Interval`s are inclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mdsl.ir.operations import interval_of

INTEGER_BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
"""The integer types of registers. A value of type `index` lies in an `i64` register."""


class Interval(NamedTuple):
    lo: int
    hi: int

    def join(self, other: Interval) -> Interval:
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    def __contains__(self, other: object) -> bool:
        """Whether every value of the other interval is in this one."""
        return isinstance(other, Interval) and self.lo <= other.lo and other.hi <= self.hi

    def __str__(self) -> str:
        return f"[{self.lo}, {self.hi}]"


Transfer = Callable[..., Interval | None]
"""From intervals to an interval, or None where nothing is known."""


def whole(element: str) -> Interval:
    """Every value of an integer type. The i1 values are 0 and 1."""
    bits = INTEGER_BITS[element]
    return Interval(0, 1) if bits == 1 else Interval(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def clip(interval: Interval | None, element: str) -> Interval:
    """The interval if the type holds all of it, else the whole type, because the value may have wrapped."""
    everything = whole(element)
    return interval if interval is not None and interval in everything else everything


def constant(value: int) -> Interval:
    return Interval(value, value)


def affine(base: Interval, index: Interval, stride: int, offset: int = 0) -> Interval:
    """base + index * stride + offset."""
    scaled = (index.lo * stride, index.hi * stride)
    return Interval(base.lo + min(scaled) + offset, base.hi + max(scaled) + offset)


def _affine(kind: str) -> Transfer:
    """That of an operation of affine expressions."""

    def transfer(a: Interval, b: Interval) -> Interval | None:
        found = interval_of(kind, a, b)
        return found and Interval(*found)

    return transfer


_floor_division, _ceil_division = _affine("floordiv"), _affine("ceildiv")


def _division(a: Interval, b: Interval) -> Interval | None:
    """Towards zero, which is the floor when nothing is negative."""
    return _floor_division(a, b) if a.lo >= 0 and b.lo >= 0 else None


def _remainder(a: Interval, b: Interval) -> Interval | None:
    if b.lo <= 0 or a.lo < 0:
        return None
    return a if a.hi < b.lo else Interval(0, min(a.hi, b.hi - 1))


def _and(a: Interval, b: Interval) -> Interval | None:
    """A mask that is not negative bounds the result, whatever is masked."""
    masks = [x.hi for x in (a, b) if x.lo >= 0]
    return Interval(0, min(masks)) if masks else None


def _natural(transfer: Transfer) -> Transfer:
    """Unsigned ops agree with signed ones where no operand is negative."""
    return lambda a, b: transfer(a, b) if a.lo >= 0 and b.lo >= 0 else None


def _minimum(a: Interval, b: Interval) -> Interval:
    return Interval(min(a.lo, b.lo), min(a.hi, b.hi))


def _maximum(a: Interval, b: Interval) -> Interval:
    return Interval(max(a.lo, b.lo), max(a.hi, b.hi))


TRANSFERS: dict[str, Transfer] = {
    "arith.addi": _affine("+"),
    "arith.subi": lambda a, b: Interval(a.lo - b.hi, a.hi - b.lo),
    "arith.muli": _affine("*"),
    "arith.divsi": _division,
    "arith.divui": _natural(_floor_division),
    "arith.floordivsi": _floor_division,
    "arith.ceildivsi": _ceil_division,
    "arith.ceildivui": _natural(_ceil_division),
    "arith.remsi": _remainder,
    "arith.remui": _natural(_remainder),
    "arith.andi": _and,
    "arith.minsi": _minimum,
    "arith.maxsi": _maximum,
    "arith.minui": _natural(_minimum),
    "arith.maxui": _natural(_maximum),
    "arith.extsi": lambda a: a,
    "arith.extui": lambda a: a if a.lo >= 0 else None,
    "arith.trunci": lambda a: a,
}


def transfer_of(op: str, *elements: str) -> Transfer | None:
    """The transfer of `op` on these element types, operands and results; None where nothing is known.

    As a signed number the i1 true is -1, while its interval says 1: only `extui` agrees with that.
    """
    return None if "i1" in elements and op != "arith.extui" else TRANSFERS.get(op)
