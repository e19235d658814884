"""lower-nn: matrix products, normalisation, softmax, reductions."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import arith, linalg, nn
from mdsl.dialects import math as functions
from mdsl.dialects.nn.base import axis_in, broadcast_shapes
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import Type, i64, is_float, wide
from mdsl.passes.nn.lower_nn.build import Emitter, Read, Scalars, highest, lowers, lowest

PARALLEL, REDUCTION = linalg.PARALLEL, linalg.REDUCTION


def multiply_add(s: Scalars, a: Value, b: Value, total: Value) -> Value:
    """The body of a contraction: products and sums in the accumulator's type."""
    return s.add(total, s.multiply(s.widen(a), s.widen(b)))


def finish(e: Emitter, accumulated: Value, element: Type, bias: Value | None, dim: int) -> Value:
    """Adds a bias that runs along dimension `dim` and rounds to `element`, in one elementwise nest."""
    shape = tensor_of(accumulated).shape
    if bias is None and tensor_of(accumulated).element == element:
        return accumulated

    def body(s: Scalars, x: Value, *rest: Value) -> Value:
        return s.narrow(s.add(x, s.widen(rest[0]), "biased") if rest else x, element)

    reads: list[Read] = [(accumulated, range(len(shape)))]
    return e.map(reads if bias is None else [*reads, (bias, [dim])], shape, element, body)


# Matrix products ------------------------------------------------------------------------------------------


@lowers("nn.matmul")
def matmul(e: Emitter, op: nn.Matmul) -> Value:
    a, b = op.operands
    (a_shape, b_shape), result = (tensor_of(a).shape, tensor_of(b).shape), tensor_of(op.result)
    accumulator = wide(result.element)
    exact = accumulator == result.element
    suffix = None if exact else "product"
    zero = e.fill(0, result.shape, accumulator)
    if exact and len(a_shape) == len(b_shape) == 2:
        return e.value(linalg.Matmul.make([a, b], [zero]), None)
    if exact and len(a_shape) == len(b_shape) == 3 and a_shape[0] == b_shape[0]:
        return e.value(linalg.BatchMatmul.make([a, b], [zero]), None)
    batch = len(broadcast_shapes(op, a_shape[:-2], b_shape[:-2]))
    last = len(result.shape)  # the reduction comes behind the result's dimensions
    rows = [batch] if len(a_shape) > 1 else []
    columns = [last - 1] if len(b_shape) > 1 else []
    left = _batched(e, a, result.shape[:batch], [*rows, last])
    right = _batched(e, b, result.shape[:batch], [last, *columns])
    loops = [*[PARALLEL] * last, REDUCTION]
    total = e.value(e.generic([left, right], [(zero, range(last))], loops, multiply_add), suffix)
    return finish(e, total, result.element, None, 0)


def _batched(e: Emitter, value: Value, batch: Sequence[int], matrix: Sequence[int]) -> Read:
    """How `value` is read: leading dimensions that broadcast to `batch`, then the loops `matrix`."""
    shape = tensor_of(value).shape
    own = len(shape) - len(matrix)
    lead, dims = e.stretch(value, (*batch[len(batch) - own :], *shape[own:]))
    shift = len(batch) - own
    return lead, [d + shift if d < own else matrix[d - own] for d in dims]


@lowers("nn.linear")
def linear(e: Emitter, op: nn.Linear) -> Value:
    result = tensor_of(op.result)
    rank = len(result.shape)
    bias, exact = op.bias, wide(result.element) == result.element
    zero = e.fill(0, result.shape, wide(result.element))
    reads: list[Read] = [(op.x, [*range(rank - 1), rank]), (op.weight, [rank - 1, rank])]
    nest = e.generic(reads, [(zero, range(rank))], [*[PARALLEL] * rank, REDUCTION], multiply_add)
    total = e.value(nest, None if exact and bias is None else "product")
    return finish(e, total, result.element, bias, rank - 1)


# Normalisation --------------------------------------------------------------------------------------------


def reciprocal_root(s: Scalars, variance: Value, epsilon: float) -> Value:
    """1 / sqrt(variance + epsilon)."""
    safe = s.add(variance, s.constant(epsilon, variance.type, "epsilon"), "safe")
    return s(arith.DivF(s.constant(1, variance.type, "one"), s(functions.Sqrt(safe), "deviation")), "inverse")


