"""Rules for reductions, cumulative sums and products, and arg-max and arg-min."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import along, gather_along, reversed_along
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Op, Value
from mdsl.ir.types import DYNAMIC, bf16, dtype_of, i1, i8, is_float

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


def _reduced(x: Expr, kind: str) -> Expr:
    """`x` reduced as its node says."""
    return x.reduce(kind, _axes(x.node), keepdims=bool(x.node.attr("keepdims", 1)))


def _extreme(x: Expr, kind: str) -> Expr:
    """Of truth values, as numbers."""
    return _reduced(x, kind) if x.type.element != i1 else _reduced(x.cast(i8), kind) > 0


def _mean(x: Expr) -> Expr:
    if is_float(x.type):
        return _reduced(x, "mean")
    count = prod(x.shape[axis] for axis in _axes(x.node))
    if count <= 0:
        raise x.node.unsupported(f"a mean of integers needs known sizes, got {x.type}")
    return _reduced(x, "sum") / count


def _log_sum_exp(x: Expr) -> Expr:
    """ln sum e^(x - peak) + peak; an infinite peak is replaced by the largest number."""
    info = np.finfo(np.float32 if x.type.element == bf16 else dtype_of(x.type.element))
    peaks = x.reduce("max", _axes(x.node)).clip(float(info.min), float(info.max))
    total = _reduced((x - peaks).of(nn.Exp), "sum")
    return total.of(nn.Log) + peaks.reshape(total.shape)


_REDUCTIONS: dict[str, Callable[[Expr], Expr]] = {
    "ReduceSum": lambda x: _reduced(x, "sum"),
    "ReduceProd": lambda x: _reduced(x, "prod"),
    "ReduceMax": lambda x: _extreme(x, "max"),
    "ReduceMin": lambda x: _extreme(x, "min"),
    "ReduceMean": _mean,
    "ReduceSumSquare": lambda x: _reduced(x * x, "sum"),
    "ReduceL1": lambda x: _reduced(abs(x), "sum"),
    "ReduceL2": lambda x: _reduced(x * x, "sum") ** 0.5,
    "ReduceLogSum": lambda x: _reduced(x, "sum").of(nn.Log),
    "ReduceLogSumExp": _log_sum_exp,
}


@converts(*_REDUCTIONS)
def reduce(node: Node) -> Value:
    return _REDUCTIONS[node.op_type](node.expr(0)).value


# Positions ------------------------------------------------------------------------------------------------


@converts("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> Value:
    """The smallest element of x is the largest of -x (for integers of -1 - x, which does not overflow)."""
    x = node.expr(0)
    axis, keepdims = node.axis(node.attr("axis", 0), x.type.rank), bool(node.attr("keepdims", 1))
    if node.op_type == "ArgMin":
        x = -x if is_float(x.type) else -1 - x
    if not node.attr("select_last_index", 0):
        return x.of(nn.ArgMax, axis=axis, keepdims=keepdims).value
    size = x.shape[axis]
    if size == DYNAMIC:
        raise node.unsupported(f"select_last_index needs a known size, got {x.type}")
    backwards = node.expr(reversed_along(node, x.value, [axis], "backwards"))
    return (size - 1 - backwards.of(nn.ArgMax, axis=axis, keepdims=keepdims)).value


@converts("Hardmax")
def hardmax(node: Node) -> Value:
    """1 at the first largest element along the axis, else 0; before opset 13 the axis and all behind are one."""
    x, type = node.expr(0), node.type()
    node.static(x.value)
    axis = node.axis(node.attr("axis", -1 if node.version >= 13 else 1), type.rank)
    rows = x if node.version >= 13 else x.reshape((*type.shape[:axis], prod(type.shape[axis:])))
    flags = rows.of(nn.ArgMax, axis=axis).is_("eq", along(rows.shape[axis], axis, rows.type.rank))
    return node.build(nn.Cast(flags.reshape(type.shape).value, results=[type]))


@converts("TopK")
def top_k(node: Node) -> list[Value | None]:
    x, type = node.operand(0), node.type()
    axis = node.axis(node.attr("axis", -1), type.rank)
    count = node.attr("k") if node.version < 10 else node.ints(1, "K")[0]
    descending = bool(node.attr("largest", 1))
    indices = node.build(nn.ArgSort(x, axis=axis, descending=descending, count=count), "indices")
    return [gather_along(node, x, indices, axis), indices]


# Running sums ---------------------------------------------------------------------------------------------


@converts("CumSum", "CumProd")
def cumulative(node: Node) -> Value:
    """A scan by doubling: after step s each element has combined 2^s elements (Hillis, Steele, "Data parallel
    algorithms", 1986)."""
    x, shape = node.expr(0), node.type().shape
    (axis,) = node.ints(1, "axis")
    axis = node.axis(axis, len(shape))
    size = shape[axis]
    if size == DYNAMIC:
        raise node.unsupported(f"needs a known size along its axis, got {node.type()}")
    combine: type[Op] = nn.Add if node.op_type == "CumSum" else nn.Mul
    shift = partial(
        _shifted, axis=axis, fill=float(node.op_type == "CumProd"), backwards=node.attr("reverse", 0)
    )
    if node.attr("exclusive", 0):
        x = shift(x, 1)
    step = 1
    while step < size:
        x = x.of(combine, shift(x, step))
        step *= 2
    return x.value


def _shifted(x: Expr, by: int, axis: int, fill: float, backwards: bool) -> Expr:
    """`x` moved towards its end (or start) along an axis, with `fill` in what becomes free."""
    size, rank = x.shape[axis], x.type.rank
    if by >= size:
        return x.node.expr(x.node.broadcast(x.like(fill).value, x.shape))
    kept = x.slice(axis, by, size) if backwards else x.slice(axis, 0, size - by)
    pads = [0] * 2 * rank
    pads[rank + axis if backwards else axis] = by
    return kept.of(nn.Pad, pads=pads, value=fill)
