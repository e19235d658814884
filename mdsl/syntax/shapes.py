"""Types that have a shape: from their spelling to `ir.types`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod

from lark import Tree

from mdsl.errors import Source, SyntaxError_
from mdsl.ir.types import DYNAMIC, SCALARS, MemRefType, ShapedType, TensorType, Type, VectorType
from mdsl.syntax.grammar import Node, parse_tree


@lru_cache(maxsize=4096)
def shaped_type(text: str) -> ShapedType | None:
    """The type a spelling stands for; None if it is not one (who asked knows the place of the error)."""
    try:
        tree = parse_tree(Source("<type>", text), "shaped_type")
    except SyntaxError_:
        return None
    kind, dims, element, layout = tree.children
    if str(element) not in SCALARS:
        return None
    shape = tuple(DYNAMIC if d == "?" else int(d) for d in str(dims or "").split("x") if d)
    scalar = SCALARS[str(element)]
    if not isinstance(layout, Tree):
        return {"tensor": TensorType, "vector": VectorType, "memref": MemRefType}[str(kind)](shape, scalar)
    if kind != "memref":
        return None
    return _strided(shape, scalar, [c for c in layout.children if c is not None])


def reach(type: ShapedType) -> int:
    """How many elements the type has, or how far apart they lie."""
    size = prod(n for n in type.shape if n > 0)
    if not isinstance(type, MemRefType):
        return size
    strides = zip(type.shape, type.layout, strict=True)
    return max(size, type.offset + sum(d * s for d, s in strides if DYNAMIC not in (d, s)), *type.layout, 0)


def _strided(shape: tuple[int, ...], element: Type, extents: Sequence[Node]) -> MemRefType | None:
    """The memref with a written layout: a stride a dimension, natural numbers or `?`, then perhaps an offset."""
    written = [c.children[0] if isinstance(c, Tree) else c for c in extents]
    texts = [str(c) for c in written]
    strides = [t for t, c in zip(texts, extents, strict=True) if not isinstance(c, Tree)]
    if any(t != "?" and not t.isdecimal() for t in texts) or len(strides) != len(shape):
        return None
    numbers = [DYNAMIC if t == "?" else int(t) for t in texts]
    return MemRefType(
        shape, element, tuple(numbers[: len(shape)]), numbers[-1] if len(texts) > len(shape) else 0
    )
