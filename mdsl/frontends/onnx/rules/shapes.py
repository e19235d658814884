"""Rules for shapes and data movement."""

from __future__ import annotations

from functools import reduce
from itertools import accumulate
from math import prod
from operator import mul

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import stretched_type, wanted_shape
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType

# Shapes of tensors ----------------------------------------------------------------------------------------


@converts("Shape")
def shape(node: Node) -> Value:
    x = node.type(0)
    start, end = _bounds(node.attr("start", 0), node.attr("end"), x.rank)
    if x.is_static:
        return node.const(np.array(x.shape[start:end], np.int64), "shape")
    whole = node.expr(0).of(nn.Shape)
    return (whole if (start, end) == (0, x.rank) else whole.slice(0, start, end)).value


def _bounds(start: int, end: int | None, rank: int) -> tuple[int, int]:
    """Python's rules for a slice of the shape."""
    first, last, _ = slice(start, end).indices(rank)
    return first, max(first, last)


@converts("Size")
def size(node: Node) -> Value:
    x = node.type(0)
    if x.is_static:
        return node.const(np.array(x.size, np.int64), "size")
    sizes = node.expr(0).of(nn.Shape)
    return reduce(mul, (sizes.slice(0, d, d + 1) for d in range(x.rank))).reshape([]).value


@converts("Identity", "Optional", "OptionalGetElement")
def identity(node: Node) -> Value:
    return node.graph.folder.weight_of_its_own(node.operand(0), node.outputs[0])


@converts("OptionalHasElement")
def optional_has_element(node: Node) -> Value:
    return node.const(np.array(node.input(0) is not None), "present")


# Reshaping ------------------------------------------------------------------------------------------------


@converts("Reshape")
def reshape(node: Node) -> Value:
    x = node.operand(0)
    source = tensor_of(x).shape
    allow_zero = bool(node.attr("allowzero", 0))
    if node.version < 5:
        wanted: list[int | None] = list(node.attr("shape", []))
    else:
        wanted = wanted_shape(node, 1, "the new shape")
    if any(w is not None and w < -1 for w in wanted) or wanted.count(-1) > 1:
        raise node.malformed(f"a tensor cannot take the shape {wanted}")
    if allow_zero and 0 in wanted and -1 in wanted:
        raise node.malformed("with allowzero a shape cannot have both 0 and -1")
    if not allow_zero:
        if any(w == 0 and i >= len(source) for i, w in enumerate(wanted)):
            raise node.malformed(f"the shape {wanted} copies a dimension that {tensor_of(x)} does not have")
        copied = [source[i] if w == 0 else w for i, w in enumerate(wanted)]
        target: list[int | None] = [None if c == DYNAMIC else c for c in copied]
    else:
        target = list(wanted)
    return _reshaped(node, x, target)


