"""train-mode: normalisation by the batch's own statistics, and dropout at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.dialects.nn.training import KEY_TYPE, PART_KEY_TYPE
from mdsl.ir.core import BlockArgument, Builder, Op, Value
from mdsl.ir.types import TensorType
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks


@dataclass(frozen=True)
class TrainMode(Pass):
    """Make a network as training needs it of one for inference.

    Before:

        func.func @main(%x: tensor<4x8xf32>, ..., %mean: tensor<8xf32>, %variance: tensor<8xf32>) -> tensor<4x8xf32> {
          %normed = nn.batch_norm %x, %scale, %shift, %mean, %variance : (...) -> tensor<4x8xf32>
          %y = nn.dropout %normed {rate = 0.5} : (tensor<4x8xf32>) -> tensor<4x8xf32>
          return %y : tensor<4x8xf32>

    After:

        func.func @main(..., %mean: tensor<8xf32> {tf.aliasing_output = 1 : i32},
            %variance: tensor<8xf32> {tf.aliasing_output = 2 : i32}, %key: tensor<2xi32>)
            -> (tensor<4x8xf32>, tensor<8xf32>, tensor<8xf32>) {
          %normed, %mean_new, %variance_new = nn.batch_norm_train %x, %scale, %shift, %mean, %variance : (...)
          %y = nn.dropout %normed, %key {rate = 0.5, stream = 1} : (tensor<4x8xf32>, tensor<2xi32>) -> tensor<4x8xf32>
          return %y, %mean_new, %variance_new : tensor<4x8xf32>, tensor<8xf32>, tensor<8xf32>

    A batch_norm uses the statistics of its batch; the running ones, which must be arguments (`--parameters`), are results
    too, and may lie where they did. Dropout without a key gets the function's: the seed and the number of the
    step, in an argument. With `parts` as many processes share a batch, each with an equal part of it: statistics are those of all, and the
    key also says which part this one has, whose elements it drops.
    """

    name: ClassVar[str] = "train-mode"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "batch_norm or dropout"

    momentum: float = option(0.9, "share of a running statistic that stays", least=0, most=1)
    unbiased: bool = option(False, "the running variance is that of a sample, as PyTorch has it")
    parts: int = option(1, "how many processes share a batch", least=1)
    local_statistics: bool = option(False, "of several, each normalises its part by itself")

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            for op in list(function.walk()):
                if isinstance(op, nn.BatchNorm):
                    self._normalise(function, op)
            _drop_at_random(function, PART_KEY_TYPE if self.parts > 1 else KEY_TYPE)

    def _normalise(self, function: FuncOp, op: nn.BatchNorm) -> None:
        rounded = [op.mean, op.variance]
        running = [s for s in (_statistic(v, op) for v in rounded) if s is not None]
        if op.block is not function.body or len(running) < 2:
            remarks.missed(
                op, "its statistics are not arguments that it alone reads: --parameters makes some"
            )
            return
        new = nn.BatchNormTrain(
            op.x, op.scale, op.shift, *running,
            attributes={k: v for k, v in op.attributes.items() if k in ("epsilon", "layout")},
            momentum=self.momentum, unbiased=self.unbiased,
            parts=None if self.local_statistics or self.parts == 1 else self.parts,
        )  # fmt: skip
        names = [f"{v.name}_new" for v in running]
        Builder.before(op).add(new, None, *names)
        op.replace_by(new.results[0])
        for value in rounded:
            if isinstance(value.owner, nn.Cast):
                value.owner.erase()
        remarks.applied(new, "uses its batch's statistics")
        for statistic, value in zip(running, new.results[1:], strict=True):
            function.return_renewed(statistic, value)


def _statistic(value: Value, op: Op) -> BlockArgument | None:
    """The argument that holds a running statistic, which may be rounded before it is read; None if others read it too."""
    if list(value.users) != [op]:
        return None
    if isinstance(value.owner, nn.Cast):
        return _statistic(value.owner.operands[0], value.owner)
    return value if isinstance(value, BlockArgument) else None


def _drop_at_random(function: FuncOp, type: TensorType) -> None:
    """Gives the layers without a key one, and each a stream of its own."""
    layers = [op for op in function.walk() if isinstance(op, nn.Dropout) and op.key is None]
    if not layers:
        return
    key = function.add_argument(type, "key")
    for number, op in enumerate(layers, 1):
        new = nn.Dropout(op.x, key, rate=op.attr("rate"), stream=number)
        op.replace_by(Builder.before(op).value(new))
        remarks.applied(new, f"drops at random, stream {number}")
