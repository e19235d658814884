"""sgd: stochastic gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.passes.base import option
from mdsl.passes.nn.optimizer import Optimizer, Update
from mdsl.rewriting.terms import Term


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Update parameters by gradient descent, with momentum, weight decay or Nesterov's step.

    Before:

        func.func @main(%w: tensor<8xf32>, ...) -> (tensor<f32>, tensor<8xf32>) {
          ...
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    After:

        func.func @main(%w: tensor<8xf32> {tf.aliasing_output = 1 : i32}, ..., %lr: tensor<f32>) -> (tensor<f32>, tensor<8xf32>) {
          ...
          %w_mul = nn.mul %grad_w, %lr : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
          %w_new = nn.sub %w, %w_mul : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
          return %loss, %w_new : tensor<f32>, tensor<8xf32>

    Each gradient among the results (`grad_NAME`, as autodiff makes them) gives way to the new value of its argument, which may lie
    in the old one's memory. g = gradient + weight_decay * w; m = momentum * m + g; w - lr * m, with `nesterov`
    w - lr * (g + momentum * m). The learning rate is the argument `lr`, the m are arguments and results; 16-bit parameters are updated
    in f32. Polyak: Some methods of speeding up the convergence of iteration methods (1964); Sutskever, Martens, Dahl, Hinton: On the
    importance of initialization and momentum in deep learning (2013), in the form that PyTorch has.
    """

    name: ClassVar[str] = "sgd"

    momentum: float = option(0.0, "share of the last step that the next one takes over", least=0, most=1)
    weight_decay: float = option(0.0, "share of the parameter that is added to its gradient", least=0)
    nesterov: bool = option(False, "the gradient's step comes after the momentum's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("option 'nesterov' needs 'momentum'")

    def update(self, step: Update, weight: Term, gradient: Term) -> Term:
        if self.weight_decay:
            gradient = gradient + weight * self.weight_decay
        move = gradient
        if self.momentum:
            move = step.keep(step.state("momentum") * self.momentum + gradient)
        if self.nesterov:
            move = gradient + move * self.momentum
        return weight - move * step.rate
