"""A counted loop in the imported program: scf.for with the ops of one iteration in its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mdsl.dialects import affine, arith, scf, tensor
from mdsl.frontends.onnx.registry import Node
from mdsl.ir.affine import AffineMap, Dim
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, index

Body = Callable[[Value, list[Value]], Sequence[Value]]
"""`f(counter, carried)` builds one iteration and returns the carried values for the next."""


def repeat(
    node: Node, count: int, carried: Sequence[Value], captured: Sequence[Value | None], body: Body
) -> list[Value]:
    """What `carried` becomes in `count` iterations. `captured` are the values from outside that the body uses:
    those of them that are constants enter the program before the loop."""
    folder = node.graph.folder
    for value in (*carried, *captured):
        if value is not None:
            folder.materialise(value)
    op = scf.For.counted(range(count), lambda n: _number(node, n), carried, "t")
    op.location = node.location
    outside, folder.block = folder.block, op.body
    try:
        results = body(op.iv, list(op.carried))
        for value in results:
            folder.materialise(value)
    finally:
        folder.block = outside
    op.body.append(scf.Yield(list(results)))
    folder.insert(op)
    for new, old in zip(op.results, carried, strict=True):
        new.name = old.name
    return list(op.results)


def _insert(node: Node, op: Op, name: str | None) -> Value:
    op.location = node.location
    node.graph.folder.insert(op)
    op.result.name = name
    return op.result


def _number(node: Node, number: int) -> Value:
    """A number of type index."""
    return _insert(node, arith.Constant.of(number, index), f"c{number}")


def backwards(node: Node, counter: Value, count: int) -> Value:
    """count - 1 - counter."""
    map = AffineMap(1, 0, (Dim(0) * -1 + (count - 1),))
    return _insert(node, affine.Apply(counter, map=map), "back")


def uninitialised(node: Node, type: TensorType, like: Value, suffix: str) -> Value:
    """A tensor that a loop will fill; where its size is open it is that of `like`."""
    open_sizes = [_open_size(node, like, d) for d, s in enumerate(type.shape) if s == DYNAMIC]
    return _insert(node, tensor.Empty(open_sizes, results=[type]), node.name_of(suffix))


def _size(node: Node, x: Value, d: int) -> Value | int:
    """The size of dimension `d` of `x`, an index where it is open."""
    size = tensor_of(x).shape[d]
    return _open_size(node, x, d) if size == DYNAMIC else size


def _open_size(node: Node, x: Value, d: int) -> Value:
    return _insert(node, tensor.DimOp(x, _number(node, d)), f"size{d}")


def entry(node: Node, x: Value, at: Value, suffix: str) -> Value:
    """`x[at]`, the slice at a counter along the first dimension."""
    shape = tensor_of(x).shape
    offsets = [at, *[0] * (len(shape) - 1)]
    sizes = [1, *(_size(node, x, d) for d in range(1, len(shape)))]
    op = tensor.ExtractSlice.of(x, offsets, sizes, shape=shape[1:])
    return _insert(node, op, node.name_of(suffix))


def with_entry(node: Node, whole: Value, at: Value, part: Value, suffix: str) -> Value:
    """`whole` with `part` as its slice at a counter along the first dimension."""
    node.graph.folder.materialise(part)
    shape = tensor_of(whole).shape
    sizes = [1, *(_size(node, whole, d) for d in range(1, len(shape)))]
    op = tensor.InsertSlice.of(part, whole, [at, *[0] * (len(shape) - 1)], sizes)
    return _insert(node, op, node.name_of(suffix))
