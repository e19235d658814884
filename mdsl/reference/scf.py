"""Meaning of the scf dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mdsl.dialects.indices import Index
from mdsl.dialects.scf import For, Forall, If
from mdsl.dialects.tensor import ParallelInsertSlice
from mdsl.ir.core import Value
from mdsl.reference.evaluator import Scope
from mdsl.reference.registry import failure, structured
from mdsl.reference.slices import region_of


@structured("scf.for")
def for_loop(scope: Scope, op: For, lower: Any, upper: Any, step: Any, *carried: Any) -> tuple[Any, ...]:
    if step <= 0:
        raise failure(op, f"the step must be positive, it is {step}")
    values: Sequence[Any] = carried
    for i in range(lower, upper, step):
        values = scope.run(op.body, np.int64(i), *values)
    return tuple(values)


@structured("scf.if")
def branch(scope: Scope, op: If, condition: Any) -> tuple[Any, ...]:
    if np.ndim(condition):
        raise failure(op, "a branch for each element is not a branch; use arith.select")
    then, otherwise = op.branches
    return tuple(scope.run(then if condition else otherwise))


def _counters(trips: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """The counters of nested loops, one after another: there may be more than memory holds."""
    if not trips:
        yield ()
        return
    for counter in trips[0]:
        for inner in _counters(trips[1:]):
            yield (counter, *inner)


@structured("scf.forall")
def forall(scope: Scope, op: Forall, *operands: Any) -> tuple[Any, ...]:
    """Iterations see the shared outputs as they were before the loop; what they insert goes into copies."""

    def number(entry: Index) -> int:
        return int(scope.values[entry]) if isinstance(entry, Value) else entry

    bounds = [tuple(number(entry) for entry in bound) for bound in op.bounds()]
    if any(step <= 0 for _, _, step in bounds):
        raise failure(op, f"steps must be positive, they are {[step for _, _, step in bounds]}")
    before = [scope.values[v] for v in op.outputs]
    after = dict(zip(op.shared, [np.array(tensor) for tensor in before], strict=True))
    inserts = op.body.terminator.body.ops
    for counters in _counters([range(*bound) for bound in bounds]):
        scope.run(op.body, *map(np.int64, counters), *before)
        for insert in inserts:
            assert isinstance(insert, ParallelInsertSlice)
            source, dest, *_ = insert.operands
            target = after[dest]  # type: ignore[index]
            part = region_of(insert, target.shape, scope.values)
            target[part] = scope.values[source].reshape(target[part].shape)
    return tuple(after.values())
