"""Rules for reductions, cumulative sums and products, and arg-max and arg-min."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import gather_along, reversed_along
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, dtype_of, i1, i8, is_float

# Reductions -----------------------------------------------------------------------------------------------


def _axes(node: Node) -> list[int]:
    """The reduced dimensions: an attribute or an input, all if there is none (but see noop_with_empty_axes)."""
    axes = node.attr("axes")
    if axes is None and node.input(1) is not None:
        axes = node.ints(1, "axes")
    rank = node.type().rank
    if not axes:
        return [] if node.attr("noop_with_empty_axes", 0) else list(range(rank))
    return node.axes(axes, rank)


def _reduced(node: Node, x: Value, kind: str, suffix: str | None = None) -> Value:
    """`x` reduced as the node says."""
    axes, keepdims = _axes(node), bool(node.attr("keepdims", 1))
    return node.build(nn.Reduce(x, kind=kind, axes=axes, keepdims=keepdims), suffix)


@converts("ReduceSum", "ReduceProd")
def reduce(node: Node) -> Value:
    return _reduced(node, node.operand(0), {"ReduceSum": "sum", "ReduceProd": "prod"}[node.op_type])


@converts("ReduceMax", "ReduceMin")
def reduce_extreme(node: Node) -> Value:
    """Of truth values, as numbers."""
    x, kind = node.operand(0), node.op_type.removeprefix("Reduce").lower()
    if tensor_of(x).element != i1:
        return _reduced(node, x, kind)
    found = _reduced(node, node.cast(x, i8, "numbers"), kind, "extreme")
    return node.build(nn.Compare(found, node.const(np.int8(0), "zero"), kind="gt"))


@converts("ReduceMean")
def reduce_mean(node: Node) -> Value:
    x = node.operand(0)
    if is_float(x.type):
        return _reduced(node, x, "mean")
    count = 1
    for axis in _axes(node):
        count *= tensor_of(x).shape[axis]
    if count <= 0:
        raise node.unsupported(f"a mean of integers needs known sizes, got {tensor_of(x)}")
    total = _reduced(node, x, "sum", "total")
    return node.build(nn.Div(total, node.const(count, "count", x.type)))


@converts("ReduceSumSquare")
def reduce_sum_square(node: Node) -> Value:
    x = node.operand(0)
    return _reduced(node, node.build(nn.Mul(x, x), "squares"), "sum")


@converts("ReduceL1")
def reduce_l1(node: Node) -> Value:
    return _reduced(node, node.build(nn.Abs(node.operand(0)), "magnitudes"), "sum")


@converts("ReduceL2")
def reduce_l2(node: Node) -> Value:
    x = node.operand(0)
    return node.build(nn.Sqrt(_reduced(node, node.build(nn.Mul(x, x), "squares"), "sum", "total")))


@converts("ReduceLogSum")
def reduce_log_sum(node: Node) -> Value:
    return node.build(nn.Log(_reduced(node, node.operand(0), "sum", "total")))


@converts("ReduceLogSumExp")
def reduce_log_sum_exp(node: Node) -> Value:
    """ln sum e^(x - peak) + peak; an infinite peak is replaced by the largest number."""
    x = node.operand(0)
    info = (
        np.finfo(dtype_of(tensor_of(x).element))
        if str(tensor_of(x).element) != "bf16"
        else np.finfo(np.float32)
    )
    axes = _axes(node)
    peaks = node.build(nn.Reduce(x, kind="max", axes=axes, keepdims=True), "peaks")
    peaks = node.build(nn.Clip(peaks, min=float(info.min), max=float(info.max)), "finite_peaks")
    powers = node.build(nn.Exp(node.build(nn.Sub(x, peaks), "centred")), "powers")
    total = _reduced(node, powers, "sum", "total")
    peaks = node.reshape(peaks, tensor_of(total).shape, "offsets")
    return node.build(nn.Add(node.build(nn.Log(total), "log"), peaks))


# Positions ------------------------------------------------------------------------------------------------


@converts("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Value:
    """The smallest element of x is the largest of -x (for integers of -1 - x, which does not overflow)."""
    x, rank = node.operand(0), node.type().rank
    axis, keepdims = node.axis(node.attr("axis", 0), rank), bool(node.attr("keepdims", 1))
    if node.op_type == "ArgMin":
        minus_one = node.const(-1, "minus_one", x.type)
        x = node.build(nn.Neg(x) if is_float(x.type) else nn.Sub(minus_one, x), "mirrored")
    if not node.attr("select_last_index", 0):
        return node.build(nn.ArgMax(x, axis=axis, keepdims=keepdims))
    size = tensor_of(x).shape[axis]
    if size == DYNAMIC:
        raise node.unsupported(f"select_last_index needs a known size, got {tensor_of(x)}")
    backwards = reversed_along(node, x, [axis], "backwards")
    found = node.build(nn.ArgMax(backwards, axis=axis, keepdims=keepdims), "from_the_end")
    return node.build(nn.Sub(node.const(np.int64(size - 1), "last"), found))


@converts("Hardmax")
def hardmax(node: Node) -> Value:
    """1 at the first largest element along the axis, else 0; before opset 13 the axis and all behind are one."""
    x, type = node.operand(0), node.type()
    node.static(x)
    axis = node.axis(node.attr("axis", -1 if node.version >= 13 else 1), type.rank)
    if node.version < 13:
        rest = 1
        for size in type.shape[axis:]:
            rest *= size
        x, axis = node.reshape(x, (*type.shape[:axis], rest), "rows"), axis
    shape = tensor_of(x).shape
    best = node.build(nn.ArgMax(x, axis=axis), "best")
    counter = node.const(np.arange(shape[axis]).reshape([-1, *[1] * (len(shape) - axis - 1)]), "counter")
    flags = node.build(nn.Compare(best, counter, kind="eq"), "is_best")
    flags = node.reshape(flags, type.shape, "flags")
    return node.build(nn.Cast(flags, results=[type]))


@converts("TopK")
def top_k(node: Node) -> list[Value | None]:
    x, type = node.operand(0), node.type()
    axis = node.axis(node.attr("axis", -1), type.rank)
    count = node.attr("k") if node.version < 10 else node.ints(1, "K")[0]
    descending = bool(node.attr("largest", 1))
    indices = node.build(nn.ArgSort(x, axis=axis, descending=descending, count=count), output=1)
    return [gather_along(node, x, indices, axis), indices]


# Running sums ---------------------------------------------------------------------------------------------


@converts("CumSum", "CumProd")
def cumulative(node: Node) -> Value:
    """A scan by doubling: after step s each element has combined 2^s elements (Hillis, Steele, "Data parallel
    algorithms", 1986)."""
    x, shape = node.operand(0), node.type().shape
    (axis,) = node.ints(1, "axis")
    axis = node.axis(axis, len(shape))
    size = shape[axis]
    if size == DYNAMIC:
        raise node.unsupported(f"needs a known size along its axis, got {node.type()}")
    combine: type[Op] = nn.Add if node.op_type == "CumSum" else nn.Mul
    neutral, backwards = float(node.op_type == "CumProd"), bool(node.attr("reverse", 0))
    if node.attr("exclusive", 0):
        x = _shifted(node, x, axis, 1, neutral, backwards, "exclusive" if size > 1 else None)
    step = 1
    while step < size:
        moved = _shifted(node, x, axis, step, neutral, backwards, f"moved{step}")
        x = node.build(combine(x, moved), f"sum{2 * step}" if 2 * step < size else None)
        step *= 2
    return x


def _shifted(
    node: Node, x: Value, axis: int, by: int, fill: float, backwards: bool, suffix: str | None
) -> Value:
    """`x` moved towards its end (or start) along an axis, with `fill` in what becomes free."""
    type = tensor_of(x)
    size, rank = type.shape[axis], type.rank
    if by >= size:
        return node.broadcast(node.const(fill, "neutral", type), type.shape, suffix)
    bounds = ([by], [size]) if backwards else ([0], [size - by])
    part = node.build(nn.Slice(x, starts=bounds[0], ends=bounds[1], axes=[axis]), f"kept{by}")
    pads = [0] * 2 * rank
    pads[rank + axis if backwards else axis] = by
    return node.build(nn.Pad(part, pads=pads, value=fill), suffix)
