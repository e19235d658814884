"""nn, training: losses, normalisation by the batch's own statistics, sums over processes, random numbers, dropout.

All but the sums and the random numbers are formulas of other nn ops, which pass `decompose` puts in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from mdsl.dialects.nn.base import (
    INDEX_TENSOR,
    NnOp,
    PerChannel,
    axis_in,
    dims,
    require_vector,
    same_element,
)
from mdsl.ir.attributes import Attribute
from mdsl.ir.core import Value
from mdsl.ir.declare import (
    BOOLEAN,
    FLOAT,
    FLOAT_TENSOR,
    INT,
    POSITIVE,
    Constraint,
    array_of,
    attr,
    one_of,
    operand,
    result,
)
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, f32, i32, shapes_agree

KEY_TYPE, PART_KEY_TYPE = TensorType((2,), i32), TensorType((3,), i32)
KEY = Constraint(
    "a tensor<2xi32>, the seed and the number of the step, or a tensor<3xi32>, with that of a part",
    lambda t: t in (KEY_TYPE, PART_KEY_TYPE),
)
FLOAT32_TENSOR = Constraint("a tensor of f32", lambda t: isinstance(t, TensorType) and t.element == f32)


class Composite(NnOp):
    """Base of ops that are formulas of simpler nn ops (`passes/nn/decompose/`)."""


# Losses ---------------------------------------------------------------------------------------------------


class Loss(Composite):
    """Base of losses: one number a sample or element, and what is made of them."""

    reduction = attr(one_of("mean", "sum", "none"), default="mean")

    def reduced(self, type: TensorType) -> Sequence[Type]:
        """The result's type, where `type` is that of the losses."""
        return [type if self.attr("reduction") == "none" else TensorType((), type.element)]


class CrossEntropy(Loss):
    """The cross entropy of softmax(logits) and the classes in `labels`: -log_softmax(logits)[label].

    logits have the classes along `axis`, labels the shape of logits without it. Where a label is `ignore_index` the
    loss is 0, and the mean does not count it; a label that is no class gives 0, too. `smoothing` s takes the share s
    of the weight of each label and spreads it evenly over all classes (Szegedy et al.: Rethinking the Inception
    Architecture, 2016). With `weights`, one a class, each class's term counts as much, and the mean is over the weights of the
    labels that count (PyTorch's `weight`).
    """

    name = "nn.cross_entropy"
    logits = operand(FLOAT_TENSOR)
    labels = operand(INDEX_TENSOR)
    axis = attr(INT, default=-1)
    ignore_index = attr(INT, optional=True)
    smoothing = attr(FLOAT, default=0.0)
    weights = attr(array_of(FLOAT, "numbers"), optional=True, doc="how much each class counts")
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        logits, labels = tensor_of(self.logits), tensor_of(self.labels)
        axis = axis_in(self, self.attr("axis"), logits.rank)
        wanted = logits.shape[:axis] + logits.shape[axis + 1 :]
        if not shapes_agree(labels.shape, wanted):
            raise self.error(f"labels must have the shape {dims(wanted)}, got {labels}")
        if not 0 <= self.attr("smoothing") <= 1:
            raise self.error(f"smoothing must be 0 to 1, got {self.attr('smoothing')}")
        weights = self.attr("weights")
        if weights is not None and len(weights) != logits.shape[axis]:
            raise self.error(f"{len(weights)} weights do not fit the classes in dimension {axis} of {logits}")
        if weights is not None and not all(isfinite(w) and w >= 0 for w in weights):
            raise self.error(f"weights must be finite numbers from 0 on, got {list(weights)}")
        return self.reduced(TensorType(labels.shape, logits.element))


class PairLoss(Loss):
    """Base of losses of two tensors of one shape, element by element."""

    x = operand(FLOAT_TENSOR)
    target = operand(FLOAT_TENSOR)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        x, target = tensor_of(self.x), tensor_of(self.target)
        same_element(self, *self.operands)
        if not shapes_agree(x.shape, target.shape):
            raise self.error(f"x and target must have one shape, got {x} and {target}")
        return self.reduced(x)


class Mse(PairLoss):
    """The squared error, (x - target)^2."""

    name = "nn.mse"


