"""Rules for normalisation."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.types import DYNAMIC, f32, f64, wide


def standardised(x: Expr, axis: int, epsilon: float) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) over the dimensions `axis` and behind it."""
    shape = x.shape[axis:]
    if DYNAMIC not in shape:
        return x.of(nn.LayerNorm, x.node.broadcast(x.like(1).value, shape), axis=axis, epsilon=epsilon)
    _, centred, deviation = _statistics(x, axis, epsilon)
    return centred / deviation


def _statistics(x: Expr, axis: int, epsilon: float) -> tuple[Expr, Expr, Expr]:
    """The mean over the dimensions `axis` and behind it, x - mean and sqrt(variance + epsilon)."""
    axes = range(axis, x.type.rank)
    mean = x.reduce("mean", axes)
    centred = x - mean
    return mean, centred, ((centred * centred).reduce("mean", axes) + epsilon) ** 0.5


@converts("LayerNormalization")
def layer_normalization(node: Node) -> list[Value | None]:
    x, scale, shift = node.expr(0), node.operand(1), node.input(2)
    axis, epsilon = node.axis(node.attr("axis", -1), x.type.rank), node.attr("epsilon", 1e-5)
    shape = x.shape[axis:]
    if DYNAMIC in shape:
        y = standardised(x, axis, epsilon) * scale
        y = y if shift is None else y + shift
    else:
        scale = node.broadcast(scale, shape, "scale")
        shift = None if shift is None else node.broadcast(shift, shape, "shift")
        y = x.of(nn.LayerNorm, scale, *([] if shift is None else [shift]), axis=axis, epsilon=epsilon)
    if not node.wanted(1) and not node.wanted(2):
        return [y.value]
    exact = x.cast(f64 if node.attr("stash_type", 1) == 11 else f32)
    mean, _, deviation = _statistics(exact, axis, epsilon)
    return [y.value, mean.value, (1 / deviation).value]


@converts("RMSNormalization")
def rms_normalization(node: Node) -> Value:
    """x / sqrt(mean(x^2) + epsilon) * scale. Zhang, Sennrich: Root Mean Square Layer Normalization (2019)."""
    x = node.expr(0)
    exact, rank = x.cast(wide(x.type.element)), x.type.rank
    axes = range(node.axis(node.attr("axis", -1), rank), rank)
    norm = (exact * exact).reduce("mean", axes) + node.attr("epsilon", 1e-5)
    return ((exact / norm**0.5).cast(x.type.element) * node.operand(1)).value


@converts("InstanceNormalization")
def instance_normalization(node: Node) -> Value:
    """Each channel of each image on its own. Ulyanov, Vedaldi, Lempitsky: Instance Normalization (2016)."""
    x, rank = node.expr(0), node.type().rank
    if rank < 3:
        raise node.malformed(f"its input must have at least 3 dimensions, got {node.type()}")
    vectors = node.expr(1), node.expr(2)
    scale, shift = (v.reshape((*v.shape, *[1] * (rank - 2))) for v in vectors)
    return (standardised(x, 2, node.attr("epsilon", 1e-5)) * scale + shift).value


@converts("GroupNormalization")
def group_normalization(node: Node) -> Value:
    """The channels of each group together, with one scale and shift a channel (a group before opset 21).

    Wu, He: Group Normalization (2018).
    """
    x, type, groups = node.expr(0), node.type(), node.attr("num_groups")
    if type.rank < 3 or DYNAMIC in type.shape[1:]:
        raise node.unsupported(f"its input must have channels and sizes that are known, got {type}")
    n, c, *size = type.shape
    if groups < 1 or c % groups:
        raise node.malformed(f"num_groups = {groups} does not divide {c} channels")
    kind, rows = wide(type.element), groups if node.version < 21 else c
    column = (groups, rows // groups, *[1] * len(size))
    scale, shift = (node.expr(i).reshape(column).cast(kind) for i in (1, 2))
    grouped = x.reshape((n, groups, c // groups, *size)).cast(kind)
    y = standardised(grouped, 2, node.attr("epsilon", 1e-5)) * scale + shift
    return node.build(nn.Reshape(y.cast(type.element).value, results=[type]))


@converts("LRN")
def lrn(node: Node) -> Value:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta.

    The sum is an average pooling along the channels. Krizhevsky, Sutskever, Hinton: ImageNet Classification
    with Deep Convolutional Neural Networks (2012).
    """
    x, type, size = node.expr(0), node.type(), node.attr("size")
    if type.rank < 2 or size < 1:
        raise node.malformed(f"needs channels and a size of at least 1, got {type} and size = {size}")
    node.static(x.value)
    n, c, *rest = type.shape
    node.check_size([n, c + size - 1, *rest], type.element)
    pads = [(size - 1) // 2, 0, size - 1 - (size - 1) // 2, 0]
    image = (x * x).reshape((n, 1, c, prod(rest)))
    mean = image.of(nn.AvgPool2d, kernel=[size, 1], pads=pads, count_include_pad=True).reshape(type.shape)
    base = mean * node.attr("alpha", 1e-4) + node.attr("bias", 1.0)
    return (x / base ** node.attr("beta", 0.75)).value


@converts("LpNormalization")
def lp_normalization(node: Node) -> Value:
    """x divided by its L1 or L2 norm along an axis; 0 where the norm is 0."""
    x, p = node.expr(0), node.attr("p", 2)
    axis = node.axis(node.attr("axis", -1), x.type.rank)
    if p not in (1, 2):
        raise node.malformed(f"p must be 1 or 2, got {p}")
    norm = p_norm(x, p, lambda powers: powers.reduce("sum", [axis]))
    return (x / norm.like(1).where(norm.is_("eq", 0), norm)).value


def p_norm(x: Expr, p: float, total: Callable[[Expr], Expr]) -> Expr:
    """The p-th root of a total of |x|^p."""
    powers = x * x if p == 2 else abs(x) ** p
    return total(powers) ** (1 / p)
