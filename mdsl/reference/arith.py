"""Meaning of the arith dialect; every function works on scalars and arrays alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mdsl.dialects.arith import CMPF, CMPI
from mdsl.ir.core import Op
from mdsl.ir.types import dtype_of, element_of
from mdsl.reference.extrema import maximum, maximum_number, minimum, minimum_number
from mdsl.reference.numbers import constant_value, ignoring_op
from mdsl.reference.registry import SEMANTICS, semantics

Binary = Callable[[Any, Any], Any]


@semantics("arith.constant")
def constant(op: Op) -> Any:
    return constant_value(op.attributes["value"])


# Floats -------------------------------------------------------------------------------------------------

FLOAT: dict[str, Callable[..., Any]] = {
    "arith.negf": lambda x: -x,
    "arith.addf": lambda a, b: a + b,
    "arith.subf": lambda a, b: a - b,
    "arith.mulf": lambda a, b: a * b,
    "arith.divf": lambda a, b: a / b,
    "arith.remf": np.fmod,
    "arith.maximumf": maximum,
    "arith.minimumf": minimum,
    "arith.maxnumf": maximum_number,
    "arith.minnumf": minimum_number,
}


SEMANTICS.update({name: ignoring_op(f) for name, f in FLOAT.items()})


# Integers -----------------------------------------------------------------------------------------------
# NumPy wraps, divides by 0 to 0 and shifts past the width to 0 (or the sign), as arith does here. What it
# lacks is one-bit arithmetic: i1 is computed in i8, from 0 and -1 (signed) or 0 and 1, and cut to a bit.


def _is_bool(x: Any) -> bool:
    return x.dtype == np.bool_


def _unsigned_view(x: Any) -> Any:
    return x.view(f"u{x.dtype.itemsize}")


def signed(function: Binary) -> Callable[..., Any]:
    def evaluate(op: Op, a: Any, b: Any) -> Any:
        if _is_bool(a):
            return (function(-a.astype(np.int8), -b.astype(np.int8)) & 1).astype(np.bool_)
        return function(a, b)

    return evaluate


def unsigned(function: Binary) -> Callable[..., Any]:
    def evaluate(op: Op, a: Any, b: Any) -> Any:
        if _is_bool(a):
            return (function(a.astype(np.uint8), b.astype(np.uint8)) & 1).astype(np.bool_)
        return function(_unsigned_view(a), _unsigned_view(b)).view(a.dtype)

    return evaluate


def divide(a: Any, b: Any) -> Any:
    """Towards zero; NumPy rounds down, one too low where signs differ and a remainder is left."""
    floor = a // b
    inexact = (b != 0) & ((a < 0) != (b < 0)) & (floor * b != a)
    return floor + inexact.astype(a.dtype)


def _divide_up(a: Any, b: Any) -> Any:
    """Rounded up: one more than NumPy's quotient where a remainder is left."""
    floor = a // b
    return floor + ((b != 0) & (floor * b != a)).astype(a.dtype)


SIGNED: dict[str, Binary] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": divide,
    "arith.floordivsi": lambda a, b: a // b,
    "arith.ceildivsi": _divide_up,
    "arith.remsi": np.fmod,
    "arith.andi": lambda a, b: a & b,
    "arith.ori": lambda a, b: a | b,
    "arith.xori": lambda a, b: a ^ b,
    "arith.shrsi": lambda a, b: a >> b,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
}
UNSIGNED: dict[str, Binary] = {
    "arith.divui": lambda a, b: a // b,
    "arith.ceildivui": _divide_up,
    "arith.remui": lambda a, b: a % b,
    "arith.shli": lambda a, b: a << b,
    "arith.shrui": lambda a, b: a >> b,
    "arith.maxui": np.maximum,
    "arith.minui": np.minimum,
}
SEMANTICS.update({name: signed(f) for name, f in SIGNED.items()})
SEMANTICS.update({name: unsigned(f) for name, f in UNSIGNED.items()})


# Comparison and choice ----------------------------------------------------------------------------------


def _unordered(a: Any, b: Any) -> Any:
    return np.isnan(a) | np.isnan(b)


