"""Operands of a loop nest as NumPy arrays with an axis for each loop dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Op
from mdsl.reference.affine import index_arithmetic
from mdsl.reference.numbers import is_float_dtype
from mdsl.reference.registry import failure
from mdsl.reference.slices import check_indices


def widen(value: Any) -> Any:
    """Floats as float64, other numbers as they are."""
    value_dtype = value.dtype
    return (
        value.astype(np.float64, copy=False)
        if is_float_dtype(value_dtype) and value_dtype != np.float64
        else value
    )


def loop_sizes(op: Op, maps: Sequence[AffineMap], operands: Sequence[Any]) -> list[int]:
    """Extent of each loop dimension, from the arrays' shapes. Raises where two operands disagree."""
    sizes: dict[int, int] = {}
    for map, array in zip(maps, operands, strict=True):
        for expr, extent in zip(map.results, np.shape(array), strict=True):
            if isinstance(expr, Dim) and sizes.setdefault(expr.position, extent) != extent:
                raise failure(
                    op, f"{expr} is {sizes[expr.position]} for one operand and {extent} for another"
                )
    missing = [d for d in range(maps[0].num_dims) if d not in sizes]
    if missing:
        raise failure(op, f"the extent of loop dimension d{missing[0]} does not follow from the operands")
    return [sizes[d] for d in range(maps[0].num_dims)]


def spread(
    op: Op, array: np.ndarray, map: AffineMap, sizes: Sequence[int], *, writeable: bool = False
) -> np.ndarray:
    """The elements that `map` selects, one axis a loop dimension (of 1 where the map does not read it).

    A view where the map is linear, else a copy; raises where an index leaves the array.
    """
    linear = [expr.coefficients() for expr in map.results]
    if None in linear:
        return _gather(op, array, map, sizes, writeable)
    used = [any(factors.get(d) for factors, _ in linear) for d in range(len(sizes))]  # type: ignore[misc]
    shape = [size if u else 1 for size, u in zip(sizes, used, strict=True)]
    if 0 in sizes:
        return np.empty(shape, array.dtype)
    strides = [0] * len(sizes)
    for axis, ((factors, _), extent) in enumerate(zip(linear, array.shape, strict=True)):  # type: ignore[misc]
        low, high = map.results[axis].bounds(sizes)
        if low < 0 or high >= extent:
            raise failure(
                op, f"{map.results[axis]} runs from {low} to {high} in dimension {axis}, of {extent} elements"
            )
        for d, factor in factors.items():
            strides[d] += factor * array.strides[axis]
    start = array[(*(slice(constant, None) for _, constant in linear), ...)]  # type: ignore[misc]
    return as_strided(start, shape, strides, writeable=writeable)


def _gather(op: Op, array: np.ndarray, map: AffineMap, sizes: Sequence[int], writeable: bool) -> np.ndarray:
    if writeable:
        raise failure(op, f"an output's map must be linear, {map} is not")
    counters = np.indices(sizes, np.int64, sparse=True)
    indices = [np.asarray(i) for i in map.evaluate(counters, (), index_arithmetic(op))]
    check_indices(op, array.shape, indices)
    # With one array for each axis the result has the shape to which they broadcast.
    found = array[tuple(indices)]
    return found.reshape([1] * (len(sizes) - found.ndim) + list(found.shape))