class Bce(PairLoss):
    """The binary cross entropy of sigmoid(x) and probabilities: max(x, 0) - x * target + log(1 + exp(-|x|)).

    x are logits: of those nothing overflows, and no digits are lost where a probability is near 0 or 1.
    """

    name = "nn.bce"


# Normalisation --------------------------------------------------------------------------------------------


class BatchNormTrain(Composite, PerChannel):
    """Batch normalisation with the statistics of the batch, and the running ones moved towards them.

    y = (x - mean) / sqrt(variance + epsilon) * scale + shift with mean and (biased) variance of each channel over the
    batch; new_mean = momentum * running_mean + (1 - momentum) * mean, and so new_variance, with `unbiased` of the
    variance times n / (n - 1) for n elements a channel, as PyTorch has it (whose momentum is 1 - this one).
    x: (N, C, ...), or (N, ..., C) with layout = "nhwc"; the others: (C). The running statistics may be of another type.
    With `parts` p the batch is that of p processes, each of which has an equal share of it as x: the statistics are of all.
    Ioffe, Szegedy: Batch Normalization (2015).
    """

    name = "nn.batch_norm_train"
    x = operand(FLOAT_TENSOR)
    scale = operand(FLOAT_TENSOR)
    shift = operand(FLOAT_TENSOR)
    running_mean = operand(FLOAT_TENSOR)
    running_variance = operand(FLOAT_TENSOR)
    epsilon = attr(FLOAT, default=1e-5)
    momentum = attr(FLOAT, default=0.9)
    unbiased = attr(BOOLEAN, default=False)
    parts = attr(POSITIVE, default=1)
    y = result(FLOAT_TENSOR)
    new_mean = result(FLOAT_TENSOR)
    new_variance = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        x = self.with_channels()
        for name in ("scale", "shift", "running_mean", "running_variance"):
            require_vector(self, name, getattr(self, name), x.shape[self.channel_axis])
        same_element(self, self.x, self.scale, self.shift)
        same_element(self, self.running_mean, self.running_variance)
        return [x, self.running_mean.type, self.running_variance.type]


class AllReduce(NnOp):
    """The sum, or the mean, of x over the processes that run the program together, each with its part of a batch; x itself
    where there is one.

    All processes must come to it: it does not belong into a branch that some of them take.
    """

    name = "nn.all_reduce"
    x = operand(FLOAT_TENSOR)
    kind = attr(one_of("sum", "mean"), default="sum")
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        return [self.x.type]


# Random numbers -------------------------------------------------------------------------------------------


class RandomUniform(NnOp):
    """Random numbers from 0 up to but without 1, multiples of 2^-24: those of `key`, the `stream` and an element's place.

    `key` holds the seed and the number of the step. The first word of Threefry-2x32 with 20 rounds, keyed by them, of
    the counter (stream, the element's number in row-major order); its upper 24 bits. No number depends on another, so
    that they are the same on every engine and number of threads. A third number p in the key says that the result is part
    number p, from 0, of a larger tensor that is cut along its first dimension: it has the numbers that this part of the
    whole would have, which is how processes share a batch.
    Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (2011).
    """

    name = "nn.random_uniform"
    key = operand(KEY)
    stream = attr(INT, default=0)
    y = result(FLOAT32_TENSOR)

    def infer(self) -> Sequence[Type]:
        assert self.results, "nn.random_uniform needs its result type"
        return [self.result.type]


class Dropout(Composite):
    """x with each element made 0 with probability `rate`, the others divided by 1 - rate.

    An element stays where `nn.random_uniform` of `key` and `stream` is at least `rate`. Without a key it is x itself: the
    layer as inference has it; `train-mode` gives it one. Two layers of a network need two streams.
    Srivastava et al.: Dropout (2014).
    """

    name = "nn.dropout"
    x = operand(FLOAT_TENSOR)
    key = operand(KEY, optional=True)
    rate = attr(FLOAT, default=0.5)
    stream = attr(INT, default=0)
    y = result(FLOAT_TENSOR)

    def infer(self) -> Sequence[Type]:
        if not 0 <= self.attr("rate") < 1:
            raise self.error(f"rate must be at least 0 and below 1, got {self.attr('rate')}")
        return [self.x.type]

    def fold(self) -> Sequence[Value | Attribute] | None:
        return [self.x] if self.key is None or self.attr("rate") == 0 else None
