"""Which op made the first number that is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdsl.compiler.entry import entry
from mdsl.dialects.arith import Constant
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.ir.core import Op
from mdsl.reference import run
from mdsl.reference.evaluator import Evaluator, Scope, Step


def all_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether floats among the arrays are numbers, none of them infinite."""
    return all(array.dtype.kind in "iub" or bool(np.isfinite(array).all()) for array in arrays)


def fault(step: ModuleOp, arrays: Mapping[str, np.ndarray], number: int) -> MdslError | None:
    """The error for step `number`, whose program is run op by op on what it was given: names the op that made NaN or infinity of
    numbers, or the input that held some; None where all is finite."""
    inputs = {str(a.name): arrays[str(a.name)] for a in entry(step).inputs()}
    for name, array in inputs.items():
        if not all_finite([array]):
            return MdslError(f"error: step {number}: input '{name}' holds {_what(array)}")
    watching = _Watching(step)
    try:
        run(step, list(inputs.values()), evaluator=watching)
    except _Found as found:
        value = found.op.results[0].name
        text = f"step {number}: %{value} is {_what(found.array)}, of finite numbers"
        return MdslError(*found.op.error(text).lines())
    return None


def _what(array: np.ndarray) -> str:
    return "NaN" if np.isnan(array).any() else "infinity"


class _Found(Exception):
    def __init__(self, op: Op, array: np.ndarray) -> None:
        super().__init__(op.name)
        self.op, self.array = op, array


class _Watching(Evaluator):
    """Stops at the first op that makes what is not finite of what is."""

    def call(self, function: Any, arguments: Sequence[Any]) -> list[Any]:
        return _WatchingScope(self, {}).run(function.body, *arguments)


class _WatchingScope(Scope):
    def execute(self, step: Step) -> None:
        super().execute(step)
        if isinstance(step.op, Constant):
            return
        for value in step.results:
            array = np.asarray(self.values[value])
            if not all_finite([array]) and all_finite([np.asarray(self.values[v]) for v in step.operands]):
                raise _Found(step.op, array)
