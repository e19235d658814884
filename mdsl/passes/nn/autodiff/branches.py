"""autodiff: branches. The gradient goes back by the one that was taken, whose values are computed again; what only the other one
reads gets zeros, also where its slopes there are infinite."""

from __future__ import annotations

from mdsl.analysis.regions import captured
from mdsl.dialects import scf
from mdsl.ir.core import Block, Region, Value
from mdsl.passes.nn.autodiff.reverse import SWEEPS, Sweep, gradient_of


def _if(sweep: Sweep, op: scf.If) -> None:
    wanted = [v for v in captured(op) if v in sweep.active]
    given = {k: sweep.total(r) for k, r in enumerate(op.results) if r in sweep.partials}
    regions = [Region(Block()), Region(Block())]
    back = scf.If(op.condition, results=[v.type for v in wanted], regions=regions)
    sweep.adjoint(op).builder.add(back, *map(gradient_of, wanted))
    for taken, block in zip(op.branches, back.branches, strict=True):
        _fill(sweep, op, taken, block, given, wanted)
    for value, result in zip(wanted, back.results, strict=True):
        sweep.give(value, result, op)


def _fill(
    sweep: Sweep, op: scf.If, taken: Block, block: Block, given: dict[int, Value], wanted: list[Value]
) -> None:
    """Puts into `block` the ops of the branch `taken`, and behind them the gradients of `wanted`, where those of the results are
    `given`."""
    mapping: dict[Value, Value] = {}
    inner = sweep.inner(taken, block, mapping)
    for number, gradient in given.items():
        last = taken.terminator.operands[number]
        inner.begin(mapping.get(last, last), gradient, op)
    inner.finish(wanted, op)


SWEEPS["scf.if"] = _if
