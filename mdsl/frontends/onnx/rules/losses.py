"""Rules for losses. One that `nn.cross_entropy` does not mean stays what the operator's schema makes of it."""

from __future__ import annotations

from mdsl.dialects import nn
from mdsl.frontends.onnx.registry import Node, converts
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import DYNAMIC

_CLASSES = 1
"""The dimension of the classes."""


@converts("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(node: Node) -> list[Value | None] | None:
    scores = node.operand(0)
    loss = _cross_entropy(node, scores)
    if loss is None:
        return None
    wants_logs = node.wanted(1)
    return [loss, node.build(nn.LogSoftmax(scores, axis=_CLASSES), "log_prob") if wants_logs else None]


@converts("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(node: Node) -> Value | None:
    """Of log_softmax it is the cross entropy of what that is of."""
    softmax = node.operand(0).owner
    if not isinstance(softmax, nn.LogSoftmax) or softmax.attr("axis") % tensor_of(softmax.x).rank != _CLASSES:
        return None
    return _cross_entropy(node, softmax.x)


def _cross_entropy(node: Node, scores: Value) -> Value | None:
    """None where classes have weights, or sizes are open."""
    labels, shares = node.operand(1), node.input(2)
    if shares is not None and node.graph.folder.weights is not None:
        node.graph.folder.weights.discard(shares)  # how much classes count is not learnt
    if shares is not None or DYNAMIC in (*tensor_of(scores).shape, *tensor_of(labels).shape):
        return None
    ignored, reduction = node.attr("ignore_index", None), node.attr("reduction", "mean")
    return node.build(
        nn.CrossEntropy(scores, labels, axis=_CLASSES, ignore_index=ignored, reduction=reduction), "loss"
    )
