"""Lane reduction: a sum along the vectors' own axis, in accumulators whose lanes are combined at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.analysis.nest import Axis, Linear, Nest
from mdsl.dialects import vector
from mdsl.ir.core import Value
from mdsl.ir.types import element_of
from mdsl.passes.buffers.vectorize.plan import COMBINING, Point, combining_op, neutral

if TYPE_CHECKING:
    from mdsl.passes.buffers.vectorize.emit import GroupEmitter


def reduce_lanes(emitter: GroupEmitter, nest: Nest, points: list[Point]) -> list[list[Value]]:
    """The nest's results at scalar points, reduced along the axis that the plan says."""
    return _LaneReduction(emitter, nest, points).emit()


class _LaneReduction:
    def __init__(self, emitter: GroupEmitter, nest: Nest, points: list[Point]) -> None:
        self.emitter = emitter
        self.out = emitter.out
        self.nest = nest
        self.points = points
        self.axis: Axis = emitter.plan.lanes_reduced[nest]
        lanes = emitter.plan.lanes
        self.vectors, self.tail = divmod(self.axis.extent, lanes)
        self.chains = min(emitter.plan.chains, self.vectors)
        self.widths = [*[lanes] * self.chains, *([self.tail] if self.tail else [])]
        self.lanes = lanes
        self.kinds: list[str] = []
        for output in range(len(nest.outputs)):
            op = combining_op(nest, output)
            assert op is not None
            self.kinds.append(COMBINING[op.name])

    def emit(self) -> list[list[Value]]:
        """Accumulators start neutral, run through the loops, and are combined with the outputs' old values."""
        before = [self.emitter.initial(self.nest, point) for point in self.points]
        values: list[Value] = []
        names: list[str | None] = []
        for number in range(len(self.points)):
            for width in self.widths:
                for output, access in enumerate(self.nest.outputs):
                    element = element_of(access.memory.type)
                    start = self.out.constants.get(neutral(self.kinds[output], element), element)
                    values.append(self.out.spread(start, (width,)))
                    names.append(f"{access.memory.name or 'acc'}_{number}")
        values = self._loops([a for a in self.nest.reduction if a is not self.axis], {}, values, names)
        size = len(values) // len(self.points)
        rows = [values[i * size : (i + 1) * size] for i in range(len(self.points))]
        return [self._finish(row, old) for row, old in zip(rows, before, strict=True)]

    def _loops(
        self, left: list[Axis], env: dict[Axis, Linear], values: list[Value], names: list[str | None]
    ) -> list[Value]:
        """The other reduction axes outside, the axis of the vectors innermost."""
        if left:
            loop = self.out.open_loop(range(left[0].extent), left[0].name, values, names)
            inner = self._loops(
                left[1:], {**env, left[0]: Linear(((loop.iv, 1),))}, list(loop.carried), names
            )
            return self.out.close_loop(inner)
        rounds = self.vectors // self.chains if self.chains else 0
        step = self.chains * self.lanes
        if rounds > 1:
            # The tails' accumulators do not change in this loop.
            moving = [
                i for i in range(len(values)) if i // len(self.nest.outputs) % len(self.widths) < self.chains
            ]
            inits = [values[i] for i in moving]
            span = range(0, rounds * step, step)
            loop = self.out.open_loop(span, self.axis.name, inits, [names[i] for i in moving])
            inside = _with(values, moving, loop.carried)
            inside = self._step(env, Linear(((loop.iv, 1),)), range(self.chains), inside)
            values = _with(values, moving, self.out.close_loop([inside[i] for i in moving]))
        elif rounds == 1:
            values = self._step(env, Linear(), range(self.chains), values)
        rest = self.vectors - rounds * self.chains
        values = self._step(env, Linear(constant=rounds * step), range(rest), values)
        if self.tail:
            at = (self.vectors - self.chains) * self.lanes  # the tail's accumulator follows the chains'
            values = self._step(env, Linear(constant=at), [self.chains], values)
        return values

    def _step(
        self, env: dict[Axis, Linear], base: Linear, chains: Sequence[int], values: list[Value]
    ) -> list[Value]:
        """One vector for each of the given accumulators of every row."""
        values = list(values)
        width = len(self.nest.outputs)
        places: list[tuple[int, Point]] = []
        for number, point in enumerate(self.points):
            for chain in chains:
                at = base.plus(chain * self.lanes)
                inner = Point({**point.env, **env, self.axis: at}, ((self.axis, self.widths[chain]),))
                places.append(((number * len(self.widths) + chain) * width, inner))
        olds = [values[first : first + width] for first, _ in places]
        news = self.emitter.evaluate_all(self.nest, [inner for _, inner in places], olds)
        for (first, inner), new in zip(places, news, strict=True):
            values[first : first + width] = [self.out.spread(v, inner.shape) for v in new]
        return values

    def _finish(self, row: list[Value], old: Sequence[Value | None]) -> list[Value]:
        """Combines a row's accumulators, then their lanes, then what the output held before."""
        outputs = len(self.nest.outputs)
        results: list[Value] = []
        for output in range(outputs):
            name = self.nest.outputs[output].memory.name
            parts = row[output::outputs]
            full, tail = parts[: self.chains], parts[self.chains :]
            while len(full) > 1:
                pairs = zip(full[::2], full[1::2], strict=False)
                full = [
                    *(self.emitter.combine(self.nest, output, a, b) for a, b in pairs),
                    *full[len(full) // 2 * 2 :],
                ]
            total = old[output]
            assert total is not None
            for part in (*full, *tail):
                lane = self.out.emit(vector.Reduction.of(self.kinds[output], part), name)
                total = self.emitter.combine(self.nest, output, total, lane)
            results.append(total)
        return results


def _with(values: Sequence[Value], positions: Sequence[int], new: Sequence[Value]) -> list[Value]:
    """`values` with those at `positions` replaced."""
    changed = list(values)
    for position, value in zip(positions, new, strict=True):
        changed[position] = value
    return changed
