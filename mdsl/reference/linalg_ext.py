"""Meaning of the linalg_ext dialect: Winograd's transforms by their matrices, in float64.

F(m, 3) has alpha = m + 2 points: 0, +p, -p, +q, -q, ... and "infinity". With M(x) = x (x^2 - p^2) (x^2 - q^2) ...

    input   row of point t:  the coefficients of M(x) / (x - t);   row of infinity: those of M(x)
    output  row k:           the points' k-th powers;              the last row has infinity as well
    gradient                 the output's, transposed

Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from mdsl.dialects.linalg import LinalgOp
from mdsl.dialects.linalg_ext import (
    PAIRS,
    WinogradGradientTransform,
    WinogradInputTransform,
    WinogradOutputTransform,
    alpha,
)
from mdsl.ir.core import Op
from mdsl.ir.types import TensorType
from mdsl.reference.evaluator import Scope
from mdsl.reference.linalg import Nest
from mdsl.reference.memref import writable
from mdsl.reference.registry import structured


def _points(m: int) -> list[float]:
    return [0.0, *(sign * p for p in PAIRS[m] for sign in (1, -1))]


def _input_matrix(m: int) -> np.ndarray:
    points = _points(m)
    rows = [[*np.poly([p for p in points if p != t])[::-1], 0.0] for t in points]
    return np.array([*rows, np.poly(points)[::-1]])


def _output_matrix(m: int) -> np.ndarray:
    infinity = [[0.0]] * (m - 1) + [[1.0]]
    return np.hstack([[[t**k for t in _points(m)] for k in range(m)], infinity])


@structured("linalg_ext.winograd_input_transform")
def winograd_input_transform(scope: Scope, op: WinogradInputTransform, image: Any, out: Any) -> Any:
    a, (h, w) = alpha(op.m), op.image
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (a, a), (h, w))
    steps = [slice(None, None, op.m if d in (h, w) else None) for d in range(image.ndim)]
    matrix = _input_matrix(op.m)
    with np.errstate(all="ignore"):
        found = np.einsum("ik,jl,...kl->ij...", matrix, matrix, windows[tuple(steps)], optimize=True)
    return _stored(op, out, found)


@structured("linalg_ext.winograd_gradient_transform")
def winograd_gradient_transform(scope: Scope, op: WinogradGradientTransform, image: Any, out: Any) -> Any:
    m, (h, w), matrix = op.m, op.image, _output_matrix(op.m)
    around = [(0, -size % m if d in (h, w) else 0) for d, size in enumerate(image.shape)]
    whole = np.pad(image.astype(np.float64), around)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (m, m), (h, w))
    steps = [slice(None, None, m if d in (h, w) else None) for d in range(image.ndim)]
    with np.errstate(all="ignore"):
        found = np.einsum("ki,lj,...kl->ij...", matrix, matrix, windows[tuple(steps)], optimize=True)
    return _stored(op, out, found)


@structured("linalg_ext.winograd_output_transform")
def winograd_output_transform(scope: Scope, op: WinogradOutputTransform, *operands: Any) -> Any:
    matrix = _output_matrix(op.m)
    with np.errstate(all="ignore"):
        tiles = np.einsum("ik,jl,kl...->...ij", matrix, matrix, operands[0].astype(np.float64), optimize=True)
    sizes, order = op.pixel_sizes(), list(op.pixel_maps[0].dim_positions() or ())
    h, w = (order.index(d) for d in op.image)
    rank = len(order)
    # Rows and columns within a tile go behind the number of the tile.
    axes = [x for d in range(rank) for x in ((d, rank) if d == h else (d, rank + 1) if d == w else (d,))]
    whole = [n * (op.m if d in (h, w) else 1) for d, n in enumerate(tiles.shape[:rank])]
    pixels = tiles.transpose(axes).reshape(whole)[tuple(slice(sizes[d]) for d in order)]
    return _Epilogue(scope, op, [pixels, *operands[1:]]).run()


class _Epilogue(Nest):
    """The body, for every pixel."""

    def __init__(self, scope: Scope, op: WinogradOutputTransform, operands: list[Any]) -> None:
        self.scope = scope
        self.op = cast(LinalgOp, op)  # which has what a nest asks of it
        self.operands = operands
        self.maps = op.pixel_maps
        self.sizes = op.pixel_sizes()
        self.parallel, self.reductions = list(range(op.tile_loops)), []
        self.rank = len(self.parallel)
        self.shape = tuple(self.sizes)
        self.split = len(op.inputs)

    def _evaluate(self, old: list[Any]) -> list[Any]:
        return self._in_order(old)


def _stored(op: Op, out: Any, found: np.ndarray) -> Any:
    if isinstance(op.operands[-1].type, TensorType):
        return found.astype(out.dtype)
    writable(op, out)[...] = found
    return None
