"""What a program costs, beside each step of a pipeline: counted from its IR, estimated for a target, or measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mdsl.analysis.work import Work, kernels_of, traffic, work_of
from mdsl.compiler.entry import entry
from mdsl.compiler.levels import level_of
from mdsl.compiler.pipeline import Hook
from mdsl.dialects import memref
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Op
from mdsl.ir.types import ShapedType
from mdsl.passes.base import Context, Pass
from mdsl.passes.nn.lower_nn import LowerNn
from mdsl.report.units import bytes_text, count_text, flops_text, seconds_text
from mdsl.target.cost import roofline_cycles
from mdsl.target.target import Target


@dataclass(frozen=True)
class OpCost:
    """What one op of the entry's body costs, with all that it holds."""

    op: Op
    work: Work
    bytes: int
    """Bytes that it must move: of each tensor or memref that it reads or makes once. On the level of bytecode, where ops work on
    addresses, 0."""
    cycles: float
    """By the roofline of the target: a bound that no code beats, not a promise."""


@dataclass(frozen=True)
class Cost:
    """What a whole program costs."""

    ops: int
    """Ops of its text, those in kernels among them."""
    kernels: int
    work: Work
    bytes: int
    arena: int | None
    """Bytes of its working memory; None before it is planned."""
    cycles: float
    seconds: float
    """The cycles as time, on one thread of the target's core."""
    measured: float | None = None
    """Seconds of a call, finished from here by the standard passes; None if that was not asked for."""

    @property
    def intensity(self) -> float:
        """Operations on floats for each byte moved; 0 if none is."""
        return self.work.flops / self.bytes if self.bytes else 0.0


def op_costs(module: ModuleOp, target: Target) -> Iterator[OpCost]:
    """The cost of each op of the entry's body that computes or moves anything, in program order."""
    kernels = kernels_of(module)
    function = entry(module)
    constants = sum(_constant_bytes(op) for op in module.walk())
    cold = constants > target.core.l3_bytes
    addresses = level_of(module) == "vm"
    for op in function.body.ops:
        work = work_of(op, kernels)
        moved = 0 if addresses else traffic(op)
        if work != Work() or moved:
            yield OpCost(op, work, moved, _cycles(work, moved, target, cold))


def _cycles(work: Work, moved: int, target: Target, cold: bool) -> float:
    core = target.core
    away = moved / core.memory_rate if cold else 0.0
    return max(roofline_cycles(work.flops, moved, target), away) + core.dispatch_cycles * work.calls


def _constant_bytes(op: Op) -> int:
    if isinstance(op, Constant) and isinstance(op.result.type, ShapedType):
        return op.result.type.nbytes
    type = op.attr("type") if isinstance(op, memref.Global) else None
    return type.nbytes if isinstance(type, ShapedType) else 0


def cost_of(module: ModuleOp, target: Target) -> Cost:
    """What `module`, on any level, costs on `target`. Ops of nn count what they are lowered to. The module is not altered."""
    ops = module.count_nested()
    counted = module
    if level_of(module) == "nn":
        counted = module.clone()
        LowerNn().run(counted, Context(target))
    found = list(op_costs(counted, target))
    work = sum((c.work for c in found), Work())
    cycles = sum(c.cycles for c in found)
    return Cost(
        ops,
        len(kernels_of(module)),
        work,
        sum(c.bytes for c in found),
        _arena(module),
        cycles,
        target.core.seconds(cycles),
    )


def _arena(module: ModuleOp) -> int | None:
    arenas = [
        op.result.type.nbytes
        for op in entry(module).body.ops
        if isinstance(op, memref.Alloc)
        and isinstance(op.result.type, ShapedType)
        and str(op.result.type.element) == "i8"
    ]
    return sum(arenas) if arenas else None


# Beside the steps of a pipeline ---------------------------------------------------------------------------------


Measure = Callable[[ModuleOp], float]
"""Seconds of a call of a program, which the standard passes finish. The module is not altered."""


@dataclass(frozen=True)
class StepCost:
    """What a program cost before a pass and after it."""

    step: str
    before: Cost
    after: Cost

    def __str__(self) -> str:
        """`tile: 122 -> 860 ops, ..., 33.1 ms at the roofline, measured 2.31 ms -> 1.44 ms (-38 %)`; what stayed is written once."""
        parts = [_change(self.before, self.after, show) for show in _SHOWN]
        if self.before.measured and self.after.measured:
            change = 100 * (self.after.measured / self.before.measured - 1)
            parts.append(f"measured {_times(self.before.measured, self.after.measured)} ({change:+.0f} %)")
        return f"{self.step}: {', '.join(filter(None, parts))}"


_SHOWN: tuple[Callable[[Cost], tuple[str, str]], ...] = (
    lambda c: (count_text(c.ops), "ops"),
    lambda c: (count_text(c.kernels) if c.kernels else "", "kernels"),
    lambda c: (count_text(c.work.dispatches) if c.work.dispatches else "", "dispatches"),
    lambda c: (flops_text(c.work.flops), ""),
    lambda c: (bytes_text(c.bytes) if c.bytes else "", "moved"),
    lambda c: (f"{c.intensity:.3g}" if c.bytes else "", "FLOP/B"),
    lambda c: (bytes_text(c.arena) if c.arena is not None else "", "of arena"),
    lambda c: (seconds_text(c.seconds), "at the roofline"),
)
"""The number and the unit of each part of a line; an empty number is not known on that level."""


def _change(before: Cost, after: Cost, show: Callable[[Cost], tuple[str, str]]) -> str:
    (old, unit), (new, _) = show(before), show(after)
    if not new:
        return ""
    text = f"{old} -> {new}" if old and old != new else new
    return f"{text} {unit}".rstrip()


def _times(before: float, after: float) -> str:
    return f"{seconds_text(before)} -> {seconds_text(after)}"


class Costs(Hook):
    """Finds the cost of a program before and after each pass, and hands it to `show`; with `measure`, measured too."""

    def __init__(
        self, target: Target, show: Callable[[StepCost], None], measure: Measure | None = None
    ) -> None:
        self.target = target
        self.show = show
        self.measure = measure
        self.cost: Cost | None = None

    def before(self, module: ModuleOp, step: Pass) -> None:
        self.cost = self.cost or self._cost(module)

    def after(self, module: ModuleOp, step: Pass, seconds: float) -> None:
        assert self.cost is not None
        after = self._cost(module)
        self.show(StepCost(str(step), self.cost, after))
        self.cost = after

    def _cost(self, module: ModuleOp) -> Cost:
        found = cost_of(module, self.target)
        return found if self.measure is None else replace(found, measured=self.measure(module))
