"""Conversion of floats between NumPy and Python that keeps every bit.

A Python float stands for a number of every float type. NumPy's conversions make a signalling NaN quiet, and some forget
what else a NaN carries; here a NaN's payload lies in the upper bits of the double's payload, and comes back from there.
"""

from __future__ import annotations

import struct

import numpy as np
from ml_dtypes import bfloat16

_MANTISSA = {np.dtype(t): n for t, n in ((np.float16, 10), (bfloat16, 7), (np.float32, 23), (np.float64, 52))}


def of_bits(bits: int, dtype: np.dtype) -> np.generic:
    """The number that has these bits."""
    return np.frombuffer(bits.to_bytes(dtype.itemsize, "little"), dtype)[0]


def bits_of(value: float | np.generic, dtype: np.dtype) -> int:
    """The bits of `value` as a number of `dtype`."""
    return int.from_bytes(to_numpy(value, dtype).tobytes(), "little")


def to_numpy(value: float | np.generic, dtype: np.dtype) -> np.generic:
    """`value`, rounded once if it is a float; what is too large for a float type is an infinity."""
    if isinstance(value, np.generic) and value.dtype == dtype:
        return value
    if dtype not in _MANTISSA:
        return dtype.type(value)
    if value != value:
        return of_bits(_move_nan(_double_bits(float(value)), 52, _MANTISSA[dtype]), dtype)
    with np.errstate(over="ignore"):
        return dtype.type(_to_odd(float(value)) if dtype == bfloat16 else value)


def to_python(number: np.generic) -> float:
    """The bool, int or float that `to_numpy` takes back to the same bits."""
    found = number.item()
    if found == found:
        return found
    bits = _move_nan(int.from_bytes(number.tobytes(), "little"), _MANTISSA[number.dtype], 52)
    return struct.unpack("<d", bits.to_bytes(8, "little"))[0]


def _double_bits(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


_WIDTH = {10: 16, 7: 16, 23: 32, 52: 64}  # bits, by those of the mantissa


def _move_nan(bits: int, old: int, new: int) -> int:
    """The NaN `bits` of a type whose mantissa has `old` bits, as that of one with `new`."""
    payload = (bits & (1 << old) - 1) << max(new - old, 0) >> max(old - new, 0)
    payload = payload or 1 << new - 1  # without one it would be an infinity
    sign = bits >> _WIDTH[old] - 1 << _WIDTH[new] - 1
    return sign | ((1 << _WIDTH[new] - 1) - (1 << new)) | payload


def _to_odd(value: float) -> np.float32:
    """`value` in 32 bits such that rounding to fewer gives what rounding `value` gives: inexact, it ends in a 1."""
    near = np.float32(value)
    if float(near) == value or int(near.view(np.uint32)) & 1:
        return near
    return np.nextafter(near, np.float32(np.inf if float(near) < value else -np.inf))
