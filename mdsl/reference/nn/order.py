"""Meaning of nn's ops on order and places: sorting, scattering."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.reference.extrema import maximum, minimum
from mdsl.reference.nn.numbers import wide
from mdsl.reference.registry import semantics

Array = np.ndarray


@semantics("nn.argsort")
def argsort(op: nn.ArgSort, x: Array) -> Array:
    """NumPy's stable sort, which has NaN last; in reverse for a descending order, so that ties keep theirs."""
    axis, count = op.attr("axis"), op.attr("count")
    x = wide(x)
    if op.attr("descending"):
        backwards = np.argsort(np.flip(x, axis), axis, kind="stable")
        order = np.flip(x.shape[axis] - 1 - backwards, axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    return np.take(order, range(x.shape[axis] if count is None else count), axis).astype(np.int64)


SCATTER = {"add": np.add, "mul": np.multiply, "max": maximum, "min": minimum}


@semantics("nn.scatter")
def scatter(op: nn.Scatter, x: Array, indices: Array, updates: Array) -> Array:
    """One slice of updates after another, so that of several for one place the last wins."""
    axis = op.attr("axis") % x.ndim
    size, kind = x.shape[axis], op.attr("kind")
    y = np.moveaxis(np.array(x), axis, 0)
    places = np.moveaxis(np.broadcast_to(indices.astype(np.int64), updates.shape), axis, 0)
    places = np.where(places < 0, places + size, places)
    for index, update in zip(places, np.moveaxis(updates, axis, 0), strict=True):
        inside = (index >= 0) & (index < size)
        at = (np.where(inside, index, 0), *np.indices(index.shape))
        new = update if kind == "set" else SCATTER[kind](wide(y[at]), wide(update)).astype(x.dtype)
        y[at] = np.where(inside, new, y[at])
    return np.moveaxis(y, 0, axis)
