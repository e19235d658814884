"""autodiff: the walk from the loss back to what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mdsl.dialects import scf
from mdsl.dialects.arith import Constant
from mdsl.dialects.func import GRADIENT, FuncOp
from mdsl.dialects.nn.dynamic import Shape
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import TensorType, is_float
from mdsl.passes.nn.autodiff.build import VJPS, Adjoint, Constants, Whole
from mdsl.passes.nn.autodiff.joining import joined
from mdsl.rewriting import remarks

SWEEPS: dict[str, Callable[[Sweep, Any], None]] = {}
"""How the gradients of an op's results are handed on where that takes more than a vector-Jacobian product: `f(sweep, op)`."""


class Sweep:
    """Builds the adjoint of `ops`, which lie in one block, in front of `end`; `active` is what gradients go through."""

    def __init__(
        self,
        ops: Sequence[Op],
        end: Op,
        active: set[Value],
        constants: Constants,
        wholes: Mapping[Value, tuple[Whole, Mapping[str, Value]]] | None = None,
    ) -> None:
        self.ops, self.end, self.active, self.wholes = ops, end, active, wholes or {}
        self.constants = dict(constants)
        self.partials: dict[Value, list[tuple[Value, Op]]] = {}
        """What has come to each value so far, and from which of the ops that read it."""
        self.old = set(ops)
        self.named: set[Value] = set()
        """The gradients that bear the name of what they are of."""

    def run(self) -> None:
        """Hands on what `partials` holds. Raises VerifyError where it would have to pass an op that has no gradient."""
        for op in reversed(self.ops):
            if any(r in self.partials for r in op.results) and any(v in self.active for v in operands_in(op)):
                self._visit(op)

    def _visit(self, op: Op) -> None:
        if op.name not in VJPS and op.name not in SWEEPS:
            raise op.error("has no gradient, and that of the loss must pass through it")
        for value in (*op.operands, *op.results):
            if isinstance(value.type, TensorType) and not value.type.is_static:
                raise op.error(f"{value.type} has a dimension of unknown size; --bind gives it one")
        if op.name in SWEEPS:
            SWEEPS[op.name](self, op)
        elif op.results[0] in self.wholes:
            rule, kept = self.wholes[op.result]
            for name, partial in rule(self.adjoint(op), kept, self.total(op.result)).items():
                self.give(kept[name], partial, op)
        else:
            grad, adjoint = self.total(op.result), self.adjoint(op)
            for value, partial in zip(op.operands, VJPS[op.name](adjoint, op, grad), strict=True):
                if partial is not None:
                    self.give(value, partial, op)
        read = _listed(v for v in op.operands if v in self.active)
        remarks.applied(op, f"hands the gradient of its result on to {read}")

    def give(self, value: Value, partial: Value, op: Op) -> None:
        """Adds what `op` hands back to `value`; nothing, if no gradient goes there."""
        if value in self.active:
            fitted = self.adjoint(op).fitted(partial, tensor_of(value))
            self.call(fitted, value)
            self.partials.setdefault(value, []).append((fitted, op))

    def total(self, value: Value) -> Value:
        """The sum of what came to `value` so far, of which there is some."""
        found = self.partials[value]
        total = found[0][0]
        if len(found) > 1:
            wanted = gradient_of(value)
            for partial, op in found:
                if partial.name == wanted:
                    partial.name = f"{wanted}_of_{_name(op)}"
            adjoint = self.adjoint(found[-1][1])
            total, *others = joined(adjoint, [partial for partial, _ in found])
            for partial in others:
                total = adjoint.add(total, partial)
            self.call(total, value)
            self.partials[value] = [(total, found[-1][1])]
        return total

    def inner(self, source: Block, block: Block, mapping: dict[Value, Value]) -> Sweep:
        """A sweep over a copy of the ops of `source`, which is put into `block`; `mapping` says what they read instead, and gets what
        they compute."""
        ops = [block.append(op.clone(mapping)) for op in source.ops if op is not source.last]
        end = block.append(scf.Yield([], results=[]))
        active = self.active | {mapping[v] for v in self.active if v in mapping}
        return Sweep(ops, end, active, self.constants)

    def begin(self, value: Value, gradient: Value, op: Op) -> None:
        """What a block yields has this gradient, from what reads the results of `op`; nothing, if no gradient goes there."""
        if value in self.active:
            self.partials.setdefault(value, []).append((gradient, op))

    def finish(self, wanted: Sequence[Value], op: Op) -> None:
        """Runs, and yields the gradients of `wanted`, zeros where none has come."""
        self.run()
        a = self.adjoint(op)
        self.end.operands = [self.total(v) if v in self.partials else a.zeros(tensor_of(v)) for v in wanted]
        drop_unread(self.end, set())

    def adjoint(self, op: Op) -> Adjoint:
        return Adjoint(Builder.before(self.end), op, self.constants)

    def call(self, gradient: Value, value: Value) -> None:
        """Calls a value that a rule made after what it is the gradient of; what is that of another value already, or a
        constant, keeps its name."""
        owner = gradient.owner
        made = isinstance(owner, Op) and owner not in self.old and not isinstance(owner, Constant)
        if made and gradient not in self.named:
            gradient.name = gradient_of(value)
            self.named.add(gradient)


