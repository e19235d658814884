"""Networks with attention beside the encoder: a sentence embedding (MiniLM-like) and windows of an image (Swin-like)."""

from __future__ import annotations

from math import sqrt

import numpy as np
from onnx import ModelProto, TensorProto

from bench.models.net import Net


def minilm(sequence: int = 128, seed: int = 0, *, layers: int = 6, words: int = 30522) -> ModelProto:
    """BertModel of MiniLM's size with mean pooling, on token ids. Wang et al.: MiniLM (2020)."""
    net, wide, heads = Net(seed), 384, 12
    table, places = net.drawn(words, wide), net.drawn(1, sequence, wide)
    x = net.layer_norm(net.op("Add", net.op("Gather", table, "input_ids"), places), wide)
    for _ in range(layers):
        attended = net.dense(_attention(net, x, sequence, wide, heads), wide, wide)
        x = net.layer_norm(net.op("Add", attended, x), wide)
        fed = net.dense(net.gelu(net.dense(x, wide, 4 * wide)), 4 * wide, wide)
        x = net.layer_norm(net.op("Add", fed, x), wide)
    x = net.op("ReduceMean", x, axes=[1], keepdims=0)
    x = net.op("Div", x, net.op("ReduceL2", x, axes=[-1], keepdims=1))
    return net.models([("input_ids", (1, sequence))], [(x, (1, wide))], TensorProto.INT64)


def _attention(net: Net, x: str, sequence: int, wide: int, heads: int) -> str:
    """Queries, keys and values each from a linear layer."""

    def part() -> str:
        taken = net.reshape(net.dense(x, wide, wide), 1, sequence, heads, wide // heads)
        return net.transpose(taken, 0, 2, 1, 3)

    query, key, value = part(), part(), part()
    scores = net.op("MatMul", query, net.transpose(key, 0, 1, 3, 2))
    scores = net.op("Softmax", net.op("Div", scores, net.number(sqrt(wide // heads))), axis=-1)
    return net.reshape(net.transpose(net.op("MatMul", scores, value), 0, 2, 1, 3), 1, sequence, wide)


def swin(
    size: int = 224, seed: int = 0, *, depths: tuple[int, ...] = (2, 2, 2, 2), window: int = 7
) -> ModelProto:
    """Swin-T, with fewer blocks in its third stage, as torchvision's: every second block attends within windows that
    are shifted by half. Liu et al.: Swin Transformer (2021)."""
    net, wide, side = Net(seed), 96, size // 4
    x = net.layer_norm(net.transpose(net.conv("input", 3, wide, 4, 4, pad=0), 0, 2, 3, 1), wide)
    for stage, depth in enumerate(depths):
        if stage:
            x = _merged(net, x, wide)
            wide, side = 2 * wide, side // 2
        for block in range(depth):
            shift = window // 2 if block % 2 and side > window else 0
            y = _window_attention(net, net.layer_norm(x, wide), side, wide, window, shift)
            x = net.op("Add", x, y)
            y = net.gelu(net.dense(net.layer_norm(x, wide), wide, 4 * wide))
            x = net.op("Add", x, net.dense(y, 4 * wide, wide))
    x = net.transpose(net.layer_norm(x, wide), 0, 3, 1, 2)
    x = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    x = net.op("Gemm", x, net.drawn(1000, wide, deviation=sqrt(1 / wide)), net.drawn(1000), transB=1)
    return net.model(("input", (1, 3, size, size)), (x, (1, 1000)))


def _merged(net: Net, x: str, wide: int) -> str:
    """Four neighbours become one of twice the width."""
    end = 2**63 - 1
    rows = [net.slice(x, 1, r, end, 2) for r in (0, 1)]
    parts = [net.slice(rows[r], 2, c, end, 2) for c in (0, 1) for r in (0, 1)]
    merged = net.layer_norm(net.op("Concat", *parts, axis=-1), 4 * wide)
    return net.dense(merged, 4 * wide, 2 * wide, bias=False)


def _rolled(net: Net, x: str, by: int) -> str:
    """torch.roll of rows and columns, to the left for a positive number."""
    for axis in (1, 2):
        x = net.op("Concat", net.slice(x, axis, by, 2**63 - 1), net.slice(x, axis, 0, by), axis=axis)
    return x


def _window_attention(net: Net, x: str, side: int, wide: int, window: int, shift: int) -> str:
    heads, across, area = wide // 32, side // window, window**2
    if shift:
        x = _rolled(net, x, shift)
    x = net.transpose(net.reshape(x, 1, across, window, across, window, wide), 0, 1, 3, 2, 4, 5)
    packed = net.dense(net.reshape(x, across**2, area, wide), wide, 3 * wide)
    packed = net.transpose(net.reshape(packed, across**2, area, 3, heads, 32), 2, 0, 3, 1, 4)
    query, key, value = (net.op("Gather", packed, _index(net, i), axis=0) for i in range(3))
    query = net.op("Mul", query, net.number(32**-0.5))
    scores = net.op("MatMul", query, net.transpose(key, 0, 1, 3, 2))
    scores = net.op("Add", scores, net.drawn(1, heads, area, area))  # relative positions
    if shift:
        mask = net.weight(f"weight_{len(net.weights)}", _mask(side, window, shift))
        scores = net.op("Add", net.reshape(scores, 1, across**2, heads, area, area), mask)
        scores = net.reshape(scores, across**2, heads, area, area)
    x = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    x = net.dense(net.reshape(net.transpose(x, 0, 2, 1, 3), across**2, area, wide), wide, wide)
    x = net.transpose(net.reshape(x, 1, across, across, window, window, wide), 0, 1, 3, 2, 4, 5)
    x = net.reshape(x, 1, side, side, wide)
    return _rolled(net, x, -shift) if shift else x


def _index(net: Net, number: int) -> str:
    return net.op("Squeeze", net.ints(number))


def _mask(side: int, window: int, shift: int) -> np.ndarray:
    """-100 between pixels that the roll made neighbours: 1 x windows x 1 x area x area."""
    regions = np.zeros((side, side), np.int64)
    bounds = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
    for number, (rows, columns) in enumerate((r, c) for r in bounds for c in bounds):
        regions[rows, columns] = number
    across = side // window
    cut = regions.reshape(across, window, across, window).transpose(0, 2, 1, 3).reshape(across**2, window**2)
    return np.where(cut[:, None] == cut[:, :, None], 0.0, -100.0)[None, :, None]
