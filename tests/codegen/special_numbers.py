"""Numbers at the edges of their types, and how results are compared."""

from __future__ import annotations

import math

import numpy as np

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -3.5, 1e-45, -1e-40, 1.2e-38, 3.4e38, -3.4e38, 88.9, -104.5]
SPECIAL += [math.inf, -math.inf, math.nan, 1e-8, 16777216.0, 0.92, -0.93, 1e10, 3.0, -2.0, 2**31, -(2.0**31)]


def floats(dtype: np.dtype | type) -> np.ndarray:
    """Special values and random ones over the whole range: 4096 of `dtype`."""
    generator = np.random.default_rng(7)
    bits = generator.integers(0, 2**32, 2048, np.uint32).view(np.float32)
    near = generator.normal(0, 3, 4096 - 2048 - len(SPECIAL)).astype(np.float32)
    with np.errstate(all="ignore"):
        return np.concatenate([np.array(SPECIAL, np.float32), bits, near]).astype(dtype)


def integers(dtype: type) -> np.ndarray:
    info = np.iinfo(dtype)
    generator = np.random.default_rng(8)
    special = np.array([0, 1, -1, 2, 3, 7, info.min, info.max, info.min + 1, 31, 32, 63, 64, -8], dtype)
    wide = generator.integers(info.min, info.max, 512, dtype)
    return np.concatenate([special, wide, generator.integers(-9, 9, 1024 - 512 - len(special)).astype(dtype)])


def same(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal, NaN counting as equal to NaN, and zeros by their sign."""
    with np.errstate(all="ignore"):
        wide_got, wide_expected = got.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(wide_got, wide_expected)
    finite = ~np.isnan(wide_expected)
    np.testing.assert_array_equal(np.signbit(wide_got[finite]), np.signbit(wide_expected[finite]))
