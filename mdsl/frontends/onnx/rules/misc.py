"""Rules for operators without kin: cache updates (TensorScatter), Col2Im, determinants."""

from __future__ import annotations

from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.windows import places, windows_of
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64

MAX_DETERMINANT = 4
"""Rows of the largest matrix whose determinant is written out."""


@converts("TensorScatter")
def tensor_scatter(node: Node) -> Value:
    """A key-value cache with new entries from a place of each batch element's own on."""
    cache, update = node.operand(0), node.operand(1)
    node.static(cache, update)
    shape = tensor_of(cache).shape
    axis = node.axis(node.attr("axis", -2), len(shape))
    count = tensor_of(update).shape[axis]
    counter = np.arange(count).reshape([-1 if d == axis else 1 for d in range(len(shape))])
    rows = node.const(counter, "counter")
    if node.input(2) is not None:
        start = node.cast(node.operand(2), i64, "wide_start")
        start = node.reshape(start, (tensor_of(start).size, *[1] * (len(shape) - 1)), "start")
        rows = node.build(nn.Add(rows, start), "rows")
    if node.attr("mode", "linear") == "circular":
        rows = node.build(nn.Mod(rows, node.const(np.int64(shape[axis]), "size")), "places")
    return node.build(nn.Scatter(cache, rows, update, axis=axis))


@converts("Col2Im")
def col_to_im(node: Node) -> Value:
    """The opposite of taking an image's windows apart: each pixel is the sum of what stands for it in windows."""
    x = node.operand(0)
    node.static(x)
    sizes, kernel = node.ints(1, "image_shape"), node.ints(2, "block_shape")
    windows = windows_of(node, kernel, sizes)
    position, inside = places(windows, sizes)
    n, rows, count = tensor_of(x).shape
    elements = prod(kernel)
    if rows % elements or count != len(position):
        raise node.malformed(f"{tensor_of(x)} does not hold windows of {kernel} in an image of {sizes}")
    # For each pixel the columns (element, window) that hold it, filled up with one of zeros behind all others.
    owners: list[list[int]] = [[] for _ in range(prod(sizes))]
    for window, element in np.argwhere(inside):
        owners[position[window, element]].append(int(element * count + window))
    most = max(1, *map(len, owners))
    table = np.array([o + [elements * count] * (most - len(o)) for o in owners], np.int64)
    columns = node.reshape(x, (n, rows // elements, elements * count), "columns")
    padded = node.build(nn.Pad(columns, pads=[0, 0, 0, 0, 0, 1]), "padded")
    seen = node.build(nn.Gather(padded, node.const(table, "places"), axis=2), "seen")
    image = node.build(nn.Reduce(seen, kind="sum", axes=[3], keepdims=False), "pixels")
    return node.reshape(image, (n, rows // elements, *sizes))


@converts("Det")
def determinant(node: Node) -> Value:
    """Laplace's expansion along the first row."""
    x = node.operand(0)
    node.static(x)
    shape = tensor_of(x).shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise node.malformed(f"its input must be square matrices, got {tensor_of(x)}")
    if shape[-1] > MAX_DETERMINANT:
        raise node.unsupported(
            f"matrices of more than {MAX_DETERMINANT} rows are not supported, got {tensor_of(x)}"
        )
    size, rank = shape[-1], len(shape)

    def element(row: int, column: int) -> Value:
        part = nn.Slice(x, starts=[row, column], ends=[row + 1, column + 1], axes=[rank - 2, rank - 1])
        return node.reshape(node.build(part, f"part{row}{column}"), shape[:-2], f"element{row}{column}")

    def expand(row: int, columns: tuple[int, ...]) -> Value:
        total: Value | None = None
        for i, column in enumerate(columns):
            term = element(row, column)
            name = f"minor{row}_{''.join(map(str, columns))}_{i}"
            if row + 1 < size:
                rest = expand(row + 1, columns[:i] + columns[i + 1 :])
                term = node.build(nn.Mul(term, rest), name)
            if total is not None:
                term = node.build(nn.Sub(total, term) if i % 2 else nn.Add(total, term), f"{name}_sum")
            total = term
        assert total is not None
        return total

    return expand(0, tuple(range(size)))
