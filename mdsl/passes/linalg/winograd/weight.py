"""winograd: the weight's transform, of constants when the program is compiled.

Row of point t: (1, t, t^2) / M'(t), with M(x) = x (x^2 - p^2) (x^2 - q^2) ...; row of infinity: (0, 0, 1).
"""

from __future__ import annotations

import numpy as np

from mdsl.dialects.linalg_ext import PAIRS, TAPS, alpha

_BLOCK = 1 << 9
"""Filters that are transformed at a time: their f64 numbers stay in the cache, and are too few for OpenBLAS to share among
threads, which would wait for each other longer than they work."""


def weight_matrix(m: int, reversed: tuple[bool, bool] = (False, False)) -> np.ndarray:
    """[alpha^2, 3, 3] in f64: what each of a filter's taps adds to its alpha^2 factors; `reversed` tells whether the filter's rows, and
    its columns, are taken from last to first."""
    finite = [0.0, *(sign * p for p in PAIRS[m] for sign in (1, -1))]
    rows = [
        [t**k / np.prod([t - other for other in finite if other != t]) for k in range(TAPS)] for t in finite
    ]
    matrix = np.array([*rows, [0.0] * (TAPS - 1) + [1.0]])
    across, down = (matrix[:, ::-1] if last else matrix for last in reversed)
    return np.kron(across, down).reshape(alpha(m) ** 2, TAPS, TAPS)


def transformed_weight(weight: np.ndarray, axes: tuple[int, int], matrix: np.ndarray) -> np.ndarray:
    """A weight of 3 x 3 (at `axes`) as alpha^2 leading ones, in f32; each is computed in f64, and rounded once."""
    square = matrix.reshape(-1, TAPS**2)
    last = np.moveaxis(weight, axes, (-2, -1))
    filters = last.reshape(-1, TAPS**2)
    found = np.empty((len(square), len(filters)), np.float32)
    for start in range(0, len(filters), _BLOCK):
        part = slice(start, start + _BLOCK)
        found[:, part] = square @ filters[part].astype(np.float64).T
    return found.reshape(len(square), *last.shape[:-2])
