"""Splitting and merging neighbouring dimensions: what the reshaping ops of tensors and of memory share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from mdsl.ir.attributes import ArrayAttr, Attribute, IntegerAttr
from mdsl.ir.core import Op
from mdsl.ir.types import DYNAMIC

OUTPUT_SHAPE = "`output_shape` indices($output_shape, $static_output_shape)"
"""How expand_shape writes its result's shape."""


class Reassociation(Op):
    """What expand_shape and collapse_shape share; `tensor` and `memref` have both."""

    @property
    def groups(self) -> list[list[int]]:
        """For each dimension of the smaller rank, those of the larger that it stands for."""
        return groups_of(self.attributes["reassociation"])

    def verify_groups(self, small: Sequence[int], large: Sequence[int]) -> None:
        if not small and not self.groups and all(d == 1 for d in large):
            return  # one element, as a tensor of rank 0
        flat = [d for g in self.groups for d in g]
        if flat != list(range(len(large))) or len(self.groups) != len(small):
            raise self.error(
                f"reassociation {self.groups} does not map {len(large)} dimensions to {len(small)}"
            )
        for size, group in zip(small, self.groups, strict=True):
            if not group:
                raise self.error(f"reassociation {self.groups} has a dimension that stands for none")
            parts = [large[d] for d in group]
            if (DYNAMIC in parts) != (size == DYNAMIC) or (size != DYNAMIC and prod(parts) != size):
                raise self.error(f"dimensions {_shown(parts)} do not make {_shown([size])}")

    def verify_expansion(self, shape: Sequence[int]) -> None:
        """`output_shape` says what the result's type says."""
        numbers = self.attr("static_output_shape")
        if tuple(numbers) != tuple(shape):
            raise self.error(f"output_shape {_shown(numbers)} is not {_shown(shape)}")


def _shown(shape: Sequence[int]) -> list[int | str]:
    return ["?" if size == DYNAMIC else size for size in shape]


def reassociation(groups: Sequence[Sequence[int]]) -> ArrayAttr:
    return _attribute(tuple(map(tuple, groups)))


@lru_cache(maxsize=1024)
def _attribute(groups: tuple[tuple[int, ...], ...]) -> ArrayAttr:
    return ArrayAttr(tuple(ArrayAttr(tuple(IntegerAttr(d) for d in g)) for g in groups))


def groups_of(attribute: Attribute) -> list[list[int]]:
    """The numbers in a list of lists; whatever else is in it is left out."""
    lists = attribute.values if isinstance(attribute, ArrayAttr) else ()
    return [
        [v.value for v in g.values if isinstance(v, IntegerAttr)] for g in lists if isinstance(g, ArrayAttr)
    ]


def merged_dims(rank: int, at: int) -> list[list[int]]:
    """The reassociation of `rank` dimensions in which `at` and the next one are one."""
    return [[d, d + 1] if d == at else [d] for d in range(rank) if d != at + 1]


def groups_between(small: Sequence[int], large: Sequence[int]) -> list[list[int]] | None:
    """The reassociation that makes `small` of `large`, if there is one."""
    groups: list[list[int]] = []
    at = 0
    for size in small:
        group: list[int] = []
        product = 1
        while at < len(large) and (not group or product < size):
            product *= large[at]
            group.append(at)
            at += 1
        if product != size or not group:
            return None
        groups.append(group)
    if at < len(large):
        if any(d != 1 for d in large[at:]):
            return None
        if groups:
            groups[-1].extend(range(at, len(large)))
    return groups