@lowers("nn.batch_norm")
def batch_norm(e: Emitter, op: nn.BatchNorm) -> Value:
    """factor = scale / sqrt(variance + epsilon), offset = shift - mean * factor, y = x * factor + offset."""
    x = tensor_of(op.x)
    kind, channels = wide(x.element), tensor_of(op.scale).shape

    def factors(s: Scalars, scale: Value, variance: Value) -> Value:
        return s.multiply(s.widen(scale), reciprocal_root(s, s.widen(variance), op.attr("epsilon")), "factor")

    def offsets(s: Scalars, shift: Value, mean: Value, factor: Value) -> Value:
        return s(arith.SubF(s.widen(shift), s.multiply(s.widen(mean), factor)), "offset")

    def body(s: Scalars, value: Value, factor: Value, offset: Value) -> Value:
        return s.narrow(s.add(s.multiply(s.widen(value), factor, "scaled"), offset, "normalised"), x.element)

    factor = e.map([(op.scale, [0]), (op.variance, [0])], channels, kind, factors, "factor")
    offset = e.map([(op.shift, [0]), (op.mean, [0]), (factor, [0])], channels, kind, offsets, "offset")
    axis = [op.channel_axis]
    return e.map([(op.x, range(x.rank)), (factor, axis), (offset, axis)], x.shape, x.element, body)


@lowers("nn.layer_norm")
def layer_norm(e: Emitter, op: nn.LayerNorm) -> Value:
    x, rank = tensor_of(op.x), tensor_of(op.x).rank
    kind, axis = wide(x.element), axis_in(op, op.attr("axis"), rank)
    every, outer, inner = range(rank), range(axis), range(axis, rank)
    count = tensor_of(op.scale).size

    def inverse(s: Scalars, squares: Value) -> Value:
        return reciprocal_root(
            s, s.multiply(squares, s.constant(1 / count, kind, "share"), "variance"), op.attr("epsilon")
        )

    def body(s: Scalars, centred: Value, inverse: Value, scale: Value, *shift: Value) -> Value:
        y = s.multiply(s.multiply(centred, inverse, "normalised"), s.widen(scale), "scaled")
        return s.narrow(s.add(y, s.widen(shift[0]), "shifted") if shift else y, x.element)

    mean = scaled(e, e.sum(op.x, inner, "sum"), 1 / count, "mean")
    centred = subtracted(e, op.x, mean, outer, kind)
    squares = e.reduce(
        centred, inner, 0, kind, lambda s, v, total: s.add(total, s.multiply(v, v, "square")), "squares"
    )
    factor = e.map([(squares, outer)], x.shape[:axis], kind, inverse, "inverse")
    parameters: list[Read] = [(v, inner) for v in (op.scale, op.shift) if v is not None]
    return e.map([(centred, every), (factor, outer), *parameters], x.shape, x.element, body)


def scaled(e: Emitter, x: Value, factor: float, suffix: str | None, element: Type | None = None) -> Value:
    """`x` times a number, rounded to `element` (default: its own)."""
    type = tensor_of(x)

    def body(s: Scalars, value: Value) -> Value:
        return s.narrow(
            s.multiply(value, s.constant(factor, value.type, "share"), "mean"), element or type.element
        )

    return e.map([(x, range(type.rank))], type.shape, element or type.element, body, suffix)


def subtracted(e: Emitter, x: Value, reduced: Value, kept: Sequence[int], kind: Type) -> Value:
    """`x` minus a tensor that has the dimensions `kept` of it, as `%<name>_centred`."""
    shape = tensor_of(x).shape
    reads: list[Read] = [(x, range(len(shape))), (reduced, kept)]
    return e.map(reads, shape, kind, lambda s, a, b: s(arith.SubF(s.widen(a), b), "difference"), "centred")


# Softmax --------------------------------------------------------------------------------------------------


def _row_maximum(e: Emitter, op: nn.Softmax) -> tuple[Value, int, list[int], Type]:
    """The largest element along the axis; also the axis, the other dimensions, the type to compute in."""
    x = tensor_of(op.x)
    axis, kind = axis_in(op, op.attr("axis"), x.rank), wide(x.element)
    peak = e.reduce(op.x, [axis], lowest(kind), kind, lambda s, v, best: s.maximum(best, s.widen(v)), "max")
    return peak, axis, [d for d in range(x.rank) if d != axis], kind


@lowers("nn.softmax")
def softmax(e: Emitter, op: nn.Softmax) -> Value:
    x = tensor_of(op.x)
    peak, axis, others, kind = _row_maximum(e, op)
    every = range(x.rank)

    def exponential(s: Scalars, value: Value, peak: Value) -> Value:
        return s(functions.Exp(s(arith.SubF(s.widen(value), peak), "difference")), "exp")

    def share(s: Scalars, power: Value, total: Value) -> Value:
        return s.narrow(s(arith.DivF(power, total), "share"), x.element)

    powers = e.map([(op.x, every), (peak, others)], x.shape, kind, exponential, "exp")
    total = e.sum(powers, [axis], "sum")
    return e.map([(powers, every), (total, others)], x.shape, x.element, share)


