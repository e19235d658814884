"""recompute: what the backward part reads is computed again there instead of being kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.ir.attributes import UnitAttr
from mdsl.ir.core import Op, Value
from mdsl.ir.naming import name_wished
from mdsl.ir.rewrites import rewriting
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.passes.nn.recompute.plan import Plan, flops_of
from mdsl.rewriting import remarks

AGAIN = "mdsl.again"
"""The attribute of an op that computes a second time what another one has: they must not be merged."""

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Recompute(Pass):
    """Compute values again where the backward part reads them, so that fewer are kept.

    Before:

        func.func @main(%x: tensor<64xf32>, %w: tensor<64xf32>) -> (tensor<f32>, tensor<64xf32>) {
          %a = nn.mul %x, %w : (tensor<64xf32>, tensor<64xf32>) -> tensor<64xf32>
          %y = nn.exp %a : (tensor<64xf32>) -> tensor<64xf32>
          %loss = nn.reduce %y {kind = "sum", keepdims = false} : (tensor<64xf32>) -> tensor<f32>
          %grad_w = nn.mul %y, %x : (tensor<64xf32>, tensor<64xf32>) -> tensor<64xf32>
          return %loss, %grad_w : tensor<f32>, tensor<64xf32>

    After, with budget=0:

        func.func @main(%x: tensor<64xf32>, %w: tensor<64xf32>) -> (tensor<f32>, tensor<64xf32>) {
          (...)
          %a_again = nn.mul %x, %w {mdsl.again} : (tensor<64xf32>, tensor<64xf32>) -> tensor<64xf32>
          %y_again = nn.exp %a_again {mdsl.again} : (tensor<64xf32>) -> tensor<64xf32>
          %grad_w = nn.mul %y_again, %x : (tensor<64xf32>, tensor<64xf32>) -> tensor<64xf32>
          return %loss, %grad_w : tensor<f32>, tensor<64xf32>

    The backward part is what follows the op that makes the loss, as autodiff appends it; what it reads of the values before is kept
    from there to here. Until these take no more than the budget, values are given up: first those that follow from kept ones
    by cheap ops (element by element, normalisations, activations, pooling; no products of matrices), in the order of bytes
    saved per operation added; then whole runs of layers, between which few values stay
    (Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost, 2016). Nothing is computed more than twice. A run is given up only
    if less memory is needed then, with what one run computes again: a budget that is too small is not met.
    """

    name: ClassVar[str] = "recompute"
    level: ClassVar[str | None] = "nn"
    subject = "value that a part behind the loss reads"

    budget: str = option(
        "0.5", "bytes to keep: a number, with K, M or G; or a share of what is kept now, 0.5"
    )
    loss: int = option(0, "which result is the loss", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        bytes_of(self.budget, 0)

    def run(self, module: ModuleOp, context: Context) -> None:
        for function in functions(module):
            results = function.body.terminator.operands
            if self.loss < len(results) and isinstance(results[self.loss].owner, Op):
                self._recompute(function, results[self.loss])

    def _recompute(self, function: FuncOp, loss: Value) -> None:
        plan = Plan(function, loss)
        before = plan.nbytes()
        if not before:
            return
        budget = bytes_of(self.budget, before)
        plan.drop_cheap(budget)
        plan.cut_into_segments(budget)
        with rewriting(function, "recompute"):
            _apply(plan)
        _tell(function, plan, before, budget)


def bytes_of(budget: str, whole: int) -> int:
    """The bytes that a budget stands for, where `whole` are kept now. Raises ValueError."""
    found = re.fullmatch(r"(\d+)([KMG]?)|(0?\.\d+|1\.0*|0\.)", budget)
    if found is None:
        raise ValueError(f"option 'budget' must be bytes (1000000, 64M) or a share (0.5), got '{budget}'")
    return int(found[1]) * UNITS[found[2]] if found[1] else int(float(budget) * whole)


def _apply(plan: Plan) -> None:
    """Puts copies of the ops in front of the first op behind the loss that reads what they compute."""
    copies: dict[Value, Value] = {}
    for op in plan.backward:
        for inner in op.walk():
            if any(v in plan.again for v in inner.operands):
                inner.operands = [_again(v, op, plan, copies) for v in inner.operands]


def _again(value: Value, before: Op, plan: Plan, copies: dict[Value, Value]) -> Value:
    """The value that stands for `value` behind the loss."""
    if value not in plan.again:
        return value
    waiting = [value]
    while waiting:
        op = plan.made[waiting[-1]]
        missing = [v for v in op.operands if v in plan.again and v not in copies]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        if op.results[0] not in copies:
            copy = op.clone(dict(copies))
            copy.attributes[AGAIN] = UnitAttr()
            assert before.block is not None
            before.block.insert(copy, before)
            for old, new in zip(op.results, copy.results, strict=True):
                new.name = f"{name_wished(old)}_again"
                copies[old] = new
    return copies[value]


def _tell(function: FuncOp, plan: Plan, before: int, budget: int) -> None:
    if not remarks.wanted():
        return
    flops = 0
    for op in dict.fromkeys(plan.made[v] for v in plan.made if v in plan.again):
        more = flops_of(op)
        flops += more
        saved = sum(plan.size(r) for r in op.results if r in plan.read)
        text = f"is computed again: {saved} bytes less, {more} operations more"
        remarks.applied(op, text, saved=saved, flops=more)
    after = plan.nbytes()
    for value in plan.kept():
        if plan.size(value):
            why = "the budget is met" if after <= budget else "others are computed of it again"
            remarks.missed(plan.made[value], f"is kept: {why}", bytes=plan.size(value))
    if after < before:
        text = f"keeps {after} bytes for the part behind the loss, not {before}, for {flops} operations more"
        remarks.applied(function, text, saved=before - after, flops=flops)
    if after > budget:
        remarks.missed(function, f"keeps {after} bytes, more than the budget of {budget}", bytes=after)
