"""Rules for the layers of networks: matrix products, batch normalisation, softmax, activations of layers."""

from __future__ import annotations

from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC

# Matrix products ------------------------------------------------------------------------------------------


@converts("MatMul")
def matmul(node: Node) -> Value:
    return node.build(nn.Matmul(node.operand(0), node.operand(1)))


@converts("Gemm")
def gemm(node: Node) -> Value:
    """alpha * A' B' + beta * C; with B transposed and a row of C, a linear layer."""
    a, b, c = node.expr(0), node.expr(1), node.input(2)
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.malformed(f"A and B must be matrices, got {a.type} and {b.type}")
    if node.attr("transA", 0):
        a = a.of(nn.Transpose, perm=[1, 0])
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    # Where A is an activation, B is a weight that can be scaled at import.
    a, b = (a, b * alpha) if node.constant(b.value) is not None else (a * alpha, b)
    bias = None if c is None or beta == 0 else node.expr(c) * beta
    if node.attr("transB", 0):
        row = [] if bias is None else _as_row(bias, b.shape[0])
        if row is not None:
            return a.of(nn.Linear, b, *row).value
        b = b.of(nn.Transpose, perm=[1, 0])
    product = a.of(nn.Matmul, b)
    return (product if bias is None else product + bias).value


def _as_row(c: Expr, columns: int) -> list[Expr] | None:
    """C as a bias of `columns` elements, None if its rows differ or one number serves all columns."""
    if columns == DYNAMIC or not c.shape or c.shape[-1] != columns or any(d != 1 for d in c.shape[:-1]):
        return None
    return [c.reshape([columns])]


# Normalisation --------------------------------------------------------------------------------------------


@converts("BatchNormalization")
def batch_normalization(node: Node) -> list[Value | None]:
    """Opsets before 14 train where the node has outputs for the statistics."""
    if node.version < 9 and not node.attr("spatial", 1):
        return [_per_activation(node)]
    if node.version >= 14 and node.attr("training_mode", 0):
        return _training(node)
    if node.version < 14 and any(node.wanted(i) for i in range(1, 5)):
        raise node.unsupported("training mode: its statistics are asked for")
    x, epsilon = node.expr(0), node.attr("epsilon", 1e-5)
    parameters = [node.expr(i).cast(x.type.element) for i in range(1, 5)]
    if x.type.rank != 1:
        return [x.of(nn.BatchNorm, *parameters, epsilon=epsilon).value]
    row = x.reshape([1, *x.shape])  # one number a channel: as an image without height
    return [row.of(nn.BatchNorm, *parameters, epsilon=epsilon).reshape(x.shape).value]


def _per_activation(node: Node) -> Value:
    """`spatial = 0`: statistics for every element of a sample."""
    x, scale, shift, mean, variance = (node.expr(i) for i in range(5))
    factor = scale / (variance + node.attr("epsilon", 1e-5)) ** 0.5
    return ((x - mean) * factor + shift).value


def _training(node: Node) -> list[Value | None]:
    """Statistics of the batch itself, and the running ones moved towards them (population variance)."""
    x, epsilon, momentum = node.expr(0), node.attr("epsilon", 1e-5), node.attr("momentum", 0.9)
    axes = [d for d in range(x.type.rank) if d != 1]
    mean = x.reduce("mean", axes, keepdims=False)
    centred = x - mean.reshape([1, *mean.shape, *[1] * (x.type.rank - 2)])
    variance = (centred * centred).reduce("mean", axes, keepdims=False)
    scale, shift = (node.expr(i).cast(x.type.element) for i in (1, 2))
    results: list[Value | None] = [x.of(nn.BatchNorm, scale, shift, mean, variance, epsilon=epsilon).value]
    for output, (old, new) in enumerate([(node.expr(3), mean), (node.expr(4), variance)], 1):
        moved = old * momentum + new.cast(old.type.element) * (1 - momentum)
        results.append(moved.value if node.wanted(output) else None)
    return results


# Softmax --------------------------------------------------------------------------------------------------


@converts("Softmax", "LogSoftmax")
def softmax(node: Node) -> Value:
    """Along one axis; before opset 13 over all dimensions from `axis` on, as if they were one."""
    op = nn.Softmax if node.op_type == "Softmax" else nn.LogSoftmax
    x = node.operand(0)
    shape, rank = tensor_of(x).shape, tensor_of(x).rank
    if rank == 0:
        raise node.malformed("a softmax needs at least 1 dimension")
    if node.version >= 13:
        return node.build(op(x, axis=node.axis(node.attr("axis", -1), rank)))
    axis = node.attr("axis", 1)
    if not -rank <= axis <= rank:
        raise node.malformed(f"axis {axis} is out of range for {rank} dimensions")
    axis = axis + rank if axis < 0 else axis
    joined = [d for d in range(axis, rank) if shape[d] != 1]
    if len(joined) == 1 or axis == rank - 1:
        return node.build(op(x, axis=joined[0] if joined else axis))
    if DYNAMIC in shape:
        raise node.unsupported("a softmax over several dimensions at once, some of unknown size")
    flat = node.reshape(x, [prod(shape[:axis]), prod(shape[axis:])], "flat")
    return node.reshape(node.build(op(flat, axis=1)), shape)


@converts("Dropout")
def dropout(node: Node) -> list[Value | None]:
    """Inference: the operand itself. The mask, if somebody wants it, is all true."""
    x = node.operand(0)
    training = node.constant(2) if node.input(2) is not None else None
    if node.input(2) is not None and (training is None or bool(training.any())):
        ratio = node.constant(1) if node.input(1) is not None else np.float32(0.5)
        if training is None or ratio is None or float(np.asarray(ratio)) != 0:
            raise node.unsupported("dropout at random, as in training")
    if not node.wanted(1):
        return [x, None]
    if not tensor_of(x).is_static:
        raise node.unsupported("the mask of a tensor of unknown size")
    mask = node.const(np.broadcast_to(np.True_, tensor_of(x).shape), "mask")
    return [x, node.cast(mask, tensor_of(x).element) if node.version < 10 else mask]
