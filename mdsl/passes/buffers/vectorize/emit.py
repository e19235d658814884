"""Emission of vector code for a group of nests: register blocks, accumulators in registers, bodies on vectors."""

from __future__ import annotations

from collections.abc import Sequence

from mdsl.analysis.code_size import is_function
from mdsl.analysis.nest import Access, Axis, Group, Linear, Nest
from mdsl.dialects import arith, linalg, math, vector
from mdsl.ir.core import Op, Value
from mdsl.ir.types import VectorType, element_of, index
from mdsl.passes.buffers.vectorize.lane_reduction import reduce_lanes
from mdsl.passes.buffers.vectorize.late import evaluate_late
from mdsl.passes.buffers.vectorize.plan import (
    COMBINING,
    Plan,
    Point,
    combining_op,
    neutral,
)
from mdsl.passes.buffers.vectorize.prefetching import prefetch
from mdsl.passes.buffers.vectorize.transposition import load_transposed
from mdsl.rewriting.kernel_builder import KernelBuilder, Key, is_regular
from mdsl.target import cost
from mdsl.target.target import Target

Write = tuple[Access, Point, Value]


class GroupEmitter:
    """Emits one group by its plan."""

    def __init__(self, group: Group, plan: Plan, out: KernelBuilder, target: Target) -> None:
        self.group = group
        self.plan = plan
        self.out = out
        self.target = target
        self.writes: dict[Key, Write] = {}
        self.pieces: list[Point] = []
        """The points of the block that is being emitted."""
        self.sizes: dict[Axis, int] = {}
        """How many elements that block has along each axis."""

    def emit(self) -> None:
        """Loops over blocks, those of each size together."""
        self._blocks(self.plan.order or list(self.group.axes), {}, {})

    def _blocks(self, left: list[Axis], base: dict[Axis, Linear], sizes: dict[Axis, int]) -> None:
        if not left:
            self._block(base, sizes)
            return
        axis, *rest = left
        start = 0
        for size, count in self.plan.pieces(axis):
            if count > 1:
                loop = self.out.open_loop(range(start, start + count * size, size), axis.name)
                self._blocks(rest, {**base, axis: Linear(((loop.iv, 1),))}, {**sizes, axis: size})
                self.out.close_loop()
            else:
                self._blocks(rest, {**base, axis: Linear(constant=start)}, {**sizes, axis: size})
            start += count * size

    def _block(self, base: dict[Axis, Linear], sizes: dict[Axis, int]) -> None:
        """All nests at the points of one block: at once, as vectors of several dimensions, if every access is regular."""
        self.pieces, self.sizes = self._points(base, sizes), sizes
        self.out.enter_leaf()
        self.writes.clear()
        if self.plan.late:
            for point in self.pieces:
                evaluate_late(self, self.group.nests[0], point)
        else:
            whole = self._whole(base, sizes)
            self._evaluate_nests([whole] if whole else self.pieces)
        self.out.leave_leaf()

    def _whole(self, base: dict[Axis, Linear], sizes: dict[Axis, int]) -> Point | None:
        """The block as one point, if its accesses allow that."""
        vector = self.plan.vector
        if vector is None or self.plan.runs or any(nest.indexes() for nest in self.group.nests):
            return None
        dims = [(axis, size) for axis, size in sizes.items() if size > 1 and axis is not vector]
        point = Point(base, (*dims, (vector, sizes[vector])))
        accesses = [access for nest in self.group.nests for access in (*nest.reads, *nest.outputs)]
        return point if all(is_regular(access, point.dims) for access in accesses) else None

    def _evaluate_nests(self, points: list[Point]) -> None:
        """All nests at the points, then the stores."""
        for access, length in self.plan.runs.items():
            assert self.plan.across is not None
            load_transposed(self.out, access, points, self.plan.across, length)
        for nest in self.group.nests:
            if nest in self.plan.lanes_reduced:
                results = reduce_lanes(self, nest, points)
            elif nest.reduction:
                results = self._reduce(nest, points)
            else:
                results = self.evaluate_all(nest, points, [self.initial(nest, point) for point in points])
            for point, values in zip(points, results, strict=True):
                self._record(nest, point, values)
        for access, point, value in self.writes.values():
            if not self.group.private(access.memory):
                self.out.write(access, point.env, point.dims, value)

    def read(self, access: Access, point: Point) -> Value:
        """The element, or vector, of a point."""
        return self.out.read(access, point.env, point.dims)

    def _points(self, base: dict[Axis, Linear], sizes: dict[Axis, int]) -> list[Point]:
        """The block's points, the axis with most points outside: so an operand that depends on it is used up
        before the next is loaded, and only those of the shorter axes stay in registers."""
        offsets: dict[Axis, list[int]] = {}
        for axis, size in sizes.items():
            offsets[axis] = list(range(0, size, self.plan.lanes if axis is self.plan.vector else 1))
        points = [Point({})]
        for axis in sorted(sizes, key=lambda axis: -len(offsets[axis])):
            grown: list[Point] = []
            for point in points:
                for offset in offsets[axis]:
                    lanes = min(self.plan.lanes, sizes[axis] - offset)
                    dims = ((axis, lanes),) if axis is self.plan.vector else point.dims
                    grown.append(Point({**point.env, axis: base[axis].plus(offset)}, dims))
            points = grown
        return points

    def _record(self, nest: Nest, point: Point, values: Sequence[Value]) -> None:
        """The outputs' new values, seen by later nests of the block and stored at its end."""
        for access, value in zip(nest.outputs, values, strict=True):
            value = self.out.spread(value, point.shape)
            key = self.out.key(access, point.env, point.dims)
            self.out.remember(key, value, self.out.leaf)
            self.writes.pop(key, None)
            self.writes[key] = (access, point, value)

    # Reductions -------------------------------------------------------------------------------------

    def initial(self, nest: Nest, point: Point) -> list[Value | None]:
        """The outputs' values before the nest; None for those that the body does not use."""
        args = nest.body.args[len(nest.inputs) :]
        pairs = zip(nest.outputs, args, strict=True)
        return [self.read(access, point) if arg.users else None for access, arg in pairs]

    def _reduce(self, nest: Nest, points: list[Point]) -> list[list[Value]]:
        """Loops over the reduction axes that carry the outputs' values at all points; where the plan splits the
        reduction, in several accumulators a point, of which the first starts with the old value."""
        width = len(nest.outputs)
        split = self.plan.split.get(nest, 1)
        values: list[Value] = [v for p in points for v in self.carried(nest, p, self.initial(nest, p))]
        values += [self._neutral(nest, o, p) for _ in range(1, split) for p in points for o in range(width)]
        names = [self._result_name(nest, i % width, i // width) for i in range(len(values))]
        env: dict[Axis, Linear] = {}
        *outer, inner = nest.reduction
        for axis in outer:
            loop = self.out.open_loop(range(axis.extent), axis.name, values, names)
            env[axis] = Linear(((loop.iv, 1),))
            values = [*loop.carried]
        end = inner.extent // split * split
        values = self._steps(
            nest, points, env, range(0, end, split), values, names, self.plan.unroll.get(nest, 1)
        )
        size = len(points) * width
        if end < inner.extent:
            first = self._steps(nest, points, env, range(end, inner.extent), values[:size], names[:size])
            values = [*first, *values[size:]]
        for _ in outer:
            values = self.out.close_loop(values)
        for chain in range(1, split):
            for i in range(size):
                values[i] = self.combine(nest, i % width, values[i], values[chain * size + i])
        return [values[i : i + width] for i in range(0, size, width)]

    def _steps(
        self,
        nest: Nest,
        points: list[Point],
        env: dict[Axis, Linear],
        span: range,
        values: Sequence[Value],
        names: list[str],
        unroll: int = 1,
    ) -> list[Value]:
        """The innermost loop over `span`: in each round `unroll` times one step for each accumulator in `values`."""
        inner, step = nest.reduction[-1], span.step
        loop = self.out.open_loop(range(span.start, span.stop, step * unroll), inner.name, values, names)
        results: Sequence[Value] = loop.carried
        for start in range(0, step * unroll, step):
            results = self._step(nest, points, {**env, inner: Linear(((loop.iv, 1),), start)}, results)
        if step == 1:
            prefetch(self, nest, env, loop.iv, unroll)
        return self.out.close_loop(results)

    def _step(
        self, nest: Nest, points: list[Point], env: dict[Axis, Linear], carried: Sequence[Value]
    ) -> list[Value]:
        """New values of all accumulators: those of the first chain by the step at `env`, of the next by the one after."""
        width, inner = len(nest.outputs), nest.reduction[-1]
        results: list[Value] = []
        for chain in range(len(carried) // (len(points) * width)):
            at = {**env, inner: env[inner].plus(chain)}
            for point in points:
                step = self.evaluate(nest, point.at(at), carried[len(results) : len(results) + width])
                results += [self.out.spread(v, point.shape) for v in step]
        return results

    def _neutral(self, nest: Nest, output: int, point: Point) -> Value:
        op = combining_op(nest, output)
        assert op is not None
        element = element_of(nest.outputs[output].memory.type)
        return self.out.spread(
            self.out.constants.get(neutral(COMBINING[op.name], element), element), point.shape
        )

    def combine(self, nest: Nest, output: int, left: Value, right: Value) -> Value:
        """Two partial results of a reduction as one."""
        op = combining_op(nest, output)
        assert op is not None
        return self.out.emit(type(op)(left, right), nest.outputs[output].memory.name)

    def carried(self, nest: Nest, point: Point, values: Sequence[Value | None]) -> list[Value]:
        """Values for a loop to carry, as vectors; zeros for outputs that the body only writes."""
        found: list[Value] = []
        for access, value in zip(nest.outputs, values, strict=True):
            if value is None:
                value = self.out.constants.get(0, element_of(access.memory.type))
            found.append(self.out.spread(value, point.shape))
        return found

    def _result_name(self, nest: Nest, output: int, number: int) -> str:
        return f"{nest.outputs[output].memory.name or 'acc'}_{number}"

    # Bodies -----------------------------------------------------------------------------------------

    def evaluate(self, nest: Nest, point: Point, outputs: Sequence[Value | None]) -> list[Value]:
        """The body at a point, on vectors where an operand is one; `outputs` are the outputs' old values."""
        return self.evaluate_all(nest, [point], [outputs])[0]

    def evaluate_all(
        self, nest: Nest, points: Sequence[Point], outputs: Sequence[Sequence[Value | None]]
    ) -> list[list[Value]]:
        """The body at each point; where it computes an elementary function, at `cost.ABREAST` of them in turn."""
        together = cost.ABREAST if any(map(is_function, nest.body.ops)) else 1
        results: list[list[Value]] = []
        for start in range(0, len(points), together):
            some = slice(start, start + together)
            pairs = zip(points[some], outputs[some], strict=True)
            environments = [(point, self._arguments(nest, point, old)) for point, old in pairs]
            for op in nest.body.ops:
                for point, values in environments:
                    self.operation(op, point, values, nest)
            yielded = nest.body.terminator.operands
            results += [[values.get(v, v) for v in yielded] for _, values in environments]
        return results

    def _arguments(self, nest: Nest, point: Point, outputs: Sequence[Value | None]) -> dict[Value, Value]:
        """What the body's arguments are at a point."""
        values: dict[Value, Value] = {}
        split = len(nest.inputs)
        for arg, access in zip(nest.body.args[:split], nest.inputs, strict=True):
            if arg.users:
                values[arg] = self.read(access, point)
        old = zip(nest.body.args[split:], outputs, strict=True)
        return values | {arg: v for arg, v in old if v is not None}

    def operation(self, op: Op, point: Point, values: dict[Value, Value], nest: Nest) -> None:
        """One op of the body at a point, whose `values` its result joins."""
        if isinstance(op, linalg.IndexOp):
            values[op.result] = self._counter(nest.axes[op.attr("dim")], point)
        elif isinstance(op, arith.Constant):
            values[op.result] = self.out.constants.intern(op, op.result.name)
        elif not isinstance(op, linalg.Yield) and not self._feeds_fma(op, nest):
            values[op.result] = self._arithmetic(op, values, nest)

    def _counter(self, axis: Axis, point: Point) -> Value:
        """The loop counter as data: a vector of neighbouring numbers along the vectors' axis."""
        start = self.out.index(point.env.get(axis, Linear()))
        if not point.dims or axis is not point.dims[-1][0]:
            return start
        steps = self.out.pure(vector.Step(results=[VectorType(point.shape, index)]), "lane")
        return self.out.pure(arith.AddI(self.out.spread(start, point.shape), steps), axis.name)

    def _feeds_fma(self, op: Op, nest: Nest) -> bool:
        """True for a product whose only use is to be added to an accumulator."""
        if op.name != "arith.mulf" or not nest.reduction or len(op.result.users) != 1:
            return False
        (user,) = op.result.users
        olds = nest.body.args[len(nest.inputs) :]
        return user.name == "arith.addf" and any(v in olds for v in user.operands)

    def _arithmetic(self, op: Op, values: dict[Value, Value], nest: Nest) -> Value:
        product = next(
            (v.owner for v in op.operands if isinstance(v.owner, Op) and self._feeds_fma(v.owner, nest)), None
        )
        if isinstance(product, Op):
            other = next(v for v in op.operands if v is not product.result)
            operands = [values.get(v, v) for v in (*product.operands, other)]
        else:
            operands = [values.get(v, v) for v in op.operands]
        shape = next((v.type.shape for v in operands if isinstance(v.type, VectorType)), ())
        operands = [self.out.spread(v, shape) for v in operands]
        name = op.result.name or op.name.split(".")[1]
        if isinstance(product, Op):
            return self.out.emit(vector.Fma(*operands) if shape else math.Fma(*operands), name)
        element = op.result.type
        type = VectorType(shape, element) if shape else element
        return self.out.pure(op.from_parts(operands, [type], op.attributes), name)
