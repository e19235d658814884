"""Weights that differ: two programs may have other data of one name, which their text does not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from mdsl.ir.attributes import DenseResourceAttr, Resource
from mdsl.ir.core import Op


def same_weights(old: Op, new: Op) -> bool:
    """True if the resources of two ops that are alike in text have the same bits."""
    return all(_same(a.data, b.data) for a, b in _pairs(old, new) if a.data and b.data)


def weights_told(old: Op, new: Op) -> Iterator[str]:
    """A line about each resource that differs."""
    for a, b in _pairs(old, new):
        if a.data and b.data and not _same(a.data, b.data):
            yield _told(a.name, a.data.array, b.data.array)


def weights_changed(before: Mapping[str, Resource], after: Mapping[str, Resource]) -> Iterator[str]:
    """A line about each resource that two programs have by one name, with other data of one type."""
    for name, old in before.items():
        new = after.get(name)
        if new is not None and _alike(old.array, new.array) and not _same(old, new):
            yield _told(name, old.array, new.array)


def _pairs(old: Op, new: Op) -> Iterator[tuple[DenseResourceAttr, DenseResourceAttr]]:
    for name, a in old.attributes.items():
        b = new.attributes.get(name)
        if isinstance(a, DenseResourceAttr) and isinstance(b, DenseResourceAttr) and a == b:
            yield a, b


def _alike(old: np.ndarray, new: np.ndarray) -> bool:
    return (old.shape, old.dtype) == (new.shape, new.dtype)


def _same(old: Resource, new: Resource) -> bool:
    return old is new or np.array_equal(_bits(old.array), _bits(new.array))


def _told(name: str, old: np.ndarray, new: np.ndarray) -> str:
    different = int(np.count_nonzero((_bits(old) != _bits(new)).any(axis=-1)))
    gap = np.abs(old.astype(np.float64) - new.astype(np.float64))
    most = f", by {np.nanmax(gap):.3g} at most" if np.isfinite(gap).any() else ""
    return f"{different:,} of {gap.size:,} elements of {name} differ{most}"


def _bits(array: np.ndarray) -> np.ndarray:
    """The bytes of the elements, a row an element."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
