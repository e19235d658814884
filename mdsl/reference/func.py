"""Meaning of the func dialect."""

from __future__ import annotations

from typing import Any

from mdsl.dialects.func import FunctionLike
from mdsl.ir.core import Op
from mdsl.reference.evaluator import Scope
from mdsl.reference.registry import failure, structured


@structured("func.call")
def call(scope: Scope, op: Op, *operands: Any) -> tuple[Any, ...]:
    name = str(op.attr("callee"))
    callee = scope.evaluator.symbol(op, name)
    if not isinstance(callee, FunctionLike):
        raise failure(op, f"@{name} is not a function")
    return tuple(scope.evaluator.call(callee, operands))
