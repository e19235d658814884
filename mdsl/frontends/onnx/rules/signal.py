"""Rules for Fourier transforms, as products with matrices known at import."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.frontends.onnx.windows import Windows, convolve
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of

MAX_MATRIX = 1 << 24
"""Elements of the largest matrix of a transform."""


def _matrix(
    node: Node, transform: Callable[[np.ndarray], np.ndarray], size: int, parts: int, length: int
) -> np.ndarray:
    """(size, parts, new size, new parts): what `transform` makes of each unit vector. `parts` is 2 for complex
    numbers (real, imaginary), else 1."""
    if size * parts * length * 2 > MAX_MATRIX:
        raise node.unsupported(
            f"a Fourier transform of {size} elements is too large to be a product of matrices"
        )
    units = np.eye(size * parts).reshape(size * parts, size, parts)
    numbers = units[..., 0] + (1j * units[..., 1] if parts == 2 else 0)
    found = transform(numbers)
    split = np.stack([np.real(found), np.imag(found)], -1) if np.iscomplexobj(found) else found[..., None]
    return split.reshape(size, parts, *split.shape[1:])


@converts("DFT")
def dft(node: Node) -> Value:
    """Along one axis; the last dimension has the real and the imaginary part, or only the real one."""
    x, type = node.operand(0), node.type()
    node.static(x)
    axis = node.attr("axis", 1) if node.version < 20 else -2
    if node.version >= 20 and node.input(2) is not None:
        (axis,) = node.ints(2, "axis")
    axis = node.axis(axis, type.rank)
    size, parts = type.shape[axis], type.shape[-1]
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    length = 2 * (size - 1) if inverse and onesided else size
    if node.input(1) is not None:
        (length,) = node.ints(1, "dft_length")

    def transform(numbers: np.ndarray) -> np.ndarray:
        if inverse:
            return np.fft.irfft(numbers, length) if onesided else np.fft.ifft(numbers, length)
        found = np.fft.fft(numbers, length)
        return found[:, : length // 2 + 1] if onesided else found

    matrix = _matrix(node, transform, size, parts, length)
    new, new_parts = matrix.shape[2:]
    factors = node.const(matrix.reshape(size * parts, new * new_parts), "waves", type.element)
    rest = [d for d in range(type.rank - 1) if d != axis]
    order = [*rest, axis, type.rank - 1]
    transposed = x if order == sorted(order) else node.build(nn.Transpose(x, perm=order), "transposed")
    rows = node.reshape(transposed, (prod(type.shape[d] for d in rest), size * parts), "rows")
    found = node.build(nn.Matmul(rows, factors), "frequencies")
    split = node.reshape(found, (*(type.shape[d] for d in rest), new, new_parts), "spectrum")
    if order == sorted(order):
        return split
    return node.build(nn.Transpose(split, perm=[order.index(d) for d in range(type.rank)]))


@converts("STFT")
def stft(node: Node) -> Value:
    """A convolution whose filters are the windowed waves and whose stride is the distance between frames."""
    x, window = node.operand(0), node.input(2)
    node.static(x)
    batch, samples = tensor_of(x).shape[:2]
    parts = tensor_of(x).shape[2] if tensor_of(x).rank == 3 else 1
    (step,) = node.ints(1, "frame_step")
    if node.input(3) is not None:
        (length,) = node.ints(3, "frame_length")
    elif window is not None:
        (length,) = tensor_of(window).shape
    else:
        raise node.malformed("neither frame_length nor window is given")
    if not 0 < length <= samples or step < 1:
        raise node.malformed(f"frames of {length} samples, {step} apart, do not fit {tensor_of(x)}")
    bins = length // 2 + 1 if node.attr("onesided", 1) else length
    matrix = _matrix(node, lambda v: np.fft.fft(v, length)[:, :bins], length, parts, length)
    filters = node.const(matrix.reshape(length, parts, bins * 2).transpose(2, 1, 0), "waves", x.type)
    if window is not None:
        filters = node.build(nn.Mul(filters, window), "windowed_waves")
    channels = node.reshape(x, (batch, samples, parts), "samples")
    if parts == 2:
        signal = node.build(nn.Transpose(channels, perm=[0, 2, 1]), "signal")
    else:
        signal = node.reshape(channels, (batch, 1, samples), "signal")
    found = convolve(node, signal, filters, None, Windows([length], [step], [1], [0], [0]), 1, "frequencies")
    frames = tensor_of(found).shape[2]
    transposed = node.build(nn.Transpose(found, perm=[0, 2, 1]), "frames")
    return node.reshape(transposed, (batch, frames, bins, 2))
