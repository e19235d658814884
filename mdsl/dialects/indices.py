"""Offsets, sizes and strides, each a number or a value: what slices of tensors and of memory share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mdsl.ir.attributes import Attribute, DenseArrayAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.types import DYNAMIC, i64

Index = Value | int


def split_indices(entries: Sequence[Index]) -> tuple[list[Value], DenseArrayAttr]:
    """Offsets, sizes or strides as upstream stores them: the values, and all entries as numbers."""
    values = [e for e in entries if isinstance(e, Value)]
    return values, _numbers(tuple([DYNAMIC if isinstance(e, Value) else e for e in entries]))


@lru_cache(maxsize=4096)
def _numbers(entries: tuple[int, ...]) -> DenseArrayAttr:
    return DenseArrayAttr(i64, entries)


def join_indices(values: Sequence[Value], numbers: Sequence[int]) -> list[Index]:
    """The inverse of `split_indices`."""
    remaining = iter(values)
    return [next(remaining) if n == DYNAMIC else n for n in numbers]


def slice_operands(
    offsets: Sequence[Index], sizes: Sequence[Index], strides: Sequence[Index] | None
) -> tuple[list[list[Value]], dict[str, Attribute]]:
    """Operand groups and attributes of a slice; `strides` default to 1."""
    parts = [split_indices(e) for e in (offsets, sizes, strides or [1] * len(offsets))]
    names = ("static_offsets", "static_sizes", "static_strides")
    return [p[0] for p in parts], {n: p[1] for n, p in zip(names, parts, strict=True)}


SLICE = "indices($offsets, $static_offsets) indices($sizes, $static_sizes) indices($strides, $static_strides)"
"""How a slice op writes its offsets, sizes and strides."""


class SliceLike(Op):
    """What slices share: offsets, sizes and strides, each a number or a value."""

    def mixed(self, which: str) -> list[Index]:
        """`offsets`, `sizes` or `strides` as numbers and values."""
        numbers = self.numbers(which)
        return join_indices(getattr(self, which), numbers) if DYNAMIC in numbers else list(numbers)

    def numbers(self, which: str) -> tuple[int, ...]:
        """`offsets`, `sizes` or `strides`, `DYNAMIC` where they are values."""
        found = self.attributes[f"static_{which}"]
        assert isinstance(found, DenseArrayAttr)
        return found.values  # type: ignore[return-value]

    def verify_slice(self, shape: Sequence[int], part: Sequence[int]) -> None:
        """The slice must lie in `shape` and be of shape `part` (unit dimensions may be dropped)."""
        numbers = [self.numbers(w) for w in ("offsets", "sizes", "strides")]
        if any(len(n) != len(shape) for n in numbers):
            raise self.error(f"needs {len(shape)} offsets, sizes and strides")
        for dim, offset, size, stride in zip(shape, *numbers, strict=True):
            if stride < 1 and stride != DYNAMIC:
                raise self.error(f"strides must be positive, got {stride}")
            if min(n for n in (0, offset, size) if n != DYNAMIC) < 0:
                raise self.error(f"the offset {offset} and the size {size} must not be negative")
            first = max(offset, 0)  # the least that an unknown one can be
            known = DYNAMIC not in (dim, size, stride)
            if known and size > 0 and first + (size - 1) * stride >= dim:
                at = "?" if offset == DYNAMIC else offset
                raise self.error(f"[{at}] [{size}] [{stride}] leaves a dimension of {dim}")
        sizes = [s for s in numbers[1] if s != DYNAMIC]
        if len(sizes) == len(shape) and not same_but_units(sizes, part):
            raise self.error(f"a slice of sizes {sizes} is not of shape {list(part)}")


def same_but_units(full: Sequence[int], reduced: Sequence[int]) -> bool:
    """True if `reduced` is `full` with some dimensions of 1 dropped."""
    remaining = list(reduced)
    for size in full:
        if remaining and remaining[0] == size:
            remaining.pop(0)
        elif size != 1:
            return False
    return not remaining


def verify_indices(op: Op, shaped: Value, indices: Sequence[Value], element: Value) -> None:
    """One index a dimension, and the element's type."""
    type = shaped.type
    if len(indices) != type.rank:  # type: ignore[attr-defined]
        raise op.error(f"{len(indices)} indices for {type}")
    if element.type != type.element:  # type: ignore[attr-defined]
        raise op.error(f"element of type {element.type} for {type}")
