"""autodiff: the gradient of a function's result is computed behind the function, in reverse mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import Call, FuncOp
from mdsl.dialects.nn.training import Composite
from mdsl.errors import nearest
from mdsl.ir.attributes import DenseAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.naming import FreeNames, name_wished
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, is_float
from mdsl.passes.any.inline import Inline
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.nn.autodiff import branches, data, elementwise, layers, loops, order, windows
from mdsl.passes.nn.autodiff.build import WHOLES, Whole
from mdsl.passes.nn.autodiff.reverse import differentiate, gradient_of
from mdsl.passes.nn.autodiff.subjects import default_subjects, subject
from mdsl.passes.nn.decompose import decompose
from mdsl.rewriting import remarks

THEMES = (branches, data, elementwise, layers, loops, order, windows)
"""The modules with the rules, which enter `VJPS` and `SWEEPS` when they are imported."""

SEEDS = ("", "ones", "argument")


@dataclass(frozen=True)
class Autodiff(Pass):
    """Append the gradient of a result to the function that computes it (reverse mode).

    Before:

        func.func @main(%x: tensor<3xf32>) -> tensor<f32> {
          %square = nn.mul %x, %x : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %loss = nn.reduce %square {kind = "sum", keepdims = false} : (tensor<3xf32>) -> tensor<f32>
          return %loss : tensor<f32>
        }

    After, with wrt=[x]:

        func.func @main(%x: tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>) {
          (...)
          %grad_loss = arith.constant dense<1.0> : tensor<f32>
          %grad_square = nn.broadcast %grad_loss : (tensor<f32>) -> tensor<3xf32>
          %grad_x_of_square = nn.mul %grad_square, %x : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %grad_x = nn.add %grad_x_of_square, %grad_x_of_square : (...) -> tensor<3xf32>
          return %loss, %grad_x : tensor<f32>, tensor<3xf32>
        }

    The gradients follow the results, one for each of `wrt`, as `grad_NAME`. `wrt` names arguments (or counts them from
    0), constants, by value or resource, or any other value; without it, it is every argument that is marked as a parameter,
    or else every one of floats. A constant stays one: its gradient is that for the numbers it holds (`parameters` makes
    arguments of weights, to train them). Of each op on the way the vector-Jacobian product is appended, in
    nn ops, with its location, last op first (Griewank, Walther: Evaluating Derivatives, 2008). What comes to a value from
    several ops is added up. Losses and training forms are decomposed first.
    The loss is one number; of a larger result `seed=ones` takes the sum of the elements, and with `seed=argument` the
    function gets one more argument, the gradient of that result. Run on its own result, the pass gives second derivatives.
    """

    name: ClassVar[str] = "autodiff"
    level: ClassVar[str | None] = "nn"
    appends: ClassVar[bool] = True
    subject = "function"

    wrt: tuple[str, ...] = option((), "with respect to which values: their names, or arguments' numbers")
    loss: int = option(0, "which result is differentiated", least=0)
    seed: str = option(
        "", "of a loss of several numbers: 'ones', or 'argument' for one that holds its gradient"
    )
    function: str = option("", "the function: @main or the only one, unless named")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed not in SEEDS:
            raise ValueError(f"option 'seed' must be 'ones' or 'argument', got '{self.seed}'")

    def run(self, module: ModuleOp, context: Context) -> None:
        if any(isinstance(op, Call) for op in module.walk()):
            Inline().run(module, context)
        function = _chosen(module, self.function)
        given = set(function.walk())
        wholes = _decomposed(function)
        loss = _loss(function, self.loss)
        wrt = [subject(function, name) for name in self.wrt] if self.wrt else default_subjects(function)
        _check(function, wrt)
        if any(isinstance(v.owner, Op) and v.owner not in given for v in wrt):
            wholes = {}  # a value in a formula is asked for, which the rule of the whole leads past
        with rewriting(function, "append gradient"):
            _append(function, loss, wrt, self.seed, wholes)


def _decomposed(function: FuncOp) -> dict[Value, tuple[Whole, dict[str, Value]]]:
    """Decomposes losses and training forms; returns the results of those that have a rule as a whole, and what it is made of."""
    found: dict[Value, tuple[Whole, dict[str, Value]]] = {}
    for op in list(function.walk()):
        if isinstance(op, Composite):
            name, kept = op.name, decompose(op)
            if name in WHOLES:
                found[kept["result"]] = WHOLES[name], kept
    return found


def _chosen(module: ModuleOp, name: str) -> FuncOp:
    """The function called `name`; without a name `@main`, or the only one. Raises VerifyError."""
    found = {f.symbol: f for f in functions(module)}
    if name and name not in found:
        raise module.error(f"there is no function @{name}{nearest(name, list(found))}")
    if not name and "main" not in found and len(found) != 1:
        raise module.error(f"there is no function @main, and {len(found)} others to choose from")
    return found[name] if name else found.get("main", next(iter(found.values())))


def _loss(function: FuncOp, index: int) -> Value:
    results = function.body.terminator.operands
    if index >= len(results):
        raise function.error(f"@{function.symbol} has {len(results)} results: there is no result {index}")
    return results[index]


def _check(function: FuncOp, wrt: list[Value]) -> None:
    """Raises VerifyError for values of which there is no gradient."""
    for value in wrt:
        if not isinstance(value.type, TensorType) or not is_float(value.type):
            raise function.error(
                f"%{name_wished(value)} is {value.type}: only tensors of floats have gradients"
            )
        if not value.type.is_static:
            raise function.error(
                f"%{name_wished(value)} is {value.type}, with a dimension of unknown size; --bind gives it one"
            )
    if len(set(wrt)) < len(wrt):
        raise function.error("wrt names a value twice")


def _append(
    function: FuncOp,
    loss: Value,
    wrt: list[Value],
    seed: str,
    wholes: dict[Value, tuple[Whole, dict[str, Value]]],
) -> None:
    end = function.body.terminator
    names = function.result_names()
    own = [op for op in function.body.ops if op is not end]
    gradients = differentiate(function, loss, wrt, _seed(function, loss, seed), own, wholes)
    for gradient in gradients:
        function.insert_result(len(end.operands), gradient)
    free = FreeNames(names)
    function.keep_result_names([*names, *(free.take(gradient_of(value)) for value in wrt)])
    for value, gradient in zip(wrt, gradients, strict=True):
        remarks.applied(
            function,
            f"also returns %{name_wished(gradient)}, the gradient of %{name_wished(loss)} for %{name_wished(value)}",
        )


def _seed(function: FuncOp, loss: Value, seed: str) -> Value:
    """The gradient of the loss."""
    end = function.body.terminator
    if not isinstance(loss.type, TensorType) or not is_float(loss.type):
        raise end.error(f"%{name_wished(loss)} is {loss.type}: only tensors of floats have gradients")
    type = tensor_of(loss)
    name = gradient_of(loss)
    if seed == "argument":
        return function.add_argument(type, name)
    if not type.is_static or (type.size != 1 and not seed):
        raise end.error(
            f"the loss must be one number, %{name_wished(loss)} is {type}; "
            "'seed=ones' takes the sum of its elements, 'seed=argument' their gradient as an argument"
        )
    at = loss.owner.location if isinstance(loss.owner, Op) else None
    ones = Constant(value=DenseAttr.splat(1, type), results=[type])
    return Builder(function.body, end, at or end.location).value(ones, name)
