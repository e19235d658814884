"""loss: how far a network is from what it should answer becomes its first result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.errors import nearest
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, i64, is_float, wide
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks

LOSSES = ("cross_entropy", "mse", "bce", "own")

REDUCTIONS = ("mean", "sum", "none")

_LOGITS_OF: dict[str, tuple[type[Op], ...]] = {
    "cross_entropy": (nn.Softmax, nn.LogSoftmax),
    "bce": (nn.Sigmoid,),
}
"""The ops at a network's end that the loss contains: it is of what they are given."""


@dataclass(frozen=True)
class Loss(Pass):
    """Make the loss of a network's result the first result.

    Before:

        func.func @main(%x: tensor<4x8xf32>, %w: tensor<3x8xf32>) -> tensor<4x3xf32> {
          %logits = nn.linear %x, %w : (tensor<4x8xf32>, tensor<3x8xf32>) -> tensor<4x3xf32>
          %y = nn.softmax %logits : (tensor<4x3xf32>) -> tensor<4x3xf32>
          return %y : tensor<4x3xf32>

    After:

        func.func @main(%x: tensor<4x8xf32>, %w: tensor<3x8xf32>, %labels: tensor<4xi64>) -> (tensor<f32>, tensor<4x3xf32>) {
          %logits = nn.linear %x, %w : (tensor<4x8xf32>, tensor<3x8xf32>) -> tensor<4x3xf32>
          %y = nn.softmax %logits : (tensor<4x3xf32>) -> tensor<4x3xf32>
          %loss = nn.cross_entropy %logits, %labels : (tensor<4x3xf32>, tensor<4xi64>) -> tensor<f32>
          return %loss, %y : tensor<f32>, tensor<4x3xf32>

    What should be answered is a new argument: the numbers of classes, `labels`, of "cross_entropy", along `axis`; a `target` like the result of
    "mse" and "bce". A network that ends in softmax (or, for "bce", sigmoid) is compared before it, where no digits
    are lost. The loss of 16-bit answers is computed in f32. A network that computes its loss itself, of answers that are its inputs, has
    "own": the mean of its result.
    """

    name: ClassVar[str] = "loss"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "function"

    kind: str = option("cross_entropy", "cross_entropy, mse, bce, or own: the result is the loss")
    result: int = option(0, "which result is compared", least=0)
    smoothing: float = option(
        0.0, "share of a label's weight that all classes get, of cross_entropy", least=0, most=1
    )
    axis: int = option(
        -1, "the dimension of the classes, of cross_entropy; that of a softmax at the end, if there is one"
    )
    ignore_index: str = option("", "a label that counts nothing, of cross_entropy (PyTorch's is -100)")
    weights: tuple[float, ...] = option((), "how much each class counts, of cross_entropy", least=0)
    reduction: str = option("mean", "mean, sum, or none for the loss of each sample or element")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in LOSSES:
            raise ValueError(
                f"unknown loss '{self.kind}'{nearest(self.kind, list(LOSSES))} (losses: {', '.join(LOSSES)})"
            )
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"option 'reduction' must be {', '.join(REDUCTIONS)}, got '{self.reduction}'")

        if self.ignore_index and not re.fullmatch(r"-?\d{1,18}", self.ignore_index):
            raise ValueError(f"option 'ignore_index' must be an integer, got '{self.ignore_index}'")

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            self._add(function)

    def _add(self, function: FuncOp) -> None:
        results = function.body.terminator.operands
        if self.result >= len(results):
            raise function.error(f"@{function.symbol} has no result {self.result} to compare")
        answer = results[self.result]
        if not isinstance(answer.type, TensorType):
            raise function.error(f"@{function.symbol}: result {self.result} is no tensor")
        compared, axis = self._logits(answer)
        element = tensor_of(compared).element
        if wide(element) != element:
            wider = nn.Cast(compared, results=[tensor_of(compared).with_element(wide(element))])
            compared = Builder.before(function.body.terminator).value(
                wider, f"{compared.name}_{wide(element)}"
            )
        op = self._compare(function, compared, axis)
        loss = Builder.before(function.body.terminator).value(op, "loss")
        remarks.applied(op, f"is the loss of {remarks.value_name(compared)}")
        function.insert_result(0, loss)

    def _own(self, compared: Value) -> Op:
        """The mean or the sum of what the network computes; without reduction that of each sample."""
        rank = tensor_of(compared).rank
        axes = list(range(1 if self.reduction == "none" else 0, rank))
        if not axes:
            return nn.Reshape(compared, results=[tensor_of(compared)])
        kind = "sum" if self.reduction == "sum" else "mean"
        return nn.Reduce(compared, kind=kind, axes=axes, keepdims=False)

    def _compare(self, function: FuncOp, compared: Value, axis: int) -> Op:
        type = tensor_of(compared)
        if self.kind == "own":
            if not is_float(type):
                raise function.error(f"@{function.symbol}: its loss is {type}, and must be floats")
            return self._own(compared)
        if self.kind != "cross_entropy":
            target = function.add_argument(type, "target")
            kind = nn.Mse if self.kind == "mse" else nn.Bce
            return kind(compared, target, reduction=self.reduction)
        if not type.rank:
            raise function.error(f"@{function.symbol}: a result without dimensions has no classes")
        # That of the option, too, where a softmax has the last word: it is a mistake all the same.
        for number in (self.axis, axis):
            if not -type.rank <= number < type.rank:
                raise function.error(
                    f"@{function.symbol}: {remarks.value_name(compared)} is {type}: it has no dimension {number} with classes"
                )
        if self.weights and len(self.weights) != type.shape[axis]:
            raise function.error(
                f"@{function.symbol}: {remarks.value_name(compared)} is {type}: {len(self.weights)} weights do not fit its {type.shape[axis]} classes"
            )
        rest = type.shape[: axis % type.rank] + type.shape[axis % type.rank + 1 :]
        labels = function.add_argument(TensorType(rest, i64), "labels")
        return nn.CrossEntropy(
            compared,
            labels,
            axis=axis % type.rank,
            ignore_index=int(self.ignore_index) if self.ignore_index else None,
            smoothing=self.smoothing or None,
            weights=list(self.weights) or None,
            reduction=self.reduction,
        )

    def _logits(self, answer: Value) -> tuple[Value, int]:
        """What is compared, and along which axis its classes lie."""
        owner = answer.owner
        if isinstance(owner, Op) and isinstance(owner, _LOGITS_OF.get(self.kind, ())):
            return owner.operands[0], owner.attr("axis") if self.kind == "cross_entropy" else -1
        return answer, self.axis
