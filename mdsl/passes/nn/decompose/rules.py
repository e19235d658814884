"""decompose: what each composite op is, in simpler nn ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from mdsl.dialects import nn
from mdsl.dialects.nn.base import axis_in
from mdsl.dialects.nn.training import Loss
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC, TensorType, f32, wide
from mdsl.rewriting.terms import Term, Terms

Rule = Callable[[Terms, Any], "Term | Sequence[Term]"]

RULES: dict[str, Rule] = {}
"""How each composite op is computed: `f(terms, op)` builds the ops and returns a term for each result."""


def composed(name: str) -> Callable[[Rule], Rule]:
    """Registers the rule for the op `name`."""

    def register(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return register


def known_shape(op: nn.CrossEntropy | nn.BatchNormTrain | nn.Dropout, value: Value) -> tuple[int, ...]:
    """The shape of an operand whose sizes must be known. Raises VerifyError."""
    type = tensor_of(value)
    if DYNAMIC in type.shape:
        raise op.error(f"{type} has a dimension of unknown size; --bind gives it one")
    return type.shape


# Losses ---------------------------------------------------------------------------------------------------


def finished(op: Loss, losses: Term, count: Term | None = None) -> Term:
    """The losses of elements as the result: their mean (over `count`, if not all count), their sum, or they themselves."""
    reduction, axes = op.attr("reduction"), range(losses.type.rank)
    if reduction == "none" or not losses.type.rank:
        total = losses
    elif reduction == "sum" or count is not None:
        total = losses.reduce("sum", axes, keepdims=False)
    else:
        total = losses.reduce("mean", axes, keepdims=False)
    if reduction == "mean" and count is not None:
        total = total / count
    return total.cast(tensor_of(op.result).element)


@composed("nn.cross_entropy")
def cross_entropy(t: Terms, op: nn.CrossEntropy) -> Term:
    """The logarithm of a label's probability is picked by a mask: a sum along the classes, which vectorizes."""
    shape = known_shape(op, op.logits)
    axis = axis_in(op, op.attr("axis"), len(shape))
    logits, labels = t(op.logits), t(op.labels)
    logits = logits.cast(wide(logits.type.element))
    logarithms = logits.of(nn.LogSoftmax, axis=axis)
    column = labels.reshape((*shape[:axis], 1, *shape[axis + 1 :]))
    classes = np.arange(shape[axis]).reshape([-1, *[1] * (len(shape) - axis - 1)])
    is_label = column.is_("eq", t.constant(classes, labels.type.element, "classes"))
    weights = op.attr("weights")
    shares = None
    if weights is not None:
        column = t.constant(np.reshape(weights, classes.shape), logarithms.type.element, "weights")
        shares = (is_label.cast(logarithms.type.element) * column).reduce("sum", [axis], keepdims=False)
        logarithms = logarithms * column
    losses = -logarithms.where(is_label, 0).reduce("sum", [axis], keepdims=False)
    smoothing = op.attr("smoothing")
    if smoothing:
        spread = -logarithms.reduce("mean", [axis], keepdims=False)
        losses = losses * (1 - smoothing) + spread * smoothing
    ignored = op.attr("ignore_index")
    if ignored is not None:
        counts = labels.is_("ne", ignored)
        losses = losses.where(counts, 0)
        shares = counts.cast(logits.type.element) if shares is None else shares.where(counts, 0)
    if shares is None:
        return finished(op, losses)
    return finished(op, losses, shares.reduce("sum", range(labels.type.rank), keepdims=False))


@composed("nn.mse")
def mse(t: Terms, op: nn.Mse) -> Term:
    kind = wide(tensor_of(op.x).element)
    error = t(op.x).cast(kind) - t(op.target).cast(kind)
    return finished(op, error * error)


@composed("nn.bce")
def bce(t: Terms, op: nn.Bce) -> Term:
    """A maximum, not a relu: at 0, where networks begin, its slope is a half, which makes that of the whole right."""
    kind = wide(tensor_of(op.x).element)
    x, target = t(op.x).cast(kind), t(op.target).cast(kind)
    rest = (-x.of(nn.Abs)).of(nn.Exp).of(nn.Log1p)
    return finished(op, x.of(nn.Maximum, 0) - x * target + rest)


# Normalisation --------------------------------------------------------------------------------------------


@composed("nn.batch_norm_train")
def batch_norm_train(t: Terms, op: nn.BatchNormTrain) -> list[Term]:
    """The variance is the mean of squares of what is centred: the difference of two means would lose digits."""
    shape, axis = known_shape(op, op.x), op.channel_axis
    element = tensor_of(op.x).element
    kind, momentum = wide(element), op.attr("momentum")
    others = [d for d in range(len(shape)) if d != axis]
    column = [s if d == axis else 1 for d, s in enumerate(shape)]
    x, scale, shift = (t(v).cast(kind) for v in (op.x, op.scale, op.shift))
    running = [t(v) for v in (op.running_mean, op.running_variance)]

    def mean_of(numbers: Term) -> Term:
        mean = numbers.reduce("mean", others)
        return mean.of(nn.AllReduce, kind="mean") if op.attr("parts") > 1 else mean

    mean = mean_of(x)
    centred = x - mean
    variance = mean_of(centred * centred)
    wide_scale = scale.reshape(column)
    root = (variance + op.attr("epsilon")).of(nn.Sqrt)
    factor = wide_scale / root
    y = centred * factor + shift.reshape(column)
    t.keep(x=x, scale=scale, shift=shift, mean=mean, centred=centred, root=root, factor=factor, result=y)
    count = prod(shape[d] for d in others) * op.attr("parts")
    spread = variance * (count / max(1, count - 1)) if op.attr("unbiased") else variance
    return [y.cast(element), *(_moved(*pair, momentum) for pair in zip(running, (mean, spread), strict=True))]


def _moved(running: Term, new: Term, momentum: float) -> Term:
    """A running statistic after it has seen that of a batch."""
    type = running.type
    old, seen = running.cast(wide(type.element)), new.cast(wide(type.element))
    return (old * momentum + seen.reshape(type.shape) * (1 - momentum)).cast(type.element)


# Dropout --------------------------------------------------------------------------------------------------


@composed("nn.dropout")
def dropout(t: Terms, op: nn.Dropout) -> Term:
    rate, x = op.attr("rate"), t(op.x)
    if op.key is None or rate == 0:
        return x
    type = TensorType(known_shape(op, op.x), f32)
    random = t.build(nn.RandomUniform(op.key, results=[type], stream=op.attr("stream")), "random")
    return (x * (1 / (1 - rate))).where(random.is_("ge", rate), 0)
