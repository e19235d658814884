"""Rules for the layers of networks: matrix products, batch normalisation, softmax, activations of layers."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
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
    a, b, c = node.operand(0), node.operand(1), node.input(2)
    element = tensor_of(a).element
    if tensor_of(a).rank != 2 or tensor_of(b).rank != 2:
        raise node.malformed(f"A and B must be matrices, got {tensor_of(a)} and {tensor_of(b)}")
    if node.attr("transA", 0):
        a = node.build(nn.Transpose(a, perm=[1, 0]), "a_transposed")
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    if alpha != 1:
        # Where A is an activation, B is a weight that can be scaled at import.
        if node.constant(b) is not None:
            b = node.build(nn.Mul(b, node.const(alpha, "alpha", element)), "scaled")
        else:
            a = node.build(nn.Mul(a, node.const(alpha, "alpha", element)), "scaled")
    if c is not None and beta == 0:
        c = None
    if c is not None and beta != 1:
        c = node.build(nn.Mul(c, node.const(beta, "beta", element)), "bias")
    if node.attr("transB", 0):
        columns = tensor_of(b).shape[0]
        if c is None:
            return node.build(nn.Linear(a, b))
        row = _as_row(node, c, columns)
        if row is not None:
            return node.build(nn.Linear(a, b, row))
        b = node.build(nn.Transpose(b, perm=[1, 0]), "b_transposed")
    if c is None:
        return node.build(nn.Matmul(a, b))
    product = node.build(nn.Matmul(a, b), "product")
    return node.build(nn.Add(product, c))


def _as_row(node: Node, c: Value, columns: int) -> Value | None:
    """C as a bias of `columns` elements, None if its rows differ or one number serves all columns."""
    shape = tensor_of(c).shape
    if columns == DYNAMIC or not shape or shape[-1] != columns or any(d != 1 for d in shape[:-1]):
        return None
    return node.reshape(c, [columns], "bias")


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
    x = node.operand(0)
    parameters = [node.cast(node.operand(i), tensor_of(x).element, f"parameter{i}") for i in range(1, 5)]
    if tensor_of(x).rank == 1:  # one number a channel: as an image without height
        row = node.reshape(x, [1, tensor_of(x).shape[0]], "row")
        return [node.reshape(node.build(nn.BatchNorm(row, *parameters, epsilon=node.attr("epsilon", 1e-5)), "norm"),
                             tensor_of(x).shape)]  # fmt: skip
    return [node.build(nn.BatchNorm(x, *parameters, epsilon=node.attr("epsilon", 1e-5)))]


def _per_activation(node: Node) -> Value:
    """`spatial = 0`: statistics for every element of a sample."""
    x, scale, shift, mean, variance = (node.operand(i) for i in range(5))
    epsilon = node.const(node.attr("epsilon", 1e-5), "epsilon", x.type)
    deviation = node.build(nn.Sqrt(node.build(nn.Add(variance, epsilon), "variance")), "deviation")
    factor = node.build(nn.Div(scale, deviation), "factor")
    centred = node.build(nn.Sub(x, mean), "centred")
    return node.build(nn.Add(node.build(nn.Mul(centred, factor), "scaled"), shift))


def _training(node: Node) -> list[Value | None]:
    """Statistics of the batch itself, and the running ones moved towards them (population variance)."""
    x, rank = node.operand(0), node.type(0).rank
    axes = [d for d in range(rank) if d != 1]
    mean = node.build(nn.Reduce(x, kind="mean", axes=axes, keepdims=False), "batch_mean")
    wide = [1, tensor_of(mean).shape[0], *[1] * (rank - 2)]
    centred = node.build(nn.Sub(x, node.reshape(mean, wide, "mean_wide")), "centred")
    square = node.build(nn.Mul(centred, centred), "square")
    variance = node.build(nn.Reduce(square, kind="mean", axes=axes, keepdims=False), "batch_variance")
    parameters = [node.cast(node.operand(i), tensor_of(x).element, f"parameter{i}") for i in (1, 2)]
    y = node.build(nn.BatchNorm(x, *parameters, mean, variance, epsilon=node.attr("epsilon", 1e-5)))
    results: list[Value | None] = [y]
    momentum = node.attr("momentum", 0.9)
    for output, (running, batch) in enumerate([(3, mean), (4, variance)], 1):
        if not node.wanted(output):
            results.append(None)
            continue
        old, new = node.operand(running), node.cast(batch, node.type(running).element, f"batch{output}")
        kept = node.build(nn.Mul(old, node.const(momentum, "momentum", old.type)), "kept", output=output)
        moved = node.build(nn.Mul(new, node.const(1 - momentum, "rest", old.type)), "moved", output=output)
        results.append(node.build(nn.Add(kept, moved), output=output))
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
    rows = int(np.prod(shape[:axis], dtype=np.int64))
    flat = node.reshape(x, [rows, int(np.prod(shape[axis:], dtype=np.int64))], "flat")
    return node.reshape(node.build(op(flat, axis=1), "softmax"), shape)


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
    mask = np.broadcast_to(np.True_, tensor_of(x).shape)
    dtype = tensor_of(x).element if node.version < 10 else None
    value = node.graph.folder.constant_value(mask, node.outputs[1], node.location)
    return [x, value if dtype is None else node.cast(value, dtype, "mask")]
