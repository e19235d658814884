"""Rules that move data: padding, rearranging; and that generate tensors of a pattern."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import along, counter, times, trimmed, wrapped
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.interpolation import extended
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.tensors import element_type
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, dtype_of, i64

# Padding --------------------------------------------------------------------------------------------------


@converts("Pad")
def pad(node: Node) -> Value:
    x, rank = node.operand(0), node.type().rank
    given = node.attr("pads", node.attr("paddings")) if node.version < 11 else node.ints(1, "pads")
    axes = list(range(rank)) if node.input(3) is None else node.ints(3, "axes")
    if len(given) != 2 * len(axes):
        raise node.malformed(f"pads must hold {2 * len(axes)} integers, got {given}")
    pads = [0] * 2 * rank
    for i, axis in enumerate(node.axis(a, rank) for a in axes):
        pads[axis], pads[rank + axis] = given[i], given[len(axes) + i]
    x, pads = _trimmed(node, x, pads)
    if not any(pads):
        return x
    mode = node.attr("mode", "constant")
    if mode != "constant":
        y = node.expr(x)
        for axis in (d for d in range(rank) if pads[d] or pads[rank + d]):
            y = _continued(y, axis, pads[axis], pads[rank + axis], mode)
        return y.value
    value = node.attr("value", 0.0) if node.version < 11 or node.input(2) is None else node.constant(2)
    if value is not None:
        return node.build(nn.Pad(x, pads=pads, value=float(np.asarray(value).reshape(-1)[0])))
    padded = node.build(nn.Pad(x, pads=pads), "padded")
    node.static(padded)
    inside = np.pad(np.ones(tensor_of(x).shape, bool), list(zip(pads[:rank], pads[rank:], strict=True)))
    return node.build(
        nn.Select(node.const(inside, "inside"), padded, node.reshape(node.operand(2), (), "border"))
    )


def _trimmed(node: Node, x: Value, pads: list[int]) -> tuple[Value, list[int]]:
    """Negative pads cut off: `x` without what they remove, and the pads that are left."""
    rank = tensor_of(x).rank
    axes = [d for d in range(rank) if pads[d] < 0 or pads[rank + d] < 0]
    if not axes:
        return x, pads
    low, high = ([max(0, -pads[side + d]) for d in axes] for side in (0, rank))
    left = [max(0, p) for p in pads]
    return trimmed(node, x, axes, low, high, "part" if any(left) else None), left


def _continued(x: Expr, axis: int, low: int, high: int, mode: str) -> Expr:
    """`x` continued along an axis: mirrored ("reflect", without the edge itself), "edge", or repeated ("wrap")."""
    if mode not in ("reflect", "edge", "wrap"):
        raise x.node.malformed(f"mode {mode} is unknown")
    if x.shape[axis] == DYNAMIC:
        raise x.node.unsupported(f"mode {mode} needs known sizes, got {x.type}")
    if not x.shape[axis]:
        raise x.node.malformed(f"mode {mode} cannot continue dimension {axis} of {x.type}")
    return extended(x, axis, low, high, mode)


# Rearranging ----------------------------------------------------------------------------------------------


@converts("DepthToSpace")
def depth_to_space(node: Node) -> Value:
    x, block = node.operand(0), node.attr("blocksize")
    _, channels, _, _ = node.type().shape if node.type().rank == 4 else [DYNAMIC] * 4
    if channels == DYNAMIC:
        raise node.unsupported(f"its input must be images of a known number of channels, got {node.type()}")
    if not block or channels % block**2:
        raise node.malformed(f"{block**2} does not divide {channels} channels")
    n, _, h, w = node.sizes(x)
    split, order = (n, block, block, channels // block**2, h, w), [0, 3, 4, 1, 5, 2]
    if node.attr("mode", "DCR") == "CRD":
        split, order = (n, channels // block**2, block, block, h, w), [0, 1, 4, 2, 5, 3]
    transposed = node.build(nn.Transpose(node.reshape(x, split, "blocks"), perm=order), "interleaved")
    return node.reshape(
        transposed, (n, channels // block**2, times(node, [h, block]), times(node, [w, block]))
    )


@converts("SpaceToDepth")
def space_to_depth(node: Node) -> Value:
    x, block = node.expr(0), node.attr("blocksize")
    type = node.type()
    if type.rank != 4 or DYNAMIC in type.shape[1:]:
        raise node.unsupported(f"its input must have 4 dimensions of known sizes, got {type}")
    n, c, h, w = type.shape
    if block < 1 or h % block or w % block:
        raise node.malformed(f"blocksize = {block} does not divide {h} x {w}")
    split = x.reshape((n, c, h // block, block, w // block, block))
    order = [0, 1, 3, 5, 2, 4] if node.attr("mode", "DCR") == "CRD" else [0, 3, 5, 1, 2, 4]
    transposed = split.of(nn.Transpose, perm=order)
    return transposed.reshape((n, c * block**2, h // block, w // block)).value


@converts("ReverseSequence")
def reverse_sequence(node: Node) -> Value:
    """Row (t, b) comes from row (length_b - 1 - t, b) if t is less than length_b, else stays."""
    x, lengths = node.expr(0), node.expr(1).cast(i64)
    node.static(x.value)
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)
    order = [time, batch, *range(2, x.type.rank)]
    transposed = x if time == 0 else x.of(nn.Transpose, perm=order)
    steps, count, *rest = transposed.shape
    counter = lengths.like(along(steps, 0, 2))
    source = (lengths - 1 - counter).where(counter < lengths, counter)
    table = transposed.reshape((steps * count, *rest))
    found = table.of(nn.Gather, source * np.int64(count) + np.arange(count), axis=0)
    return (found if time == 0 else found.of(nn.Transpose, perm=order)).value


# Patterns -------------------------------------------------------------------------------------------------


@converts("Trilu")
def trilu(node: Node) -> Value:
    """The upper or lower triangle, zeros elsewhere."""
    x = node.expr(0)
    rows, columns = node.sizes(x.value)[-2:]
    k = 0 if node.input(1) is None else node.ints(1, "k")[0]
    distance = node.expr(counter(node, columns)) - counter(node, rows, 1)
    return x.where(distance.is_("ge" if node.attr("upper", 1) else "le", k), 0).value


@converts("OneHot")
def one_hot(node: Node) -> Value:
    """`on` where the index, counted from the end if negative, is the place along the new axis, else `off`."""
    indices, values, depth = node.expr(0).cast(i64), node.expr(2), node.constant(1)
    if depth is None:
        raise node.unsupported("depth is not a constant")
    size = int(depth.reshape(-1)[0])
    node.check_size([*indices.shape, size], values.type.element)
    node.check_made([size], i64)
    rank = indices.type.rank + 1
    axis = node.axis(node.attr("axis", -1), rank)
    sizes = node.sizes(indices.value)
    places = node.expr(wrapped(node, indices.value, size)).reshape((*sizes[:axis], 1, *sizes[axis:]))
    off, on = (values.slice(0, i, i + 1).reshape(()) for i in (0, 1))
    return on.where(places.is_("eq", along(size, axis, rank)), off).value


@converts("EyeLike")
def eye_like(node: Node) -> Value:
    type = node.type()
    if type.rank != 2 or DYNAMIC in type.shape:
        raise node.unsupported(f"its input must be a matrix of known sizes, got {type}")
    wanted = node.attr("dtype")
    element = type.element if wanted is None else element_type(wanted)
    node.check_made(type.shape, element)
    return node.const(np.eye(*type.shape, k=node.attr("k", 0), dtype=dtype_of(element)), "eye")