def _reshaped(node: Node, x: Value, target: list[int | None]) -> Value:
    """`x` in a shape with sizes, -1 and None for what is not known at import."""
    source = tensor_of(x)
    if -1 in target and None not in target and source.is_static:
        rest = prod(t for t in target if t not in (-1, None))
        if rest == 0 or source.size % rest:
            raise node.malformed(f"the {source.size} elements of {source} do not fill the shape {target}")
        target = [source.size // rest if t == -1 else t for t in target]
    sizes = [DYNAMIC if t in (-1, None) else t for t in target]
    if sizes.count(DYNAMIC) <= 1:
        return node.reshape(x, [s for s in sizes if s is not None])
    type = TensorType(tuple(s for s in sizes if s is not None), source.element)
    return node.build(nn.DynamicReshape(x, node.operand(1), results=[type]))


@converts("Flatten")
def flatten(node: Node) -> Value:
    return node.build(nn.Flatten(node.operand(0), axis=node.attr("axis", 1)))


@converts("Squeeze")
def squeeze(node: Node) -> Value:
    x = node.type(0)
    if node.version < 13:
        axes = node.attr("axes")
    else:
        axes = node.ints(1, "the list of axes") if node.input(1) is not None else None
    if axes is None:
        if not x.is_static:
            raise node.unsupported("which dimensions are 1 is not known")
        axes = [d for d, s in enumerate(x.shape) if s == 1]
    axes = node.axes(axes, x.rank)
    if any(x.shape[a] not in (1, DYNAMIC) for a in axes):
        raise node.malformed(f"cannot squeeze dimensions {axes} of {x}")
    sizes = node.sizes(node.operand(0))
    return node.reshape(node.operand(0), [s for d, s in enumerate(sizes) if d not in axes])


@converts("Unsqueeze")
def unsqueeze(node: Node) -> Value:
    x = node.type(0)
    axes = node.attr("axes") if node.version < 13 else node.ints(1, "the list of axes")
    if axes is None:
        raise node.malformed("attribute 'axes' is missing")
    rank = x.rank + len(axes)
    axes = node.axes(axes, rank)
    rest = iter(node.sizes(node.operand(0)))
    return node.reshape(node.operand(0), [1 if d in axes else next(rest) for d in range(rank)])


@converts("Transpose")
def transpose(node: Node) -> Value:
    perm = node.attr("perm")
    x = node.operand(0)
    if perm is None:
        perm = list(reversed(range(tensor_of(x).rank)))
    if perm == list(range(tensor_of(x).rank)):
        return x
    return node.build(nn.Transpose(x, perm=perm))


@converts("Expand")
def expand(node: Node) -> Value:
    x = node.operand(0)
    if node.constant(1) is None:
        result = stretched_type(node, 1, x)
        return node.build(nn.DynamicBroadcast(x, node.operand(1), results=[result]))
    wanted = node.ints(1, "the shape")
    if any(s < 0 for s in wanted):
        raise node.malformed(f"a tensor cannot take the shape {wanted}")
    from mdsl.dialects.nn.base import broadcast_shapes

    probe = nn.Shape(x)
    target = broadcast_shapes(probe, tensor_of(x).shape, wanted)
    probe.operands = []
    if DYNAMIC not in target:
        return node.broadcast(x, target)
    return node.build(
        nn.DynamicBroadcast(x, node.operand(1), results=[TensorType(target, tensor_of(x).element)])
    )


@converts("Tile")
def tile(node: Node) -> Value:
    """Repetition, as a broadcast along new dimensions that a reshape then joins."""
    x = node.operand(0)
    own = tensor_of(x).shape
    if node.constant(1) is None or not tensor_of(x).is_static:
        known = node.known(1) or [None] * len(own)
        sizes = [
            s * r if s != DYNAMIC and r is not None else DYNAMIC for s, r in zip(own, known, strict=True)
        ]
        return node.build(
            nn.DynamicTile(x, node.operand(1), results=[TensorType(tuple(sizes), tensor_of(x).element)])
        )
    repeats = node.ints(1, "how often to repeat")
    if len(repeats) != len(own) or any(r < 0 for r in repeats):
        raise node.malformed(f"cannot repeat {tensor_of(x)} {repeats} times")
    if all(r == 1 for r in repeats):
        return x
    node.check_size([s * r for s, r in zip(own, repeats, strict=True)], tensor_of(x).element)
    apart = [n for s, r in zip(own, repeats, strict=True) for n in ((1, s) if r != 1 else (s,))]
    wide = [n for s, r in zip(own, repeats, strict=True) for n in ((r, s) if r != 1 else (s,))]
    spread = node.broadcast(node.reshape(x, apart, "apart"), wide, "repeated")
    return node.reshape(spread, [s * r for s, r in zip(own, repeats, strict=True)])


# Joining and taking apart ---------------------------------------------------------------------------------


@converts("Concat")
def concat(node: Node) -> Value:
    values = [node.operand(i) for i in range(len(node.inputs))]
    rank = tensor_of(values[0]).rank
    axis = node.axis(node.attr("axis", 1), rank)
    if rank == 1:  # exporters join shapes with empty pieces
        filled = [v for v in values if tensor_of(v).shape != (0,)]
        values = filled or values[:1]
    if len(values) == 1:
        return values[0]
    return node.build(nn.Concat(values, axis=axis))


@converts("Split")
def split(node: Node) -> list[Value | None]:
    x = node.type(0)
    axis = node.axis(node.attr("axis", 0), x.rank)
    sizes = _split_sizes(node, x.shape[axis])
    if len(sizes) != len(node.outputs):
        raise node.malformed(f"{len(node.outputs)} outputs for {len(sizes)} pieces")
    if (x.shape[axis] != DYNAMIC and sum(sizes) != x.shape[axis]) or any(s < 0 for s in sizes):
        raise node.malformed(f"pieces of {sizes} do not make up dimension {axis} of {x}")
    ends = list(accumulate(sizes))
    return [
        node.expr(0).slice(axis, end - size, end).value if node.wanted(i) else None
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]


def _split_sizes(node: Node, total: int) -> list[int]:
    given = node.attr("split") if node.version < 13 else None
    if node.version >= 13 and node.input(1) is not None:
        given = node.ints(1, "how to split")
    if given is not None:
        return given
    count = node.attr("num_outputs", len(node.outputs))
    if count < 1:
        raise node.malformed(f"cannot split into {count} pieces")
    if count > len(node.outputs):
        raise node.malformed(f"{len(node.outputs)} outputs for {count} pieces")
    if total == DYNAMIC:
        raise node.unsupported("equal pieces of a dimension of unknown size")
    if node.version < 18 and total % count:
        raise node.malformed(f"{total} is not a multiple of {count}")
    piece = -(-total // count)
    return [max(min(piece, total - piece * i), 0) for i in range(count)]


@converts("Slice")
def slice_(node: Node) -> Value:
    """Positions as attributes before opset 10, as operands since. Their ends may be as far away as i64 goes."""
    x = node.type(0)
    if node.version < 10:
        starts, ends = node.attr("starts"), node.attr("ends")
        axes = node.attr("axes")
        if starts is None or ends is None:
            raise node.malformed("starts and ends are missing")
        return _sliced(node, starts, ends, axes, None)
    axes = node.ints(3, "the list of axes") if node.input(3) is not None else None
    steps = node.ints(4, "the list of steps") if node.input(4) is not None else None
    if node.constant(1) is not None and node.constant(2) is not None:
        return _sliced(node, node.ints(1, "starts"), node.ints(2, "ends"), axes, steps)
    count = node.type(1).shape[0] if node.type(1).rank == 1 else DYNAMIC
    if count == DYNAMIC:
        raise node.unsupported("how many dimensions to slice is not known")
    axes = node.axes_in_order(axes if axes is not None else list(range(count)), x.rank)
    sizes = tuple(DYNAMIC if d in axes else s for d, s in enumerate(x.shape))
    return node.build(
        nn.DynamicSlice(
            *(node.operand(i) for i in range(3)), axes=axes, steps=steps or [1] * count,
            results=[TensorType(sizes, x.element)],
        )
    )  # fmt: skip


def _sliced(
    node: Node, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None
) -> Value:
    x = node.type(0)
    axes = node.axes_in_order(list(range(len(starts))) if axes is None else axes, x.rank)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.malformed("starts, ends, axes and steps must have equal lengths, and no step may be 0")
    whole = [
        x.shape[a] != DYNAMIC and range(*slice(s, e, t).indices(x.shape[a])) == range(x.shape[a])
        for s, e, a, t in zip(starts, ends, axes, steps, strict=True)
    ]
    if all(whole):
        return node.operand(0)
    written = None if all(t == 1 for t in steps) else steps
    return node.build(nn.Slice(node.operand(0), starts=starts, ends=ends, axes=axes, steps=written))
