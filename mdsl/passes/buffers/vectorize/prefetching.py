"""Prefetching: what loops over reductions ask for ahead of its use, for it comes from far away, where the processor's own
prefetcher does not look: streams of weights, which stops it at each page, and rows of pixels, which lie apart.

Weights are read by every block of a tile, but come from memory for the first only. If the next tile's fit the second-level
cache beside this tile's, each block asks for its share of them, so that memory sends them while the whole tile is computed;
otherwise all blocks ask for what they read themselves some way further on, unless they are too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING

from mdsl.analysis.nest import Access, Axis, Linear, Nest
from mdsl.ir.core import Value
from mdsl.passes.buffers.vectorize.plan import Plan, Point
from mdsl.target import cost
from mdsl.target.target import ELEMENT_BYTES

if TYPE_CHECKING:
    from mdsl.passes.buffers.vectorize.emit import GroupEmitter

_L1, _L2 = 3, 2
"""Localities of `memref.prefetch`: into every cache, or from the second level on."""


def prefetch(emitter: GroupEmitter, nest: Nest, env: dict[Axis, Linear], counter: Value, steps: int) -> None:
    """At the end of a round of the loop over the innermost reduction, which counts `counter` and does so many `steps` of the
    emitter's block; `env` has the outer reductions' counters."""
    target = emitter.target
    for access in _streams(nest, emitter.plan):
        blocks = _blocks(nest, access, emitter.plan)
        if blocks > 1 and _is_dense(access) and cost.next_fits(_bytes(access), target):
            _ask_for_share(emitter, nest, access, env, counter, steps)
        elif blocks <= cost.most_prefetches(target):
            _ask_ahead(emitter, nest, access, env, counter, steps)
    first, inner = emitter.pieces[0], nest.reduction[-1]
    for access, axis in _rows_ahead(nest, emitter.plan):
        behind = first.env[axis].plus(emitter.plan.block[axis])
        row = Linear.of({**dict(behind.terms), counter: 1}, behind.constant)
        emitter.out.prefetch(access, {**first.env, **env, axis: row, inner: Linear()}, None, _L1)


def _streams(nest: Nest, plan: Plan) -> list[Access]:
    """The inputs that a block reads from end to end, and others again: vectors that lie side by side along the innermost
    reduction."""
    inner = nest.reduction[-1]
    return [
        access
        for access in nest.inputs
        if access.type is not None
        and access.along(plan.vector) == "contiguous"
        and inner in access.axes
        and _others(nest, access)
        and _bytes(access) >= cost.WORTH_PREFETCHING
    ]


def _rows_ahead(nest: Nest, plan: Plan) -> list[tuple[Access, Axis]]:
    """The inputs that a block reads row by row, a cache line a row, in each round of an outer reduction from
    another place (pixels in blocks of channels), and the axis of their rows. The processor's prefetcher does
    not follow from place to place; a step of the innermost reduction for each element of the line is enough
    to ask for the rows of the next block, one at a time."""
    *outer, inner = nest.reduction
    rows = [axis for axis, size in plan.block.items() if axis is not plan.vector and size > 1]
    found: list[tuple[Access, Axis]] = []
    for access in nest.inputs:
        windows = any(len(index.terms) > 1 for index in access.indices)
        if access.type is None or windows or access.along(inner) != "contiguous":
            continue
        own = [axis for axis in rows if axis in access.axes]
        places = any(axis in access.axes for axis in outer)
        if places and len(own) == 1 and plan.block[own[0]] <= inner.extent <= plan.lanes:
            found.append((access, own[0]))
    return found


def _ask_ahead(
    emitter: GroupEmitter, nest: Nest, access: Access, env: dict[Axis, Linear], counter: Value, steps: int
) -> None:
    """For what the block reads `Core.prefetch_bytes` later (at the end, for what the next tile reads), each line once."""
    inner, places = nest.reduction[-1], _places(emitter, access)
    start = ceil(emitter.target.core.prefetch_bytes / (len(places) * emitter.plan.lanes * _element(access)))
    lines: dict[int, dict[Axis, Linear]] = {}
    for ahead in range(start, start + steps):
        for point in places:
            at = {**point.env, **env, inner: Linear(((counter, 1),), ahead)}
            lines.setdefault(access.offset(at) // cost.LINE, at)
    for at in lines.values():
        emitter.out.prefetch(access, at, emitter.plan.vector, _L1)


def _ask_for_share(
    emitter: GroupEmitter, nest: Nest, access: Access, env: dict[Axis, Linear], counter: Value, steps: int
) -> None:
    """For the part of what the next tile reads that falls to this block's rows: it lies behind what this tile reads."""
    rows, vector, at = _others(nest, access), emitter.plan.vector, emitter.pieces[0].env
    columns = [axis for axis in nest.parallel if axis in access.axes]
    assert vector is not None
    all_rows, all_steps = prod(axis.extent for axis in rows), prod(axis.extent for axis in nest.reduction)
    block, elements = prod(emitter.sizes[axis] for axis in rows), _bytes(access) // _element(access)
    step = ceil(prod(emitter.sizes[axis] for axis in columns) * block / all_rows)
    factors = {
        **_factors(rows, emitter.sizes, ceil(elements / all_rows)),
        **_factors(columns, emitter.sizes, ceil(all_steps * block / all_rows)),
        **_factors(nest.reduction, {}, step),
    }
    now = {**at, **env, nest.reduction[-1]: Linear(((counter, 1),))}
    begin = Linear.of(factors, elements).substitute(now)
    for line in range(0, steps * step, cost.LINE // _element(access)):
        where = {**dict.fromkeys(access.axes, Linear()), vector: begin.plus(line)}
        emitter.out.prefetch(access, where, vector, _L2)


def _factors(axes: Sequence[Axis], block: Mapping[Axis, int], each: int) -> dict[Axis | Value, int]:
    """For each axis the elements that a step along it goes on, where points have `each` and block comes after block."""
    found: dict[Axis | Value, int] = {}
    for i, axis in enumerate(axes):
        found[axis] = each * prod(other.extent for other in axes[i + 1 :])
        each *= block.get(axis, 1)
    return found


def _others(nest: Nest, access: Access) -> list[Axis]:
    """The axes of the rows that share a stream."""
    return [axis for axis in nest.parallel if axis not in access.axes]


def _blocks(nest: Nest, access: Access, plan: Plan) -> int:
    """How many blocks of a tile read a stream."""
    return prod(sum(times for _, times in plan.pieces(axis)) for axis in _others(nest, access))


def _places(emitter: GroupEmitter, access: Access) -> list[Point]:
    """The vectors of a stream that a step of the block reads."""
    points = {emitter.out.key(access, point.env, point.dims): point for point in emitter.pieces if point.dims}
    return list(points.values())


def _is_dense(access: Access) -> bool:
    """True if a stream has no gaps: what follows it in memory is taken for the next tile's."""
    last = {axis: Linear(constant=axis.extent - 1) for axis in access.axes}
    return access.offset(last) + _element(access) == _bytes(access)


def _bytes(access: Access) -> int:
    return prod(axis.extent for axis in access.axes) * _element(access)


def _element(access: Access) -> int:
    assert access.type is not None
    return ELEMENT_BYTES[str(access.type.element)]
