"""Rules for operators without kin: cache updates (TensorScatter), Col2Im, determinants."""

from __future__ import annotations

from functools import reduce
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.building import along
from mdsl.frontends.onnx.expressions import Expr
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
    rows = node.expr(node.const(along(count, axis, len(shape))[(None,) * axis], "counter"))
    if node.input(2) is not None:
        start = node.expr(2).cast(i64)
        rows = rows + start.reshape((start.type.size, *[1] * (len(shape) - 1)))
    if node.attr("mode", "linear") == "circular":
        rows = rows.of(nn.Mod, shape[axis])
    return node.build(nn.Scatter(cache, rows.value, update, axis=axis))


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
    columns = node.expr(x).reshape((n, rows // elements, elements * count))
    padded = columns.of(nn.Pad, pads=[0, 0, 0, 0, 0, 1])
    image = padded.of(nn.Gather, node.const(table, "places"), axis=2).reduce("sum", [3], keepdims=False)
    return image.reshape((n, rows // elements, *sizes)).value


@converts("Det")
def determinant(node: Node) -> Value:
    """Laplace's expansion along the first row."""
    x = node.expr(0)
    node.static(x.value)
    *batch, size, columns = (0, 0, *x.shape)[-max(x.type.rank, 2) :]
    if x.type.rank < 2 or size != columns:
        raise node.malformed(f"its input must be square matrices, got {x.type}")
    if size > MAX_DETERMINANT:
        raise node.unsupported(
            f"matrices of more than {MAX_DETERMINANT} rows are not supported, got {x.type}"
        )

    def element(row: int, column: int) -> Expr:
        return x.slice(-2, row, row + 1).slice(-1, column, column + 1).reshape(batch)

    def expand(row: int, columns: tuple[int, ...]) -> Expr:
        if row == size - 1:
            return element(row, *columns)
        terms = [
            element(row, column) * expand(row + 1, columns[:i] + columns[i + 1 :])
            for i, column in enumerate(columns)
        ]
        return reduce(
            lambda total, i: total - terms[i] if i % 2 else total + terms[i], range(1, len(terms)), terms[0]
        )

    return expand(0, tuple(range(size))).value
