"""Of several ops that were written at one place, as a front end makes of one node, the one that the place is known by."""

from __future__ import annotations

from collections.abc import Iterable

from mdsl.ir.core import Op


def main_ops(ops: Iterable[Op]) -> dict[str, Op]:
    """By place the op that reads most, the first of these: a convolution, not what gives its image another shape."""
    found: dict[str, Op] = {}
    for op in ops:
        if op.location is None:
            continue
        known = found.setdefault(op.location.place, op)
        if len(op.operands) > len(known.operands):
            found[op.location.place] = op
    return found