ORDERED: dict[str, Binary] = {
    "oeq": lambda a, b: a == b,
    "ogt": lambda a, b: a > b,
    "oge": lambda a, b: a >= b,
    "olt": lambda a, b: a < b,
    "ole": lambda a, b: a <= b,
    "one": lambda a, b: (a != b) & ~_unordered(a, b),
    "ord": lambda a, b: ~_unordered(a, b),
}
OPPOSITE = {"ueq": "one", "ugt": "ole", "uge": "olt", "ult": "oge", "ule": "ogt", "une": "oeq", "uno": "ord"}


def _always(value: bool) -> Binary:
    return lambda a, b: np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), value)[()]


def _not(compare: Binary) -> Binary:
    return lambda a, b: np.logical_not(compare(a, b))


FLOAT_COMPARE: dict[str, Binary] = {
    **ORDERED,
    **{word: _not(ORDERED[opposite]) for word, opposite in OPPOSITE.items()},
    "false": _always(False),
    "true": _always(True),
}
_BY_NUMBER = [FLOAT_COMPARE[word] for word in CMPF]


@semantics("arith.cmpf")
def cmpf(op: Op, a: Any, b: Any) -> Any:
    return _BY_NUMBER[op.attributes["predicate"].value](a, b)  # type: ignore[attr-defined]


INT_COMPARE: dict[str, Binary] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@semantics("arith.cmpi")
def cmpi(op: Op, a: Any, b: Any) -> Any:
    word = CMPI[op.attributes["predicate"].value]  # type: ignore[attr-defined]
    if _is_bool(a):
        sign = -1 if word[0] == "s" else 1
        a, b = a.astype(np.int8) * sign, b.astype(np.int8) * sign
    elif word[0] == "u":
        a, b = _unsigned_view(a), _unsigned_view(b)
    return INT_COMPARE[word[-2:]](a, b)


@semantics("arith.select")
def select(op: Op, condition: Any, yes: Any, no: Any) -> Any:
    if np.ndim(condition) == 0:
        return yes if condition else no
    return np.where(condition, yes, no)


# Conversions --------------------------------------------------------------------------------------------


def _target(op: Op) -> np.dtype:
    return dtype_of(element_of(op.results[0].type))


@semantics("arith.extf", "arith.truncf")
def convert_float(op: Op, x: Any) -> Any:
    return x.astype(_target(op))


@semantics("arith.extsi", "arith.index_cast", "arith.sitofp")
def convert_signed(op: Op, x: Any) -> Any:
    return _to_target(op, -x.astype(np.int8) if _is_bool(x) else x)


@semantics("arith.extui", "arith.uitofp")
def convert_unsigned(op: Op, x: Any) -> Any:
    return _to_target(op, x if _is_bool(x) else _unsigned_view(x))


@semantics("arith.trunci")
def trunci(op: Op, x: Any) -> Any:
    return _to_target(op, x)


def _to_target(op: Op, x: Any) -> Any:
    target = _target(op)
    return (x & 1).astype(target) if target == np.bool_ else x.astype(target)


@semantics("arith.fptosi")
def fptosi(op: Op, x: Any) -> Any:
    target = _target(op)
    if target == np.bool_:
        return _saturate(x, -1, 0, np.dtype(np.int64)).astype(np.bool_)
    return _saturate(x, np.iinfo(target).min, np.iinfo(target).max, target)


@semantics("arith.fptoui")
def fptoui(op: Op, x: Any) -> Any:
    target = _target(op)
    if target == np.bool_:
        return _saturate(x, 0, 1, np.dtype(np.int64)).astype(np.bool_)
    wide = np.dtype(f"u{target.itemsize}")
    return _saturate(x, 0, np.iinfo(wide).max, wide).view(target)


def _saturate(x: Any, low: int, high: int, target: np.dtype) -> Any:
    """`x` towards zero, at most `high` (which a float may not hold exactly), at least `low`, 0 for NaN."""
    x = np.trunc(np.asarray(x, np.float64))
    inside = (x > low) & (x < high)
    number = np.where(inside, x, 0).astype(target)
    return np.where(inside | np.isnan(x), number, np.where(x <= low, target.type(low), target.type(high)))[()]


@semantics("arith.bitcast")
def bitcast(op: Op, x: Any) -> Any:
    source = dtype_of(element_of(op.operands[0].type))
    return np.ascontiguousarray(np.asarray(x, source)).view(_target(op)).reshape(np.shape(x))[()]
