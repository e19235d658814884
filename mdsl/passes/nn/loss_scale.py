"""loss-scale: gradients are computed of a larger loss, so that small ones are not lost in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FINITE, GRADIENT, STATE, FuncOp
from mdsl.ir.attributes import FloatAttr, UnitAttr
from mdsl.ir.core import BlockArgument, Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, f32, i32, wide
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks
from mdsl.rewriting.terms import Term, Terms

SCALE, GOOD, SKIPPED = "loss_scale", "good_steps", "skipped_steps"
"""What the states of a dynamic scale are called."""

LARGEST = 2.0**126
"""Where the scale stops growing: the next would be near infinity."""

FIRST = 65536.0
"""The dynamic scale of the first step, as PyTorch's GradScaler has it."""


@dataclass(frozen=True)
class LossScale(Pass):
    """Compute gradients of a scaled loss, and divide them by the scale in f32.

    Before, with `--autodiff={seed=argument}`:

        func.func @main(%w: tensor<8xf16>, ..., %grad_loss: tensor<f32>) -> (tensor<f32>, tensor<8xf16>) {
          ...
          return %loss, %grad_w : tensor<f32>, tensor<8xf16>

    After, with scale=1024:

        func.func @main(%w: tensor<8xf16>, ...) -> (tensor<f32>, tensor<8xf32>) {
          %loss_scale = arith.constant dense<1024.0> : tensor<f32>
          ...
          %grad_w_f32 = nn.cast %scaled_grad_w : (tensor<8xf16>) -> tensor<8xf32>
          %grad_w = nn.mul %grad_w_f32, %unscale : (tensor<8xf32>, tensor<f32>) -> tensor<8xf32>
          return %loss, %grad_w : tensor<f32>, tensor<8xf32>

    The argument that autodiff made for the gradient of the loss gives way to the scale. With scale=dynamic that is a state, an
    argument and a result, at first 65536: after a step in which a gradient is infinite or NaN it is halved, after
    `interval` steps without one doubled. A result `finite` says whether all are finite; optimisers that follow leave parameters and states
    as they are where they are not. `good_steps` counts steps since the scale changed, `skipped_steps` all that were skipped.
    Micikevicius et al.: Mixed Precision Training (2018).
    """

    name: ClassVar[str] = "loss-scale"
    level: ClassVar[str | None] = "nn"
    renews = True
    subject = "gradient"

    scale: str = option("dynamic", "the loss is multiplied by this number, or 'dynamic'")
    interval: int = option(2000, "of a dynamic scale: it is doubled after so many good steps", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self.scale)

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            names = function.result_names()
            places = {k: name for k, name in enumerate(names) if name.startswith(GRADIENT)}
            if not places:
                raise function.error(f"@{function.symbol} has no gradients, results called {GRADIENT}NAME")
            scale = scaled(function, self.scale)
            terms = Terms(Builder.before(function.body.terminator), "scaling")
            found = _unscaled(function, places, terms, terms.constant(1.0, f32, "one") / terms(scale))
            if isinstance(scale, BlockArgument):
                self._adapt(function, terms, scale, [terms(v) for v in found])
            function.keep_result_names([*names, *function.result_names()[len(names) :]])

    def _adapt(self, function: FuncOp, terms: Terms, scale: BlockArgument, gradients: list[Term]) -> None:
        """The scale of the next step follows from whether the gradients are finite."""
        finite = _all_finite(gradients)
        finite.value.name = "finite"
        good, skipped = (_counter(function, name) for name in (GOOD, SKIPPED))
        counted = (terms(good) + 1).where(finite, 0)
        grows = counted.is_("ge", self.interval)
        larger = (terms(scale) * 2.0).of(nn.Minimum, LARGEST).where(grows, scale)
        _keep(function, scale, larger.where(finite, terms(scale) * 0.5))
        _keep(function, good, terms.constant(0, i32, "none").where(grows, counted))
        _keep(function, skipped, terms(skipped).where(finite, terms(skipped) + 1))
        function.insert_result(len(function.body.terminator.operands), finite.value, {FINITE: UnitAttr()})


def scaled(function: FuncOp, scale: str) -> Value:
    """The scale: a constant, or the argument that holds it, in the place of the argument that is the gradient of
    the loss, if there is one. Raises VerifyError for a seed that is no argument."""
    seeds = [a for a in function.body.args if str(a.name).startswith(GRADIENT)]
    if len(seeds) > 1:
        raise function.error(f"@{function.symbol} has several arguments called {GRADIENT}NAME")
    number = _number(scale)
    first = function.body.first
    assert first is not None
    if number is None:
        value = function.add_argument(TensorType((), f32), SCALE, {STATE: FloatAttr(FIRST, f32)})
    else:
        value = Terms(Builder.before(first), "loss").constant(number, f32, SCALE).value
    for seed in seeds:
        at = Builder.before(first)
        like = Terms(at, str(seed.name))(value).cast(tensor_of(seed).element).value
        if tensor_of(seed).rank:
            like = at.value(nn.Broadcast(like, results=[seed.type]), seed.name)
        seed.replace_by(like)
        given = function.arg_attributes()
        del given[seed.index]
        function.body.erase_arg(seed.index)
        function.set_arg_attributes(given)
        function.update_type()
    return value


def _number(scale: str) -> float | None:
    """None for a dynamic scale. Raises ValueError."""
    if scale == "dynamic":
        return None
    try:
        found = float(scale)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError(f"option 'scale' must be 'dynamic' or a positive number, got '{scale}'")
    return found


def _unscaled(function: FuncOp, places: dict[int, str], terms: Terms, unscale: Term) -> list[Value]:
    """Puts the gradients themselves, in f32, in the place of the scaled ones; returns them."""
    unscale.value.name = "unscale"
    end = function.body.terminator
    found: list[Value] = []
    for place, name in places.items():
        gradient = end.operands[place]
        own = Terms(terms.builder, name)
        wider = own(gradient).cast(wide(tensor_of(gradient).element))
        new = (wider * unscale.cast(wider.type.element)).value
        new.name = name
        if isinstance(gradient.owner, Op):
            gradient.name = f"scaled_{name}"
        end.operands = [new if k == place else v for k, v in enumerate(end.operands)]
        remarks.applied(function, f"%{name} is divided by the loss's scale")
        found.append(new)
    function.update_type()
    return found


def _all_finite(gradients: list[Term]) -> Term:
    """Whether no number is infinite or NaN: 0 times such a one is NaN, and so is a sum with it."""
    total: Term | None = None
    for gradient in gradients:
        zero = (gradient * 0.0).cast(f32).reduce("sum", range(len(gradient.shape)), keepdims=False)
        total = zero if total is None else total + zero
    assert total is not None
    return total.is_("eq", 0.0)


def _counter(function: FuncOp, name: str) -> Value:
    return function.add_argument(TensorType((), i32), name, {STATE: UnitAttr()})


def _keep(function: FuncOp, argument: Value, new: Term) -> None:
    """Returns the new value of a state, which may lie in the old one's memory."""
    assert isinstance(argument, BlockArgument)
    new.value.name = f"{argument.name}_new"
    function.return_renewed(argument, new.value)
