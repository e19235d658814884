"""Meaning of nn's training ops: losses, normalisation by the batch's statistics, random numbers, dropout."""

from __future__ import annotations

import numpy as np

from mdsl.dialects import nn
from mdsl.ir.core import Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import dtype_of, element_of
from mdsl.reference.nn.numbers import narrow, wide
from mdsl.reference.registry import semantics
from mdsl.support import across

Array = np.ndarray


def _reduced(op: Op, losses: Array, count: Array | int) -> Array:
    reduction = op.attr("reduction")
    if reduction == "none":
        return narrow(op, losses)
    return narrow(op, losses.sum() / (count if reduction == "mean" else 1))


@semantics("nn.cross_entropy")
def cross_entropy(op: nn.CrossEntropy, logits: Array, labels: Array) -> Array:
    axis, smoothing = op.attr("axis"), op.attr("smoothing")
    centred = wide(logits) - wide(logits).max(axis=axis, keepdims=True)
    logarithms = np.moveaxis(centred - np.log(np.exp(centred).sum(axis=axis, keepdims=True)), axis, -1)
    is_class = (labels >= 0) & (labels < logarithms.shape[-1])
    places = np.where(is_class, labels, 0).astype(np.int64)
    picked = np.take_along_axis(logarithms, places[..., None], -1)[..., 0]
    weights = np.array(op.attr("weights") or np.ones(logarithms.shape[-1]), picked.dtype)
    shares = np.where(is_class, weights[places], 0) if op.attr("weights") else np.ones_like(picked)
    losses = -np.where(is_class, picked * shares, 0) * (1 - smoothing)
    losses = losses - smoothing * (weights * logarithms).mean(axis=-1)
    counts = labels != op.attr("ignore_index")
    return _reduced(op, np.where(counts, losses, 0), np.where(counts, shares, 0).sum())


@semantics("nn.mse")
def mse(op: Op, x: Array, target: Array) -> Array:
    return _reduced(op, np.square(wide(x) - wide(target)), x.size)


@semantics("nn.bce")
def bce(op: Op, x: Array, target: Array) -> Array:
    x, target = wide(x), wide(target)
    return _reduced(op, np.maximum(x, 0) - x * target + np.log1p(np.exp(-np.abs(x))), x.size)


@semantics("nn.batch_norm_train")
def batch_norm_train(op: nn.BatchNormTrain, x: Array, *parameters: Array) -> tuple[Array, Array, Array]:
    axis, momentum = op.channel_axis, op.attr("momentum")
    others = tuple(d for d in range(x.ndim) if d != axis)
    column = [-1 if d == axis else 1 for d in range(x.ndim)]
    scale, shift, old_mean, old_variance = map(wide, parameters)
    mean = _among(op, wide(x).mean(axis=others))
    centred = wide(x) - mean.reshape(column)
    variance = _among(op, np.square(centred).mean(axis=others))
    y = centred / np.sqrt(variance + op.attr("epsilon")).reshape(column) * scale.reshape(column)
    count = x.size // mean.size * op.attr("parts")
    spread = variance * count / max(1, count - 1) if op.attr("unbiased") else variance
    found = (
        y + shift.reshape(column),
        momentum * old_mean + (1 - momentum) * mean,
        momentum * old_variance + (1 - momentum) * spread,
    )
    return tuple(_like(v, r) for v, r in zip(found, op.results, strict=True))  # type: ignore[return-value]


def _among(op: nn.BatchNormTrain, statistic: Array) -> Array:
    """The mean over all parts of the batch, of what each has."""
    if op.attr("parts") > 1:
        across.reduce(statistic, "mean")
    return statistic


@semantics("nn.all_reduce")
def all_reduce(op: Op, x: Array) -> Array:
    total = np.array(wide(x))
    across.reduce(total, op.attr("kind"))
    return narrow(op, total)


def _like(array: Array, value: Value) -> Array:
    return array.astype(dtype_of(element_of(value.type)))


# Random numbers -------------------------------------------------------------------------------------------

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""By how many bits the second word is rotated in each round of a group of four, in turn."""

PARITY = 0x1BD11BDA
"""What the third key word has beside the exclusive or of the other two."""


def threefry(key: tuple[int, int], first: Array, second: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds of counters (first, second), which are u32."""
    keys = [np.uint32(key[0]), np.uint32(key[1]), np.uint32(key[0] ^ key[1] ^ PARITY)]
    a, b = first + keys[0], second + keys[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            a = a + b
            b = ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn))) ^ a
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return a, b


@semantics("nn.random_uniform")
def random_uniform(op: Op, key: Array) -> Array:
    type = tensor_of(op.result)
    seed, step, *part = (int(k) & 0xFFFFFFFF for k in key)
    first = type.size * sum(part)
    places = np.arange(first, first + type.size, dtype=np.uint64).astype(np.uint32).reshape(type.shape)
    stream = np.full(type.shape, op.attr("stream") & 0xFFFFFFFF, np.uint32)
    with np.errstate(over="ignore"):
        word, _ = threefry((seed, step), stream, places)
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


@semantics("nn.dropout")
def dropout(op: nn.Dropout, x: Array, key: Array | None = None) -> Array:
    rate = op.attr("rate")
    if key is None or rate == 0:
        return x
    uniform = nn.RandomUniform(op.operands[1], results=[tensor_of(op.result)], stream=op.attr("stream"))
    keeps = random_uniform(uniform, key) >= np.float32(rate)
    return narrow(op, np.where(keeps, wide(x) / (1 - rate), 0))
