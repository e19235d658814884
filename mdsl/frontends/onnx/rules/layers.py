"""Rules for the layers of networks: matrix products, batch normalisation, softmax, activations of layers."""

from __future__ import annotations

from math import prod
from zlib import crc32

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.expressions import Expr
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, f32, is_float

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
    parameters = [node.expr(i).cast(x.type.element).value for i in (1, 2)]
    running = [node.operand(i) for i in (3, 4)]
    op = nn.BatchNormTrain(x.value, *parameters, *running, epsilon=epsilon, momentum=momentum)
    return list(node.build_all(op))


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
    """The layer without a key, the operand itself, which `train-mode` gives a key; in training mode one with the
    node's seed (0 if it has none) and step 0."""
    x, ratio, keyed = node.operand(0), node.attr("ratio", 0.5), _is_training(node)
    if node.input(1) is not None:
        known = node.constant(1)
        if known is None:
            raise node.unsupported("dropout at a rate that is not known at import")
        ratio = float(known)
    if keyed and not tensor_of(x).is_static:
        raise node.unsupported("dropout at random of a tensor of unknown size")
    stream = crc32(node.name_of("stream").encode()) >> 1
    key = node.const(np.array([node.attr("seed", 0), 0]).astype(np.int32), "key") if keyed and ratio else None
    if not is_float(tensor_of(x)) or not 0 < ratio < 1:
        key = None
        y = x
    else:
        y = node.build(nn.Dropout(x, key, rate=ratio, stream=stream if keyed else None))
    return [y, _mask(node, key, ratio, stream) if node.wanted(1) else None]


def _is_training(node: Node) -> bool:
    if node.version < 12 or node.input(2) is None:
        return False
    mode = node.constant(2)
    if mode is None:
        raise node.unsupported("dropout of which only a call tells whether it trains")
    return bool(mode.any())


def _mask(node: Node, key: Value | None, ratio: float, stream: int) -> Value:
    """Where elements stay: all of them without a key."""
    x = tensor_of(node.operand(0))
    if not x.is_static:
        raise node.unsupported("the mask of a tensor of unknown size")
    if key is None:
        mask = node.const(np.broadcast_to(np.True_, x.shape), "mask")
    else:
        uniform = nn.RandomUniform(key, results=[TensorType(x.shape, f32)], stream=stream)
        limit = node.const(np.float32(ratio), "rate")
        mask = node.build(nn.Compare(node.build(uniform, "random"), limit, kind="ge"), "mask")
    return node.cast(mask, x.element) if node.version < 10 else mask