@lowers("nn.log_softmax")
def log_softmax(e: Emitter, op: nn.LogSoftmax) -> Value:
    x = tensor_of(op.x)
    peak, axis, others, kind = _row_maximum(e, op)
    centred = subtracted(e, op.x, peak, others, kind)

    def body(s: Scalars, value: Value, total: Value) -> Value:
        return s.narrow(s(arith.SubF(value, s(functions.Log(total), "log")), "difference"), x.element)

    total = e.reduce(
        centred, [axis], 0, kind, lambda s, v, total: s.add(total, s(functions.Exp(v), "exp")), "sum"
    )
    return e.map([(centred, range(x.rank)), (total, others)], x.shape, x.element, body)


# Reductions -----------------------------------------------------------------------------------------------


@lowers("nn.reduce")
def reduce(e: Emitter, op: nn.Reduce) -> Value:
    kind, result = op.attr("kind"), tensor_of(op.result)
    if not op.dimensions:
        return op.x
    keeps = result.rank == tensor_of(op.x).rank
    suffix = kind if keeps else None
    if kind in ("max", "min"):
        start = lowest(result.element) if kind == "max" else highest(result.element)
        body = _larger if kind == "max" else _smaller
        found = e.reduce(op.x, op.dimensions, start, result.element, body, suffix)
    elif kind == "prod":
        total = e.reduce(op.x, op.dimensions, 1, wide(result.element), _times, suffix)
        found = finish(e, total, result.element, None, 0)
    else:
        found = _sum_or_mean(e, op.x, op.dimensions, kind == "mean", suffix)
    return e.reshape(found, result.shape)


def _larger(s: Scalars, value: Value, best: Value) -> Value:
    return s.maximum(best, value)


def _smaller(s: Scalars, value: Value, best: Value) -> Value:
    return s.minimum(best, value)


def _times(s: Scalars, value: Value, so_far: Value) -> Value:
    return s.multiply(so_far, s.widen(value))


def _sum_or_mean(e: Emitter, x: Value, dims: Sequence[int], mean: bool, suffix: str | None) -> Value:
    type = tensor_of(x)
    element, kind = type.element, wide(type.element)
    total = e.sum(x, dims, "sum" if mean or kind != element else suffix)
    if not mean:
        return finish(e, total, element, None, 0)
    count = type.size // max(1, tensor_of(total).size)
    return scaled(e, total, 1 / count, suffix, element)


@lowers("nn.global_avg_pool")
def global_avg_pool(e: Emitter, op: nn.GlobalAvgPool) -> Value:
    return e.reshape(_sum_or_mean(e, op.x, op.spatial_axes, True, "mean"), tensor_of(op.result).shape)


@lowers("nn.argmax")
def argmax(e: Emitter, op: nn.ArgMax) -> Value:
    """One nest with two results: the largest element so far, and where it is."""
    x, result = tensor_of(op.x), tensor_of(op.result)
    axis = axis_in(op, op.attr("axis"), x.rank)
    kept = [d for d in range(x.rank) if d != axis]
    shape = [x.shape[d] for d in kept]
    best = e.fill(lowest(x.element), shape, x.element, "lowest")
    first = e.fill(0, shape, i64, "first")

    def body(s: Scalars, value: Value, best: Value, position: Value) -> list[Value]:
        here = s(arith.IndexCast(s(linalg.IndexOp(dim=axis), "position"), results=[i64]), "here")
        better = beats(s, value, best)
        return [
            s(arith.Select(better, value, best), "new_best"),
            s(arith.Select(better, here, position), "new_position"),
        ]

    loops = [REDUCTION if d == axis else PARALLEL for d in range(x.rank)]
    nest = e.generic([(op.x, range(x.rank))], [(best, kept), (first, kept)], loops, body)
    e.builder.add(nest, f"{e.name}_best", f"{e.name}_position" if result.rank == x.rank else None)
    return e.reshape(nest.results[1], result.shape)


def beats(s: Scalars, value: Value, best: Value) -> Value:
    """Larger than the best so far, or the first NaN."""
    if not is_float(value.type):
        return s(arith.CmpI.of("sgt", value, best), "better")
    larger = s(arith.CmpF.of("ugt", value, best), "larger_or_nan")
    ordered = s(arith.CmpF.of("ord", best, best), "best_is_number")
    return s(arith.AndI(larger, ordered), "better")
