"""Weights that differ: two programs may have other data of one name, which their text does not show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mdsl.ir.attributes import DenseResourceAttr
from mdsl.ir.core import Op


def same_weights(old: Op, new: Op) -> bool:
    """True if the resources of two ops that are alike in text have the same bits."""
    return all(a.data is b.data or np.array_equal(_bits(a), _bits(b)) for a, b in _pairs(old, new))


def weights_told(old: Op, new: Op) -> Iterator[str]:
    """A line about each resource that differs."""
    for a, b in _pairs(old, new):
        different = int(np.count_nonzero((_bits(a) != _bits(b)).any(axis=-1)))
        if different:
            gap = np.abs(a.array.astype(np.float64) - b.array.astype(np.float64))
            most = f", by {np.nanmax(gap):.3g} at most" if np.isfinite(gap).any() else ""
            yield f"{different:,} of {gap.size:,} elements of {a.name} differ{most}"


def _pairs(old: Op, new: Op) -> Iterator[tuple[DenseResourceAttr, DenseResourceAttr]]:
    for name, a in old.attributes.items():
        b = new.attributes.get(name) if isinstance(a, DenseResourceAttr) else None
        if (
            isinstance(a, DenseResourceAttr)
            and isinstance(b, DenseResourceAttr)
            and a == b
            and a.data
            and b.data
        ):
            yield a, b


def _bits(attribute: DenseResourceAttr) -> np.ndarray:
    """The bytes of the elements, a row an element."""
    array = np.ascontiguousarray(attribute.array).reshape(-1, 1)
    return array.view(np.uint8)
