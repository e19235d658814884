"""lower-linalg-to-loops: structured ops as loops over scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import AliasAnalysis
from mdsl.dialects import arith, linalg, math, memref, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.ir.affine import AffineExpr, AffineMap, Arithmetic, Binary, Const, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.registry import operations
from mdsl.ir.types import MemRefType, f32, f64, index
from mdsl.passes.base import Context, Pass
from mdsl.rewriting.overlaps import put_inputs_aside


@dataclass(frozen=True)
class LowerLinalgToLoops(Pass):
    """Lower linalg ops and memref.copy on memory to loops of scalar loads, arithmetic and stores.

    Reductions are innermost and keep their accumulators in registers, carried by `scf.for`. What does not
    depend on an inner loop (index arithmetic, loads of broadcast operands, arithmetic on them) stands
    outside it. This is a program without micro-kernels: each element is an instruction's work.

    Before:

        linalg.matmul ins(%a, %b : memref<4x8xf32>, memref<8x4xf32>) outs(%c : memref<4x4xf32>)

    After:

        scf.for %d0 = %c0 to %c4 step %c1 {
          scf.for %d1 = %c0 to %c4 step %c1 {
            %acc = memref.load %c[%d0, %d1] : memref<4x4xf32>
            %sum = scf.for %d2 = %c0 to %c8 step %c1 iter_args(%acc_1 = %acc) -> (f32) {
              %a_1 = memref.load %a[%d0, %d2] : memref<4x8xf32>
              %b_1 = memref.load %b[%d2, %d1] : memref<8x4xf32>
              %fma = math.fma %a_1, %b_1, %acc_1 : f32
              scf.yield %fma : f32
            }
            memref.store %sum, %c[%d0, %d1] : memref<4x4xf32>
          }
        }
    """

    name: ClassVar[str] = "lower-linalg-to-loops"
    level: ClassVar[str | None] = "buffers"
    leads_to: ClassVar[str | None] = "kernels"

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        put_inputs_aside(module, aliases)
        for op in list(module.walk()):
            on_memory = all(
                not hasattr(v.type, "shape") or isinstance(v.type, MemRefType) for v in op.operands
            )
            if isinstance(op, linalg.LinalgOp) and on_memory:
                lower_op(op, Builder.before(op), aliases)
                op.erase()
            elif isinstance(op, memref.Copy):
                nest = linalg.Copy.make([op.operands[0]], [op.operands[1]])
                lower_op(nest, Builder.before(op), aliases)
                nest.erase()
                op.erase()


def lower_op(op: linalg.LinalgOp, builder: Builder, aliases: AliasAnalysis) -> None:
    """Builds the loops of `op`, whose operands are memrefs and scalars, at `builder`; the caller erases `op`."""
    _Nest(op, builder, aliases).build()


def index_constant(value: int, at: Builder) -> Value:
    """The index constant among those at the head of the function around `at`; made there if there is none."""
    block = at.block
    while block.parent_op is not None and not isinstance(block.parent_op, FunctionLike):
        parent = block.parent_op.block
        assert parent is not None
        block = parent
    op = block.first
    while isinstance(op, arith.Constant):
        if op.result.type == index and arith.constant_of(op.result) == value:
            return op.result
        op = op.next
    return Builder(block, op).value(arith.Constant.of(value, index), f"c{value}")


_DIVISIONS = {"floordiv": "arith.divsi", "mod": "arith.remsi"}
"""The ops of one machine instruction, which are right where nothing is negative."""


class _Nest:
    """The loops of one op. Level 0 is outside them, level i inside the i-th; every value is made on the
    outermost level that knows what it depends on."""

    def __init__(self, op: linalg.LinalgOp, builder: Builder, aliases: AliasAnalysis) -> None:
        self.op = op
        self.aliases = aliases
        self.sizes = op.loop_sizes()
        self.split = len(op.inputs)
        counted = [d for d in (*op.parallel_dims, *op.reduction_dims) if self.sizes[d] != 1]
        self.dims = counted
        # A loop of one iteration is none: its counter is 0 in every map.
        inner = [Dim(d) if d in counted else Const(0) for d in range(len(self.sizes))]
        self.maps = [m.compose(inner, len(self.sizes)) for m in op.maps]
        outputs = self.maps[self.split :]
        reductions = [d for d in counted if d in op.reduction_dims]
        carries = not any(e.dims() & set(reductions) for m in outputs for e in m.results)
        self.carry_from = len(counted) - len(reductions) if carries else len(counted)
        """Level of the accumulators: the loops inside it carry them."""
        self.builders = [Builder(builder.block, builder.point, builder.location or op.location)]
        self.loops: list[scf.For] = []
        self.counters: dict[AffineExpr, Value] = {}
        self.known: dict[tuple[str, Value, Value], Value] = {}
        self.values: dict[Value, Value] = {}
        self.levels: dict[Value, int] = {}

    def build(self) -> None:
        op = self.op
        self._open_loops(0, self.carry_from)
        accumulators = [self._accumulator(k) for k in range(len(op.outputs))]
        self._open_loops(self.carry_from, len(self.dims), accumulators)
        depth = len(self.dims)
        for k, arg in enumerate(op.body.args[self.split :]):
            carried = self.loops[-1].carried[k] if depth > self.carry_from else accumulators[k]
            if carried is not None:
                self._define(arg, carried, depth)
        for i, arg in enumerate(op.body.args[: self.split]):
            if arg.users:
                self._load(i, arg)
        for inner in op.body.ops:
            if not inner.has("terminator"):
                self._scalar(inner)
        self._close(self._yielded())

    # Loops ----------------------------------------------------------------------------------------------------

    def _open_loops(self, start: int, end: int, carried: list[Value | None] | None = None) -> None:
        """Opens the loops of levels start + 1 to end; they carry the accumulators."""
        inits = [v for v in carried or () if v is not None]
        for d in self.dims[start:end]:
            outer = self.builders[-1]
            bounds = [index_constant(n, outer) for n in (0, self.sizes[d], 1)]
            loop = scf.For.make(*bounds, inits=inits, iv=f"d{d}", names=["acc"] * len(inits))
            outer.add(loop, *["sum"] * len(inits))
            outer.point = loop
            self.loops.append(loop)
            self.builders.append(Builder(loop.body, location=outer.location))
            self.counters[Dim(d)] = loop.iv
            self.levels[loop.iv] = len(self.loops)
            inits = list(loop.carried)

    def _close(self, results: list[Value]) -> None:
        """Ends the loops: the carrying ones hand on the accumulators, then they are stored."""
        carrying = self.loops[self.carry_from :]
        for loop in reversed(carrying):
            loop.body.append(scf.Yield(results, results=[]))
            results = list(loop.results)
        level = self.carry_from
        builder = self.builders[level]
        after = Builder(
            builder.block,
            builder.point.next if carrying and builder.point else builder.point,
            builder.location,
        )
        for k, value in enumerate(results):
            indices = self._indices(self.split + k)
            after.add(memref.Store(value, self.op.outputs[k], indices, results=[]))
        for loop in self.loops[: self.carry_from]:
            loop.body.append(scf.Yield([], results=[]))

    # Values ---------------------------------------------------------------------------------------------------

    def _define(self, old: Value, new: Value, level: int) -> None:
        self.values[old] = new
        self.levels[new] = level

    def _level_of(self, expr: AffineExpr) -> int:
        return max((self.dims.index(d) + 1 for d in expr.dims()), default=0)

    def _indices(self, k: int) -> list[Value]:
        """Where operand `k` is accessed. What intervals cannot show to lie in the memref, though the op's verifier
        has tried it, is clamped: the proof of bounds knows intervals only."""
        found: list[Value] = []
        for expr, extent in zip(self.maps[k].results, linalg.shape_of(self.op.operands[k]), strict=True):
            low, high = expr.interval(self.sizes)
            value = self._index(expr)
            if low < 0:
                value = self._compute("arith.maxsi", value, self._constant(0))
            found.append(
                self._compute("arith.minsi", value, self._constant(extent - 1)) if high >= extent else value
            )
        return found

    def _index(self, expr: AffineExpr) -> Value:
        """The index that an affine expression stands for."""
        return expr.reduce(self._leaf, self._binary)

    def _leaf(self, expr: AffineExpr) -> Value:
        return self._constant(expr.value) if isinstance(expr, Const) else self.counters[expr]

    def _constant(self, value: int) -> Value:
        return index_constant(value, self.builders[0])

    def _binary(self, expr: Binary, left: Value, right: Value) -> Value:
        natural = isinstance(expr.rhs, Const) and expr.rhs.value > 0 and expr.lhs.interval(self.sizes)[0] >= 0
        if natural and expr.kind in _DIVISIONS:
            return self._compute(_DIVISIONS[expr.kind], left, right)
        return Arithmetic.of_ops(self._constant, self._compute).apply(expr, left, right)

    def _compute(self, name: str, left: Value, right: Value) -> Value:
        """An arith op on indices, on the outermost level that knows both; once for all its uses."""
        key = (name, left, right)
        if key not in self.known:
            level = max(self.levels.get(left, 0), self.levels.get(right, 0))
            self.known[key] = self.builders[level].value(operations()[name](left, right), "at")
            self.levels[self.known[key]] = level
        return self.known[key]

    def _accumulator(self, k: int) -> Value | None:
        """The output's old element, if the body or a loop's carried value needs it."""
        arg = self.op.body.args[self.split + k]
        if not arg.users and self.carry_from == len(self.dims):
            return None
        indices = self._indices(self.split + k)
        return self.builders[self.carry_from].value(
            memref.Load(self.op.outputs[k], indices), _telling(arg, "acc")
        )

    def _load(self, i: int, arg: Value) -> None:
        value = self.op.inputs[i]
        if not isinstance(value.type, MemRefType):
            self._define(arg, value, 0)
            return
        map: AffineMap = self.maps[i]
        # What the op itself writes is loaded in the iteration that needs it.
        depth = len(self.dims)
        level = (
            depth
            if not all(self.aliases.apart(value, out) for out in self.op.outputs)
            else max((self._level_of(e) for e in map.results), default=0)
        )
        indices = self._indices(i)
        loaded = self.builders[level].value(memref.Load(value, indices), _telling(arg, value.name))
        self._define(arg, loaded, level)

    def _scalar(self, op: Op) -> None:
        """One op of the body, on the outermost level that has its operands."""
        if isinstance(op, linalg.IndexOp):
            expr = self._counter(op.attr("dim"))
            self._define(op.result, self._index(expr), self._level_of(expr))
            return
        fused = self._as_fma(op)
        if fused is not None:
            self._define(op.result, self.builders[-1].value(fused, op.result.name or "fma"), len(self.dims))
            return
        if self._is_fused_away(op):
            return
        operands = [self.values.get(v, v) for v in op.operands]
        level = (
            max((self.levels.get(v, 0) for v in operands), default=0) if op.has("pure") else len(self.dims)
        )
        copy = op.clone(dict(self.values))
        self.builders[level].add(copy, *[r.name for r in op.results])
        for old, new in zip(op.results, copy.results, strict=True):
            self._define(old, new, level)

    def _counter(self, dim: int) -> AffineExpr:
        return Dim(dim) if dim in self.dims else Const(0)

    def _yielded(self) -> list[Value]:
        return [self.values.get(v, v) for v in self.op.body.terminator.operands]

    # Multiply-add ---------------------------------------------------------------------------------------------

    def _as_fma(self, op: Op) -> Op | None:
        """An accumulation `acc + a * b` as one op, rounded once."""
        if not isinstance(op, arith.AddF) or len(self.dims) == self.carry_from:
            return None
        accumulators = self.op.body.args[self.split :]
        for product, other in (op.operands, reversed(op.operands)):
            if (
                other in accumulators
                and isinstance(product.owner, arith.MulF)
                and self._is_fused_away(product.owner)
            ):
                a, b = (self.values.get(v, v) for v in product.owner.operands)
                return math.Fma(a, b, self.values[other])
        return None

    def _is_fused_away(self, op: Op) -> bool:
        """True for a product whose only use is to be added to an accumulator."""
        if (
            not isinstance(op, arith.MulF)
            or op.result.type not in (f32, f64)
            or len(self.dims) == self.carry_from
        ):
            return False
        users = list(op.result.users)
        accumulators = self.op.body.args[self.split :]
        return (
            len(users) == 1
            and isinstance(users[0], arith.AddF)
            and sum(v in accumulators for v in users[0].operands) == 1
            and sum(v is op.result for v in users[0].operands) == 1
        )


def _telling(arg: Value, fallback: str | None) -> str | None:
    """A body argument's name, unless it is the one that every body has."""
    return arg.name if arg.name and arg.name not in ("in", "out") else fallback
