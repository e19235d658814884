"""Maximum and minimum of IEEE 754-2019, where +0 is larger than -0; NumPy leaves the sign of a zero open."""

from __future__ import annotations

from typing import Any

import numpy as np

from mdsl.reference.numbers import is_float_dtype


class Extremum:
    """`ufunc`, of which NaN comes, with the greater (or the lesser) zero of two that differ in sign."""

    def __init__(self, ufunc: np.ufunc, *, is_least: bool) -> None:
        self.ufunc = ufunc
        self.is_least = is_least

    def __call__(self, a: Any, b: Any) -> Any:
        found = self.ufunc(self._quiet(a), self._quiet(b))
        if not is_float_dtype(found.dtype):
            return found
        better = np.where(np.signbit(a) == self.is_least, a, b)
        return np.where(np.equal(a, b), better, found)[()]

    def reduce(self, x: Any, axis: Any = None, *, keepdims: bool = False, **_: Any) -> Any:
        """The extremum of all elements along `axis`; of none, that of the numbers that change no other."""
        found = self.ufunc.reduce(self._quiet(x), axis=axis, keepdims=keepdims, initial=self.neutral(x.dtype))
        if not is_float_dtype(x.dtype):
            return found
        has_better = ((x == 0) & (np.signbit(x) == self.is_least)).any(axis=axis, keepdims=keepdims)
        zero = np.where(has_better == self.is_least, -0.0, 0.0).astype(x.dtype)
        return np.where(found == 0, zero, found)

    def _quiet(self, x: Any) -> Any:
        """A signalling NaN is a NaN. Depending on the processor and the size, NumPy makes a NaN of it and a number, as
        IEEE 754-2008 had it."""
        if not self._of_numbers or not is_float_dtype(np.asarray(x).dtype):
            return x
        return np.where(np.isnan(x), np.asarray(x).dtype.type(np.nan), x)[()]

    @property
    def _of_numbers(self) -> bool:
        """Whether a NaN is left out where there is a number."""
        return self.ufunc in (np.fmax, np.fmin)

    def neutral(self, dtype: np.dtype) -> Any:
        """The element that changes nothing when it is combined with another."""
        if dtype.kind == "b":
            return self.is_least
        if dtype.kind in "iu":
            return np.iinfo(dtype).max if self.is_least else np.iinfo(dtype).min
        if self._of_numbers:
            return np.nan
        return np.inf if self.is_least else -np.inf


maximum = Extremum(np.maximum, is_least=False)
minimum = Extremum(np.minimum, is_least=True)
maximum_number = Extremum(np.fmax, is_least=False)
minimum_number = Extremum(np.fmin, is_least=True)
