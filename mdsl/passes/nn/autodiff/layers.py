"""autodiff: matrix products, normalisations, softmax."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from mdsl.dialects import nn
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.passes.nn.autodiff.build import Adjoint, Partials, vjp, whole

# Matrix products ------------------------------------------------------------------------------------------


@vjp("nn.matmul")
def matmul(a: Adjoint, op: nn.Matmul, g: Value) -> Partials:
    """g B^T and A^T g, of matrices: a vector is a row on the left, a column on the right."""
    first, second = tensor_of(op.a).shape, tensor_of(op.b).shape
    rows = first if len(first) > 1 else (1, *first)
    columns = second if len(second) > 1 else (*second, 1)
    batch = tensor_of(op.result).shape[: max(len(rows), len(columns)) - 2]
    g = a.reshape(g, (*batch, rows[-2], columns[-1]))
    left, right = a.reshape(op.a, rows), a.reshape(op.b, columns)
    if len(columns) == 2:  # one matrix for all of the batch, whose rows are rows of one matrix then
        return a(nn.Matmul(g, a.swap(right))), _rows_product(a, left, g)
    return a(nn.Matmul(g, a.swap(right))), a(nn.Matmul(a.swap(left), g))


def _rows_product(a: Adjoint, x: Value, g: Value) -> Value:
    """x^T g, summed up over all rows: x (..., M), g (..., N), the result (M, N)."""
    return a(nn.Matmul(a.swap(_rows(a, x)), _rows(a, g)))


def _rows(a: Adjoint, x: Value) -> Value:
    """x as a matrix of the same rows."""
    *leading, last = tensor_of(x).shape
    return a.reshape(x, (prod(leading), last), "rows")


@vjp("nn.linear")
def linear(a: Adjoint, op: nn.Linear, g: Value) -> Partials:
    partials: list[Value | None] = [a(nn.Matmul(g, op.weight)), _rows_product(a, g, op.x)]
    if op.bias is not None:
        partials.append(a.sum(_rows(a, g), [0], keepdims=False))
    return partials


# Normalisation --------------------------------------------------------------------------------------------


@whole("nn.batch_norm_train")
def batch_norm_train(a: Adjoint, kept: Mapping[str, Value], g: Value) -> Mapping[str, Value]:
    """With c = x - mean, the root r of the variance (epsilon added), f = scale / r, and n numbers a channel: sums of g c / r and g for
    scale and shift, and f (g - sum(g) / n - c sum(g c) / (n r^2)) for x (Ioffe, Szegedy: Batch Normalization, 2015). That c adds up to
    0 the formula's own gradient does not know: it goes over the image once more. Where processes share the batch, what goes into x is
    of all of them; scale and shift get what this one's share says, as every parameter does."""
    centred, root, factor = kept["centred"], kept["root"], kept["factor"]
    column, shape = tensor_of(root).shape, tensor_of(centred).shape
    others = [d for d, size in enumerate(column) if size == 1]
    share = prod(column) / max(1, prod(shape))
    total = a.sum(g, others, suffix="total")
    along = a.sum(a.mul(g, centred), others, suffix="along")
    slope = a.div(along, root)
    among = isinstance(kept["mean"].owner, nn.AllReduce)
    of_all = [a(nn.AllReduce(v, kind="mean")) if among else v for v in (slope, total)]
    steepness = a.mul(a.div(a.mul(of_all[0], factor), root), share, "steepness")
    level = a.mul(a.mul(of_all[1], factor), share, "level")
    x = a.sub(a.sub(a.mul(g, factor), a.mul(centred, steepness)), level)
    return {"shift": total, "scale": slope, "x": x}


@vjp("nn.batch_norm")
def batch_norm(a: Adjoint, op: nn.BatchNorm, g: Value) -> Partials:
    """The statistics are numbers like the others: with r = 1 / sqrt(variance + epsilon) and n = (x - mean) r,
    g scale r for x, -that for the mean, sums of g n and g for scale and shift, -sum(g n) scale r^2 / 2 for the variance."""
    rank, axis = tensor_of(op.x).rank, op.channel_axis
    others = [d for d in range(rank) if d != axis]
    along = (-1, *[1] * (rank - 1 - axis))
    channels = tensor_of(op.scale).shape[0]

    def stretched(vector: Value, suffix: str) -> Value:
        return a.reshape(vector, (channels, *along[1:]), suffix)

    root = a(nn.Sqrt(a.add(op.variance, op.attr("epsilon"))))
    factor = a.div(op.scale, root, "factor")
    centred = a.sub(op.x, stretched(op.mean, "mean"), "centred")
    normal = a.div(centred, stretched(root, "deviation"), "normal")
    scale = a.sum(a.mul(g, normal), others, keepdims=False)
    shift = a.sum(g, others, keepdims=False)
    x = a.mul(g, stretched(factor, "factors"))
    mean = a.neg(a.mul(shift, factor))
    variance = a.mul(a.div(a.mul(scale, factor), root), -0.5)
    return x, scale, shift, mean, variance


@vjp("nn.layer_norm")
def layer_norm(a: Adjoint, op: nn.LayerNorm, g: Value) -> Partials:
    """With n = (x - mean) r and h = g scale: r (h - mean(h) - n mean(h n))."""
    rank = tensor_of(op.x).rank
    first = axis_in(op, op.attr("axis"), rank)
    axes, leading = list(range(first, rank)), list(range(first))
    centred = a.sub(op.x, a.mean(op.x, axes), "centred")
    variance = a.mean(a.mul(centred, centred), axes, "variance")
    root = a(nn.Sqrt(a.add(variance, op.attr("epsilon"))))
    normal = a.div(centred, root, "normal")
    scaled = a.mul(g, op.scale, "scaled")
    rest = a.sub(a.sub(scaled, a.mean(scaled, axes)), a.mul(normal, a.mean(a.mul(scaled, normal), axes)))
    partials: list[Value | None] = [a.div(rest, root), a.sum(a.mul(g, normal), leading, keepdims=False)]
    return partials if op.shift is None else [*partials, a.sum(g, leading, keepdims=False)]


# Softmax --------------------------------------------------------------------------------------------------


@vjp("nn.softmax")
def softmax(a: Adjoint, op: nn.Softmax, g: Value) -> Partials:
    total = a.sum(a.mul(g, op.result), [op.attr("axis")])
    return [a.mul(a.sub(g, total), op.result)]


@vjp("nn.log_softmax")
def log_softmax(a: Adjoint, op: nn.LogSoftmax, g: Value) -> Partials:
    return [a.sub(g, a.mul(a(nn.Exp(op.result)), a.sum(g, [op.attr("axis")])))]
