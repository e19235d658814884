"""lower-nn: sorting."""

from __future__ import annotations

from mdsl.dialects import linalg, nn
from mdsl.dialects.nn.base import axis_in
from mdsl.ir.attributes import DenseArrayAttr
from mdsl.ir.core import Value
from mdsl.ir.typed import tensor_of
from mdsl.ir.types import i64
from mdsl.passes.nn.lower_nn.build import Emitter, lowers
from mdsl.passes.nn.lower_nn.elementwise import converted
from mdsl.passes.nn.lower_nn.ranks import at_rank, ranks
from mdsl.passes.nn.lower_nn.sorting import RUN, sorted_rows


@lowers("nn.argsort")
def argsort(e: Emitter, op: nn.ArgSort) -> Value:
    """Long rows lie one behind the other for it."""
    shape, result = tensor_of(op.x).shape, tensor_of(op.result)
    axis, descending = axis_in(op, op.attr("axis"), len(shape)), op.attr("descending")
    count, rank = result.shape[axis], len(shape)
    if shape[axis] <= RUN:
        found = at_rank(e, ranks(e, op.x, axis, descending), None, axis, count, "found")
        return _as_results(e, found, None)
    others = [d for d in range(rank) if d != axis]
    back = [*range(axis), rank - 1, *range(axis, rank - 1)]
    own = None if axis == rank - 1 else "places"  # the last op has the result's name
    lying = _transposed(e, op.x, [*others, axis], "lying")
    rows = e.reshape(lying, (tensor_of(op.x).size // shape[axis], shape[axis]), "rows")
    _, places = sorted_rows(e, rows, count, descending)
    places = _as_results(e, places, own if rank == 2 else "wide")
    return _transposed(e, e.reshape(places, [*(shape[d] for d in others), count], own), back, None)


def _as_results(e: Emitter, places: Value, suffix: str | None) -> Value:
    shape = tensor_of(places).shape
    return e.map([(places, range(len(shape)))], shape, i64, lambda s, p: converted(s, p, i64), suffix)


def _transposed(e: Emitter, x: Value, perm: list[int], suffix: str | None) -> Value:
    """Dimension d of the result is `perm[d]` of x."""
    type = tensor_of(x)
    if perm == sorted(perm):
        return x
    init = e.empty([type.shape[d] for d in perm], type.element)
    return e.value(linalg.Transpose.make([x], [init], permutation=DenseArrayAttr(i64, tuple(perm))), suffix)
