"""Meaning of the ukernel dialect: a dispatch is a call, a region is the ops in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdsl.dialects.ukernel import UkernelFunc
from mdsl.ir.attributes import StringAttr
from mdsl.ir.core import Op
from mdsl.reference.evaluator import Scope
from mdsl.reference.registry import failure, structured
from mdsl.support import across
from mdsl.support.across import ACROSS


@structured("ukernel.region")
def region(scope: Scope, op: Op) -> tuple[Any, ...]:
    return tuple(scope.run(op.body))


@structured("ukernel.dispatch")
def dispatch(scope: Scope, op: Op, *operands: Any) -> tuple[Any, ...]:
    callee = kernel(scope, op, str(op.attr("callee")))
    count = len(callee.body.args)
    calls = (
        [operands[i : i + count] for i in range(0, len(operands), count)]
        if count
        else [()] * op.attr("batch")
    )
    return tuple(result for arguments in calls for result in call(scope, callee, arguments))


def kernel(scope: Scope, op: Op, name: str) -> UkernelFunc:
    """The micro-kernel that `op` dispatches."""
    callee = scope.evaluator.symbol(op, name)
    if not isinstance(callee, UkernelFunc):
        raise failure(op, f"@{name} is not a micro-kernel")
    return callee


def call(scope: Scope, callee: UkernelFunc, arguments: Sequence[Any]) -> list[Any]:
    """What a micro-kernel returns, of tensors; of memory it writes its last argument."""
    found = scope.evaluator.call(callee, arguments)
    kind = callee.attributes.get(ACROSS)
    if not isinstance(kind, StringAttr):
        return found
    total = np.array(found[0]) if found else arguments[-1]
    across.reduce(total, kind.value)
    return [total] if found else []
