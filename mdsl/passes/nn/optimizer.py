"""What optimisers share: a function with gradients gets the update of its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.dialects import nn
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FINITE, GRADIENT, NAME, STATE, FuncOp
from mdsl.ir.attributes import UnitAttr
from mdsl.ir.core import BlockArgument, Builder, Op, Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, Type, f32, wide
from mdsl.passes.base import Context, Pass, functions
from mdsl.rewriting import remarks
from mdsl.rewriting.terms import Term, Terms


class Optimizer(Pass):
    """Base of optimisers: `update` is the formula for one parameter."""

    level = "nn"
    renews = True
    subject = "gradient"

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            _update(function, self)

    def update(self, step: Update, weight: Term, gradient: Term) -> Term:
        """The new value of a parameter; its states are had from `step.state` and given to `step.keep`."""
        raise AssertionError(f"{self.name} has no formula")


class Update:
    """The update of one parameter, behind what makes its gradient: what that is made of need not be kept until the end. What is the
    same for all parameters is in `shared`."""

    def __init__(self, function: FuncOp, parameter: Value, point: Builder, shared: dict[str, Value]) -> None:
        self.function, self.parameter, self.shared = function, parameter, shared
        self.element = wide(tensor_of(parameter).element)
        self.terms = Terms(point, str(parameter.name))

    def argument(self, name: str, element: Type) -> Term:
        """A number that the caller gives each step, the same for all parameters."""
        if name not in self.shared:
            self.shared[name] = self.function.add_argument(TensorType((), element), name)
        return self.terms(self.shared[name])

    @property
    def rate(self) -> Term:
        """The learning rate."""
        return self.argument("lr", f32).cast(self.element)

    def common(self, name: str, make: Term) -> Term:
        """A term without dimensions that is computed once for all parameters of a type."""
        key = f"{name} {self.element}"
        if key not in self.shared:
            make.value.name = name
            self.shared[key] = make.value
        return self.terms(self.shared[key])

    def state(self, name: str) -> Term:
        """What the last step kept of that name, of the parameter's shape; 0 at first."""
        type = TensorType(tensor_of(self.parameter).shape, self.element)
        self.kept = self.function.add_argument(type, f"{self.parameter.name}_{name}", {STATE: UnitAttr()})
        return self.terms(self.kept)

    def keep(self, value: Term) -> Term:
        """Keeps the new value of the state that was asked for last."""
        assert isinstance(self.kept, BlockArgument)
        self.function.return_renewed(self.kept, self.chosen(value, self.kept))
        return value

    def chosen(self, new: Term, old: Value) -> Value:
        """What comes in the place of `old`: that itself, where gradients are not finite."""
        value = new.value
        marks = self.function.result_attributes()
        for operand, attributes in zip(self.function.body.terminator.operands, marks, strict=True):
            if FINITE in attributes:
                value = self.terms.build(nn.Select(operand, value, old)).value
        value.name = f"{old.name}_new"
        return value


def _update(function: FuncOp, optimizer: Optimizer) -> None:
    names = function.result_names()
    found = {n.removeprefix(GRADIENT): k for k, n in enumerate(names) if n.startswith(GRADIENT)}
    if not found:
        raise function.error(
            f"@{function.symbol} has no gradients, results called {GRADIENT}NAME: run autodiff first"
        )
    arguments = {a.name: a for a in function.args}
    shared: dict[str, Value] = {}
    end = function.body.terminator
    order: dict[Value, int] = {r: k for k, op in enumerate(function.body.ops) for r in op.results}
    # What updates share is computed for the first one.
    rows = sorted(found.items(), key=lambda item: order.get(end.operands[item[1]], -1))
    points = _points(function, [end.operands[place] for _, place in rows])
    for (name, place), point in zip(rows, points, strict=True):
        parameter = arguments.get(name)
        if not isinstance(parameter, BlockArgument):
            raise function.error(
                f"{GRADIENT}{name}: there is no argument %{name}; --parameters makes some of weights"
            )
        step = Update(function, parameter, point, shared)
        weight = step.terms(parameter)
        gradient = step.terms(end.operands[place])
        new = optimizer.update(step, weight.cast(step.element), gradient.cast(step.element))
        _return(function, place, step.chosen(new.cast(weight.type.element), parameter))
        function.donate(parameter.index, place)
        remarks.applied(function, f"%{name} is updated")


def _points(function: FuncOp, gradients: Sequence[Value]) -> list[Builder]:
    """Where the updates go: each behind its gradient; all to the end, if all gradients decide whether there are any, or some are
    arguments."""
    skips = any(FINITE in attributes for attributes in function.result_attributes())
    makers = [g.owner for g in gradients if isinstance(g.owner, Op)]
    if skips or len(makers) < len(gradients):
        return [Builder.before(function.body.terminator) for _ in gradients]
    return [Builder.after(op) for op in makers]


def _return(function: FuncOp, place: int, value: Value) -> None:
    """Returns `value` in the place of a gradient."""
    end = function.body.terminator
    end.operands = [value if k == place else v for k, v in enumerate(end.operands)]
    function.update_type()
    attributes = function.result_attributes()
    attributes[place].pop(NAME, None)
    function.set_result_attributes(attributes)
