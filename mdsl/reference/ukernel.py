"""Meaning of the ukernel dialect: a dispatch is a call, a region is the ops in it."""

from __future__ import annotations

from typing import Any

from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.core import Op
from mdsl.reference.evaluator import Scope
from mdsl.reference.registry import failure, structured


@structured("ukernel.region")
def region(scope: Scope, op: Op) -> tuple[Any, ...]:
    return tuple(scope.run(op.body))


@structured("ukernel.dispatch")
def dispatch(scope: Scope, op: Op, *operands: Any) -> tuple[Any, ...]:
    callee = scope.evaluator.symbol(op, str(op.attr("callee")))
    if not isinstance(callee, UkernelFunc):
        raise failure(op, f"@{op.attr('callee')} is not a micro-kernel")
    count = len(callee.body.args)
    calls = (
        [operands[i : i + count] for i in range(0, len(operands), count)]
        if count
        else [()] * op.attr("batch")
    )
    return tuple(result for call in calls for result in scope.evaluator.call(callee, call))
