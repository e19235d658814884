"""The evaluator's core: it runs a block op by op and holds the values of one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.ir.core import Block, Op, Value
from mdsl.ir.types import DYNAMIC, TensorType, dtype_of
from mdsl.reference.registry import failure, meaning


@dataclass(frozen=True, slots=True)
class Step:
    """One op of a block, with its meaning looked up."""

    function: Callable[..., Any]
    nested: bool  # the function takes the scope
    op: Op
    operands: tuple[Value, ...]
    results: tuple[Value, ...]


class Evaluator:
    """Runs one module; what it looks up once (steps of a block, data of a global) it keeps."""

    def __init__(self, module: ModuleOp) -> None:
        self.symbols = {str(op.attr("sym_name")): op for op in module.body.ops if op.has("symbol")}
        self.globals: dict[str, np.ndarray] = {}
        self._steps: dict[Block, list[Step]] = {}

    def symbol(self, user: Op, name: str) -> Op:
        """The op that defines `@name`."""
        if name not in self.symbols:
            raise failure(user, f"@{name} is not defined")
        return self.symbols[name]

    def call(self, function: FunctionLike, arguments: Sequence[Any]) -> list[Any]:
        """Runs `function` and returns what its terminator hands back."""
        return Scope(self, {}).run(function.body, *arguments)

    def steps(self, block: Block) -> list[Step]:
        """The ops of `block` but for its terminator."""
        if block not in self._steps:
            self._steps[block] = [_step(op) for op in block.ops if not op.has("terminator")]
        return self._steps[block]


def _step(op: Op) -> Step:
    found = meaning(op.name)
    if found is None:
        raise failure(op, "the reference has no meaning for this op here")
    function, nested = _nothing(op) or found
    return Step(function, nested, op, tuple(op.operands), tuple(op.results))


def _nothing(op: Op) -> tuple[Callable[..., Any], bool] | None:
    """The meaning of a pure op whose only result is a tensor without elements: there is nothing to compute."""
    type = op.results[0].type if len(op.results) == 1 and op.has("pure") else None
    if not isinstance(type, TensorType) or 0 not in type.shape or DYNAMIC in type.shape:
        return None
    shape, dtype = type.shape, dtype_of(type.element)
    return lambda op, *operands: np.empty(shape, dtype), False


class Scope:
    """The values of one call of a function; regions within it share them."""

    def __init__(self, evaluator: Evaluator, values: dict[Value, Any]) -> None:
        self.evaluator = evaluator
        self.values = values

    def run(self, block: Block, *arguments: Any) -> list[Any]:
        """Runs `block` with `arguments` and returns the operands of its terminator."""
        self.values.update(zip(block.args, arguments, strict=True))
        for step in self.evaluator.steps(block):
            self.execute(step)
        end = block.last
        return [self.values[v] for v in end.operands] if end is not None and end.has("terminator") else []

    def execute(self, step: Step) -> None:
        """Runs one op and stores its results."""
        values = self.values
        operands = [values[v] for v in step.operands]
        try:
            found = (
                step.function(self, step.op, *operands) if step.nested else step.function(step.op, *operands)
            )
        except ValueError as error:  # NumPy's word for shapes that do not fit, where types leave them open
            raise failure(step.op, str(error)) from error
        results = step.results
        if len(results) == 1:
            values[results[0]] = found[0] if type(found) is tuple else found
        elif results:
            values.update(zip(results, found, strict=True))
