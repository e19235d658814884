"""autodiff: the walk from the loss back to what it depends on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from mdsl.dialects.arith import Constant
from mdsl.dialects.func import GRADIENT, FuncOp
from mdsl.dialects.nn.dynamic import Shape
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, is_float
from mdsl.passes.nn.autodiff.build import VJPS, Adjoint, Constants
from mdsl.rewriting import remarks


class Reverse:
    """Appends the adjoint of what leads from `wrt` to `loss`, before the end of the function."""

    def __init__(self, function: FuncOp, loss: Value, wrt: Sequence[Value]) -> None:
        self.function, self.loss, self.wrt = function, loss, wrt
        self.end = function.body.terminator
        self.ops = [op for op in function.body.ops if op is not self.end]
        self.constants: Constants = {}
        self.partials: dict[Value, list[tuple[Value, Op]]] = {}
        """What has come to each value so far, and from which of the ops that read it."""
        self.named: set[Value] = set()
        """The gradients that bear the name of what they are of."""

    def run(self, seed: Value) -> list[Value]:
        """The gradient for each of `wrt`. Raises VerifyError where it would have to pass an op that has none."""
        active = depending(self.ops, self.wrt)
        self.partials[self.loss] = [(seed, self.end)]
        self.named.add(seed)
        for op in reversed(self.ops):
            if any(r in self.partials for r in op.results) and any(v in active for v in op.operands):
                self._visit(op, active)
        gradients = [self._total(v) if v in self.partials else self._zero(v) for v in self.wrt]
        self._drop_unread(gradients)
        return gradients

    def _visit(self, op: Op, active: set[Value]) -> None:
        """Hands the gradient of the op's result on to its operands."""
        rule = VJPS.get(op.name)
        if rule is None:
            raise op.error(f"has no gradient, and that of %{name_wished(self.loss)} must pass through it")
        for value in (*op.operands, *op.results):
            if isinstance(value.type, TensorType) and not value.type.is_static:
                raise op.error(f"{value.type} has a dimension of unknown size; --bind gives it one")
        grad, adjoint = self._total(op.result), self._adjoint(op)
        for value, partial in zip(op.operands, rule(adjoint, op, grad), strict=True):
            if partial is not None and value in active:
                fitted = adjoint.fitted(partial, tensor_of(value))
                self._name(fitted, value)
                self.partials.setdefault(value, []).append((fitted, op))
        remarks.applied(
            op, f"hands the gradient of its result on to {_listed(v for v in op.operands if v in active)}"
        )

    def _total(self, value: Value) -> Value:
        """The sum of what came to `value`, to which nothing more comes."""
        found = self.partials[value]
        total = found[0][0]
        if len(found) > 1:
            wanted = gradient_of(value)
            for partial, op in found:
                if partial.name == wanted:
                    partial.name = f"{wanted}_of_{_name(op)}"
            adjoint = self._adjoint(found[-1][1])
            for partial, _ in found[1:]:
                total = adjoint.add(total, partial)
            self._name(total, value)
            self.partials[value] = [(total, found[-1][1])]
        return total

    def _zero(self, value: Value) -> Value:
        """The gradient for a value that the loss does not depend on, or by ways without slope. Raises VerifyError where such
        a way leads through an op without one."""
        ways = depending(self.ops, [value], floats=False)
        if self.loss in ways:
            for op in self.ops:
                cut = any(v in ways and is_float(v.type) for v in op.operands)
                if cut and op.name not in VJPS and not isinstance(op, Shape) and op.result in ways:
                    raise op.error(
                        f"has no gradient, and the way from %{name_wished(value)} to the loss leads through it"
                    )
        remarks.missed(
            self.function, f"the gradient for %{name_wished(value)} is zero: the loss does not depend on it"
        )
        return self._adjoint(self.end).splat(0, tensor_of(value), gradient_of(value))

    def _adjoint(self, op: Op) -> Adjoint:
        return Adjoint(Builder.before(self.end), op, self.constants)

    def _name(self, gradient: Value, value: Value) -> None:
        """Calls a value that a rule made after what it is the gradient of; what is that of another value already, or a
        constant, keeps its name."""
        made = (
            isinstance(gradient.owner, Op)
            and gradient.owner not in self._old
            and not isinstance(gradient.owner, Constant)
        )
        if made and gradient not in self.named:
            gradient.name = gradient_of(value)
            self.named.add(gradient)

    @cached_property
    def _old(self) -> set[Op]:
        """The ops of the function that is differentiated."""
        return set(self.ops)

    def _drop_unread(self, gradients: Sequence[Value]) -> None:
        """Erases what rules made for operands that nobody wants the gradient of."""
        kept = set(gradients)
        op = self.end.prev
        while op is not None and op not in self._old:
            before = op.prev
            if not any(r.users or r in kept for r in op.results):
                op.erase()
            op = before


def depending(ops: Sequence[Op], roots: Iterable[Value], floats: bool = True) -> set[Value]:
    """What depends on `roots`, these among it; with `floats` only by way of tensors of floats, which a gradient can go."""
    found = set(roots)
    for op in ops:
        if any(v in found for v in op.operands):
            found.update(r for r in op.results if not floats or is_float(r.type))
    return found


def gradient_of(value: Value) -> str:
    return f"{GRADIENT}{name_wished(value)}"


def _name(op: Op) -> str:
    return name_wished(op.results[0]) if op.results else "result"


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(dict.fromkeys(f"%{name_wished(v)}" for v in values))
