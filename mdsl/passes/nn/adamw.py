"""adamw: Adam whose weight decay is apart from the gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.passes.base import option
from mdsl.passes.nn.adam import adam_move
from mdsl.passes.nn.optimizer import Optimizer, Update
from mdsl.rewriting.terms import Term


@dataclass(frozen=True)
class Adamw(Optimizer):
    """Update parameters by Adam, with decoupled weight decay.

    Before:

        func.func @main(%w: tensor<8xf32>, ...) -> (tensor<f32>, tensor<8xf32>) {
          ...
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    After:

        func.func @main(%w: tensor<8xf32> {tf.aliasing_output = 1 : i32}, ...) -> (tensor<f32>, tensor<8xf32>, ...) {
          ...
          return %loss, %w_new, %w_mean_new, %w_square_new : ...

    As adam, but a step begins with w - lr * weight_decay * w, which the means do not see. `amsgrad` is as there.
    Loshchilov, Hutter: Decoupled Weight Decay Regularization (2019).
    """

    name: ClassVar[str] = "adamw"

    beta1: float = option(0.9, "share of the mean that stays", least=0, below=1)
    beta2: float = option(0.999, "share of the mean of squares that stays", least=0, below=1)
    epsilon: float = option(1e-8, "added to the root", least=0)
    weight_decay: float = option(0.01, "share of the parameter that a step of rate 1 takes away", least=0)
    amsgrad: bool = option(False, "divide by the root of the largest mean of squares so far")

    def update(self, step: Update, weight: Term, gradient: Term) -> Term:
        decayed = weight * (1.0 - step.rate * self.weight_decay) if self.weight_decay else weight
        return decayed - adam_move(step, gradient, (self.beta1, self.beta2), self.epsilon, self.amsgrad)
