"""The operations of affine expressions, on numbers and on what lies between two of them.

What is loaded to run takes its intervals from here, without the expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Bounds = tuple[int, int]
"""The lowest and the highest value."""

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "ceildiv": lambda a, b: -(-a // b),
    "mod": lambda a, b: a % b,
}


def interval_of(kind: str, a: Bounds, b: Bounds) -> Bounds | None:
    """Bounds of the operation on numbers between bounds; None if the divisor may be 0."""
    if kind == "+":
        return a[0] + b[0], a[1] + b[1]
    if kind != "*" and b[0] <= 0 <= b[1]:
        return None
    if kind != "mod":
        corners = [OPERATIONS[kind](x, y) for x in a for y in b]
        return min(corners), max(corners)
    if a[0] >= 0 and a[1] < b[0]:
        return a
    return remainders(b)


def remainders(divisor: Bounds) -> Bounds:
    """Between which numbers the remainders lie: they have the divisor's sign."""
    return (0, divisor[1] - 1) if divisor[0] > 0 else (divisor[0] + 1, 0)
