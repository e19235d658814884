"""adam: steps by the mean of gradients over the root of the mean of their squares."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.ir.types import i32
from mdsl.passes.base import option
from mdsl.passes.nn.optimizer import Optimizer, Update
from mdsl.rewriting.terms import Term


@dataclass(frozen=True)
class Adam(Optimizer):
    """Update parameters by Adam.

    Before:

        func.func @main(%w: tensor<8xf32>, ...) -> (tensor<f32>, tensor<8xf32>) {
          ...
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    After:

        func.func @main(%w: tensor<8xf32> {tf.aliasing_output = 1 : i32}, ..., %w_mean: tensor<8xf32> {...},
            %step: tensor<i32>, %w_square: tensor<8xf32> {...}, %lr: tensor<f32>) -> (tensor<f32>, tensor<8xf32>, ...) {
          ...
          return %loss, %w_new, %w_mean_new, %w_square_new : ...

    mean = beta1 * mean + (1 - beta1) * g, square = beta2 * square + (1 - beta2) * g^2, and
    w - lr * (mean / (1 - beta1^step)) / (sqrt(square / (1 - beta2^step)) + epsilon), with g = gradient + weight_decay * w. The
    argument `step` counts from 1; means and squares are arguments and results, which may lie in one memory. With `amsgrad` the root is that
    of the largest `square` there has been, of each element: one state more.
    Kingma, Ba: Adam: A Method for Stochastic Optimization (2015). Reddi, Kale, Kumar: On the Convergence of Adam and Beyond (2018).
    """

    name: ClassVar[str] = "adam"

    beta1: float = option(0.9, "share of the mean that stays", least=0, below=1)
    beta2: float = option(0.999, "share of the mean of squares that stays", least=0, below=1)
    epsilon: float = option(1e-8, "added to the root", least=0)
    weight_decay: float = option(0.0, "share of the parameter that is added to its gradient", least=0)
    amsgrad: bool = option(False, "divide by the root of the largest mean of squares so far")

    def update(self, step: Update, weight: Term, gradient: Term) -> Term:
        if self.weight_decay:
            gradient = gradient + weight * self.weight_decay
        return weight - adam_move(step, gradient, (self.beta1, self.beta2), self.epsilon, self.amsgrad)


def adam_move(
    step: Update, gradient: Term, betas: tuple[float, float], epsilon: float, amsgrad: bool
) -> Term:
    """What a step takes away from a parameter, by the means of its gradients and of their squares, with `amsgrad` by the largest of these."""
    mean = step.keep(step.state("mean") * betas[0] + gradient * (1 - betas[0]))
    square = step.keep(step.state("square") * betas[1] + gradient * gradient * (1 - betas[1]))
    if amsgrad:
        square = step.keep(step.state("largest").of(nn.Maximum, square))
    near = _unbiased(step, mean, betas[0], "mean_bias")
    root = _unbiased(step, square, betas[1], "square_bias").of(nn.Sqrt)
    return near / (root + epsilon) * step.rate


def _unbiased(step: Update, mean: Term, beta: float, name: str) -> Term:
    """A mean of what there has been, of one that began at 0: divided by 1 - beta^step. As -expm1(step * log(beta)): the
    difference would lose digits, as beta is near 1."""
    if not beta:
        return mean
    key = f"{name} {step.element}"
    if key not in step.shared:
        count = step.argument("step", i32).cast(step.element)
        step.common(name, -(count * log(beta)).of(nn.Expm1))
    return mean / step.terms(step.shared[key])
