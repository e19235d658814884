"""Rules for normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, Type, bf16, f16, f32, f64


def computed_in(element: Type) -> Type:
    """The type that intermediate results need: f32 for the 16-bit floats."""
    return f32 if element in (f16, bf16) else element


def scalar(node: Node, value: float, like: Value, suffix: str) -> Value:
    """A number of `like`'s element type."""
    return node.const(value, suffix, like.type)


def mean(node: Node, x: Value, axes: Sequence[int], suffix: str = "mean") -> Value:
    """The mean along `axes`, which stay as 1."""
    return node.build(nn.Reduce(x, kind="mean", axes=list(axes), keepdims=True), suffix)


def deviation(node: Node, square: Value, epsilon: float) -> Value:
    """sqrt(square + epsilon)."""
    safe = node.build(nn.Add(square, scalar(node, epsilon, square, "epsilon")), "safe")
    return node.build(nn.Sqrt(safe), "deviation")


def standardised(node: Node, x: Value, axis: int, epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon) over the dimensions `axis` and behind it."""
    shape = tensor_of(x).shape[axis:]
    if DYNAMIC not in shape:
        scale = node.broadcast(scalar(node, 1, x, "unit"), shape, "units")
        return node.build(nn.LayerNorm(x, scale, axis=axis, epsilon=epsilon), "normalised")
    axes = range(axis, tensor_of(x).rank)
    centred = node.build(nn.Sub(x, mean(node, x, axes)), "centred")
    variance = mean(node, node.build(nn.Mul(centred, centred), "squares"), axes, "variance")
    return node.build(nn.Div(centred, deviation(node, variance, epsilon)), "normalised")


def affine(node: Node, x: Value, scale: Value, shift: Value | None) -> Value:
    """x * scale + shift, the node's result."""
    if shift is None:
        return node.build(nn.Mul(x, scale))
    return node.build(nn.Add(node.build(nn.Mul(x, scale), "scaled"), shift))


def per_channel(node: Node, parameter: Value, rank: int, suffix: str) -> Value:
    """A vector of C elements as (C, 1, ..), which broadcasts to (N, C, ..) of `rank`."""
    return node.reshape(parameter, (*tensor_of(parameter).shape, *[1] * (rank - 2)), suffix)


@converts("LayerNormalization")
def layer_normalization(node: Node) -> list[Value | None]:
    x, scale, shift = node.operand(0), node.operand(1), node.input(2)
    axis, epsilon = node.axis(node.attr("axis", -1), tensor_of(x).rank), node.attr("epsilon", 1e-5)
    shape = tensor_of(x).shape[axis:]
    if DYNAMIC in shape:
        y = affine(node, standardised(node, x, axis, epsilon), scale, shift)
    else:
        scale = node.broadcast(scale, shape, "scale")
        shift = None if shift is None else node.broadcast(shift, shape, "shift")
        y = node.build(nn.LayerNorm(x, scale, shift, axis=axis, epsilon=epsilon))
    if not node.wanted(1) and not node.wanted(2):
        return [y]
    kind = f64 if node.attr("stash_type", 1) == 11 else f32
    axes = range(axis, tensor_of(x).rank)
    wide = node.cast(x, kind, "wide")
    centre = node.build(nn.Reduce(wide, kind="mean", axes=list(axes), keepdims=True), output=1)
    centred = node.build(nn.Sub(wide, centre), "centred")
    variance = mean(node, node.build(nn.Mul(centred, centred), "squares"), axes, "variance")
    one = scalar(node, 1, variance, "one")
    return [y, centre, node.build(nn.Div(one, deviation(node, variance, epsilon)), output=2)]


@converts("RMSNormalization")
def rms_normalization(node: Node) -> Value:
    """x / sqrt(mean(x^2) + epsilon) * scale. Zhang, Sennrich: Root Mean Square Layer Normalization (2019)."""
    x, scale = node.operand(0), node.operand(1)
    element, rank = tensor_of(x).element, tensor_of(x).rank
    axes = range(node.axis(node.attr("axis", -1), rank), rank)
    wide = node.cast(x, computed_in(element), "wide")
    square = mean(node, node.build(nn.Mul(wide, wide), "squares"), axes)
    normalised = node.build(nn.Div(wide, deviation(node, square, node.attr("epsilon", 1e-5))), "normalised")
    return node.build(nn.Mul(node.cast(normalised, element, "rounded"), scale))


