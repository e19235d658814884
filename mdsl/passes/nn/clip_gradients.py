"""clip-gradients: gradients that are too large are made smaller before an optimiser takes a step by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import GRADIENT, FuncOp
from mdsl.ir.core import Builder, Op
from mdsl.ir.types import Type, dtype_of, wide
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks
from mdsl.rewriting.terms import Term, Terms


@dataclass(frozen=True)
class ClipGradients(Pass):
    """Scale gradients down to a norm, or cut their elements off.

    Before:

        func.func @main(%w: tensor<8xf32>, ...) -> (tensor<f32>, tensor<8xf32>) {
          ...
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    After, with norm=1:

        func.func @main(%w: tensor<8xf32>, ...) -> (tensor<f32>, tensor<8xf32>) {
          ...
          %square = nn.mul %whole_grad_w, %whole_grad_w : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
          %sum = nn.reduce %square {kind = "sum", keepdims = false} : (tensor<8xf32>) -> tensor<f32>
          %norm = nn.sqrt %sum : (tensor<f32>) -> tensor<f32>
          ...
          %grad_w = nn.mul %whole_grad_w, %share : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    With `norm` all gradients together, as one vector, are multiplied by min(1, norm / (their length + 1e-6)), as PyTorch's
    `clip_grad_norm_` does. Their length is summed up in the widest of their types, f32 at least, and each is rounded once, after it is
    multiplied. With `value` each element is kept between -value and value, before that. It stands in front of an
    optimiser: `mdsl train --optimizer 'clip-gradients{norm=1},adam'`.
    Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks (2013).
    """

    name: ClassVar[str] = "clip-gradients"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "gradient"

    norm: float = option(0.0, "the longest that all gradients together may be; 0: any", least=0)
    value: float = option(0.0, "the largest that an element may be; 0: any", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.norm and not self.value:
            raise ValueError("option 'norm' or 'value' must say how large gradients may be")

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            self._clip(function)

    def _clip(self, function: FuncOp) -> None:
        names = function.result_names()
        places = {k: name for k, name in enumerate(names) if name.startswith(GRADIENT)}
        if not places:
            raise function.error(f"@{function.symbol} has no gradients, results called {GRADIENT}NAME")
        end = function.body.terminator
        terms = Terms(Builder.before(end), "clip")
        found = {place: terms(end.operands[place]) for place in places}
        if self.value:
            found = {k: g.of(nn.Clip, min=-self.value, max=self.value) for k, g in found.items()}
        if self.norm:
            share = self._share([*found.values()])
            found = {k: _scaled(g, share) for k, g in found.items()}
        for place, name in places.items():
            old, new = end.operands[place], found[place].value
            new.name = name
            if isinstance(old.owner, Op):
                old.name = f"whole_{name}"
            remarks.applied(function, f"%{name} is clipped")
        end.operands = [found[k].value if k in places else v for k, v in enumerate(end.operands)]
        function.keep_result_names(names)

    def _share(self, gradients: list[Term]) -> Term:
        """What all are multiplied by."""
        element = max((wide(g.type.element) for g in gradients), key=_bits)
        total, *rest = [_sum(g * g) for g in (g.cast(element) for g in gradients)]
        for square in rest:
            total = total + square
        length = total.of(nn.Sqrt)
        length.value.name = "norm"
        share = length.terms.constant(self.norm, element, "longest") / (length + 1e-6)
        share = share.of(nn.Minimum, 1.0)
        share.value.name = "share"
        return share


def _bits(element: Type) -> int:
    return dtype_of(element).itemsize * 8


def _scaled(gradient: Term, share: Term) -> Term:
    """The product in 32 bits at least: of a long gradient the share may be too small for 16."""
    element = gradient.type.element
    return (gradient.cast(wide(element)) * share.cast(wide(element))).cast(element)


def _sum(x: Term) -> Term:
    return x.reduce("sum", range(len(x.shape)), keepdims=False) if x.shape else x
