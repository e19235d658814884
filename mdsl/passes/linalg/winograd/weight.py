"""winograd: the weight's transform, of constants when the program is compiled.

Row of point t: (1, t, t^2) / M'(t), with M(x) = x (x^2 - p^2) (x^2 - q^2) ...; row of infinity: (0, 0, 1).
"""

from __future__ import annotations

import numpy as np

from mdsl.dialects.linalg_ext import PAIRS, TAPS, alpha


def transformed_weight(weight: np.ndarray, axes: tuple[int, int], m: int) -> np.ndarray:
    """A weight of 3 x 3 (at `axes`) as alpha^2 leading ones; computed in float64, not yet rounded."""
    finite = [0.0, *(sign * p for p in PAIRS[m] for sign in (1, -1))]
    rows = [
        [t**k / np.prod([t - other for other in finite if other != t]) for k in range(TAPS)] for t in finite
    ]
    matrix = np.array([*rows, [0.0] * (TAPS - 1) + [1.0]])
    taps = np.moveaxis(weight.astype(np.float64), axes, (0, 1))
    found = np.kron(matrix, matrix) @ taps.reshape(TAPS**2, -1)
    return found.reshape(alpha(m) ** 2, *taps.shape[2:])