@converts("InstanceNormalization")
def instance_normalization(node: Node) -> Value:
    """Each channel of each image on its own. Ulyanov, Vedaldi, Lempitsky: Instance Normalization (2016)."""
    x, rank = node.operand(0), node.type().rank
    if rank < 3:
        raise node.malformed(f"its input must have at least 3 dimensions, got {node.type()}")
    scale, shift = (per_channel(node, node.operand(i), rank, s) for i, s in ((1, "scale"), (2, "shift")))
    return affine(node, standardised(node, x, 2, node.attr("epsilon", 1e-5)), scale, shift)


@converts("GroupNormalization")
def group_normalization(node: Node) -> Value:
    """The channels of each group together, with one scale and shift a channel (a group before opset 21).

    Wu, He: Group Normalization (2018).
    """
    x, type, groups = node.operand(0), node.type(), node.attr("num_groups")
    if type.rank < 3 or DYNAMIC in type.shape[1:]:
        raise node.unsupported(f"its input must have channels and sizes that are known, got {type}")
    n, c, *size = type.shape
    if groups < 1 or c % groups:
        raise node.malformed(f"num_groups = {groups} does not divide {c} channels")
    shape = (n, groups, c // groups, *size)
    kind = computed_in(type.element)
    grouped = node.cast(node.reshape(x, shape, "grouped"), kind, "wide")
    rows = groups if node.version < 21 else c
    parameters = [
        node.cast(
            node.reshape(node.operand(i), (groups, rows // groups, *[1] * len(size)), suffix),
            kind,
            f"{suffix}_wide",
        )
        for i, suffix in ((1, "scale"), (2, "shift"))
    ]
    normalised = standardised(node, grouped, 2, node.attr("epsilon", 1e-5))
    scaled = node.build(nn.Mul(normalised, parameters[0]), "scaled")
    shifted = node.build(nn.Add(scaled, parameters[1]), "shifted")
    return node.build(nn.Reshape(node.cast(shifted, type.element, "rounded"), results=[type]))


@converts("LRN")
def lrn(node: Node) -> Value:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels)^beta.

    The sum is an average pooling along the channels. Krizhevsky, Sutskever, Hinton: ImageNet Classification
    with Deep Convolutional Neural Networks (2012).
    """
    x, type, size = node.operand(0), node.type(), node.attr("size")
    if type.rank < 2 or size < 1:
        raise node.malformed(f"needs channels and a size of at least 1, got {type} and size = {size}")
    node.static(x)
    n, c, *rest = type.shape
    node.check_size([n, c + size - 1, *rest], type.element)
    squares = node.build(nn.Mul(x, x), "squares")
    columns = 1
    for s in rest:
        columns *= s
    pads = [(size - 1) // 2, 0, size - 1 - (size - 1) // 2, 0]
    image = node.reshape(squares, (n, 1, c, columns), "rows")
    pooled = node.build(nn.AvgPool2d(image, kernel=[size, 1], pads=pads, count_include_pad=True), "mean")
    energy = node.reshape(pooled, type.shape, "energy")
    scaled = node.build(nn.Mul(energy, scalar(node, node.attr("alpha", 1e-4), x, "alpha")), "scaled")
    base = node.build(nn.Add(scaled, scalar(node, node.attr("bias", 1.0), x, "bias")), "base")
    return node.build(nn.Div(x, _power(node, base, node.attr("beta", 0.75))))


def _power(node: Node, base: Value, exponent: float) -> Value:
    """A positive base to a power: by square roots where that is possible."""
    if exponent == 1:
        return base
    if exponent not in (0.5, 0.75):
        return node.build(nn.Pow(base, scalar(node, exponent, base, "beta")), "power")
    root = node.build(nn.Sqrt(base), "root")
    return (
        root
        if exponent == 0.5
        else node.build(nn.Mul(root, node.build(nn.Sqrt(root), "fourth_root")), "power")
    )


@converts("LpNormalization")
def lp_normalization(node: Node) -> Value:
    """x divided by its L1 or L2 norm along an axis; 0 where the norm is 0."""
    x, p = node.operand(0), node.attr("p", 2)
    axis = node.axis(node.attr("axis", -1), tensor_of(x).rank)
    if p not in (1, 2):
        raise node.malformed(f"p must be 1 or 2, got {p}")
    terms = node.build(nn.Abs(x) if p == 1 else nn.Mul(x, x), "terms")
    total = node.build(nn.Reduce(terms, kind="sum", axes=[axis], keepdims=True), "total")
    norm = total if p == 1 else node.build(nn.Sqrt(total), "norm")
    zero = scalar(node, 0, norm, "zero")
    is_zero = node.build(nn.Compare(norm, zero, kind="eq"), "is_zero")
    divisor = node.build(nn.Select(is_zero, scalar(node, 1, norm, "one"), norm), "divisor")
    return node.build(nn.Div(x, divisor))