def differentiate(
    function: FuncOp,
    loss: Value,
    wrt: Sequence[Value],
    seed: Value,
    ops: Sequence[Op],
    wholes: Mapping[Value, tuple[Whole, Mapping[str, Value]]],
) -> list[Value]:
    """Appends the adjoint of what leads from `wrt` to `loss`, among the function's own `ops`; `seed` is the gradient of the
    loss, `wholes` are results of formulas that have a rule, and what those keep. Returns the gradient for each of `wrt`. Raises VerifyError."""
    sweep = Sweep(ops, function.body.terminator, depending(ops, wrt), {}, wholes)
    sweep.partials[loss] = [(seed, sweep.end)]
    sweep.named.add(seed)
    sweep.run()
    gradients = [sweep.total(v) if v in sweep.partials else _zero(function, loss, v, sweep) for v in wrt]
    drop_unread(sweep.end, sweep.old, gradients)
    return gradients


def _zero(function: FuncOp, loss: Value, value: Value, sweep: Sweep) -> Value:
    """The gradient for a value that the loss does not depend on, or by ways without slope. Raises VerifyError where such
    a way leads through an op without one."""
    ways = depending(sweep.ops, [value], floats=False)
    for op in (inner for outer in sweep.ops for inner in outer.walk()) if loss in ways else ():
        reached = any(v in ways and is_float(v.type) for v in operands_in(op)) and any(
            r in ways for r in op.results
        )
        if reached and op.name not in (*VJPS, *SWEEPS) and not isinstance(op, Shape):
            way = f"the way from %{name_wished(value)} to the loss leads through it"
            raise op.error(f"has no gradient, and {way}")
    remarks.missed(
        function, f"the gradient for %{name_wished(value)} is zero: the loss does not depend on it"
    )
    return sweep.adjoint(sweep.end).splat(0, tensor_of(value), gradient_of(value))


def drop_unread(end: Op, kept: set[Op], results: Iterable[Value] = ()) -> None:
    """Erases the ops before `end`, up to those in `kept`, that nobody reads: rules give gradients that nobody wants."""
    wanted = set(results)
    op = end.prev
    while op is not None and op not in kept:
        before = op.prev
        if not any(r.users or r in wanted for r in op.results):
            op.erase()
        op = before


def depending(ops: Sequence[Op], roots: Iterable[Value], floats: bool = True) -> set[Value]:
    """What depends on `roots`, these among it; with `floats` only by way of tensors of floats, which a gradient can go."""
    found = set(roots)
    for op in ops:
        if isinstance(op, scf.For):
            _add_loop(op, found, floats)
        elif any(v in found for v in operands_in(op)):
            found.update(r for r in op.results if not floats or is_float(r.type))
        if isinstance(op, scf.If):
            for block in op.branches:
                found |= depending(block.ops, found, floats)
    return found


def _add_loop(op: scf.For, found: set[Value], floats: bool) -> None:
    """The same for a loop: what one iteration hands on the next one reads, until nothing is added."""
    ends, known = op.body.terminator.operands, -1
    while len(found) > known:
        known = len(found)
        for carried, init, end, result in zip(op.carried, op.operands[3:], ends, op.results, strict=True):
            if (init in found or end in found) and (not floats or is_float(carried.type)):
                found.update((carried, result))
        found |= depending(op.body.ops, found, floats)


def operands_in(op: Op) -> list[Value]:
    """What an op reads, and what is nested in it."""
    return [v for inner in op.walk() for v in inner.operands]


def gradient_of(value: Value) -> str:
    return f"{GRADIENT}{value.name or name_wished(value)}"


def _name(op: Op) -> str:
    return name_wished(op.results[0]) if op.results else "result"


def _listed(values: Iterable[Value]) -> str:
    return ", ".join(dict.fromkeys(f"%{name_wished(v)}" for v in values))
