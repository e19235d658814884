"""lower-linalg-to-loops: structured ops as loops over scalars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import AliasAnalysis
from mdsl.dialects import arith, linalg, math, memref
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.affine import AffineExpr, Arithmetic, Binary, Const, Dim
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.registry import operations
from mdsl.ir.rewrites import rewriting
from mdsl.ir.types import MemRefType, f32, f64
from mdsl.passes.base import Context, Pass
from mdsl.rewriting.kernel_builder import Constants, KernelBuilder
from mdsl.rewriting.overlaps import put_inputs_aside
from mdsl.rewriting.winograd import expand_transforms


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
    subject = "structured op on memory"

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        expand_transforms(module)
        put_inputs_aside(module, aliases)
        for op in list(module.walk()):
            on_memory = all(
                not hasattr(v.type, "shape") or isinstance(v.type, MemRefType) for v in op.operands
            )
            if isinstance(op, linalg.LinalgOp) and on_memory:
                with rewriting(op, "loops"):
                    lower_op(op, Builder.before(op), aliases)
                    op.erase()
            elif isinstance(op, memref.Copy):
                nest = linalg.Copy.make([op.operands[0]], [op.operands[1]])
                with rewriting(op, "loops"):
                    lower_op(nest, Builder.before(op), aliases)
                    nest.erase()
                    op.erase()


def lower_op(op: linalg.LinalgOp, builder: Builder, aliases: AliasAnalysis) -> None:
    """Builds the loops of `op`, whose operands are memrefs and scalars, at `builder`; the caller erases `op`."""
    at = Builder(builder.block, builder.point, builder.location or op.location)
    _Nest(op, KernelBuilder(Constants.around(builder.block), at), aliases).build()


_DIVISIONS = {"floordiv": "arith.divsi", "mod": "arith.remsi"}
"""The ops of one machine instruction, which are right where nothing is negative."""


class _Nest:
    """The loops of one op. Every value is made on the outermost level that knows what it depends on."""

    def __init__(self, op: linalg.LinalgOp, out: KernelBuilder, aliases: AliasAnalysis) -> None:
        self.op = op
        self.out = out
        self.aliases = aliases
        self.sizes = op.loop_sizes()
        self.split = len(op.inputs)
        self.dims = [d for d in (*op.parallel_dims, *op.reduction_dims) if self.sizes[d] != 1]
        # A loop of one iteration is none: its counter is 0 in every map.
        inner = [Dim(d) if d in self.dims else Const(0) for d in range(len(self.sizes))]
        self.maps = [m.compose(inner, len(self.sizes)) for m in op.maps]
        self.carry_from = self._level_of_accumulators()
        """Level of the accumulators: the loops inside it carry them."""
        self.counters: dict[AffineExpr, Value] = {}
        self.values: dict[Value, Value] = {}

    def _level_of_accumulators(self) -> int:
        reductions = {d for d in self.dims if d in self.op.reduction_dims}
        written = {d for m in self.maps[self.split :] for e in m.results for d in e.dims()}
        return len(self.dims) - (0 if written & reductions else len(reductions))

    def build(self) -> None:
        body = self.op.body
        self._open_loops(self.dims[: self.carry_from])
        accumulators = [self._accumulator(k) for k in range(len(self.op.outputs))]
        carried = iter(
            self._open_loops(self.dims[self.carry_from :], [v for v in accumulators if v is not None])
        )
        for arg, value in zip(body.args[self.split :], accumulators, strict=True):
            if value is not None:
                self.values[arg] = next(carried)
        for i, arg in enumerate(body.args[: self.split]):
            if arg.users:
                self.values[arg] = self._load(i, arg)
        for inner in body.ops:
            if not inner.has("terminator"):
                self._scalar(inner)
        self._close([self.values.get(v, v) for v in body.terminator.operands])

    # Loops ----------------------------------------------------------------------------------------------------

    def _open_loops(self, dims: Sequence[int], carried: Sequence[Value] = ()) -> Sequence[Value]:
        """Opens loops that carry the accumulators; these, as the innermost knows them."""
        for d in dims:
            loop = self.out.open_loop(range(self.sizes[d]), f"d{d}", carried, ["acc"] * len(carried))
            for result in loop.results:
                result.name = "sum"
            self.counters[Dim(d)] = loop.iv
            carried = loop.carried
        return carried

    def _close(self, results: list[Value]) -> None:
        """Ends the loops: the carrying ones hand on the accumulators, then they are stored."""
        for _ in self.dims[self.carry_from :]:
            results = self.out.close_loop(results)
        for k, value in enumerate(results):
            self.out.add(memref.Store(value, self.op.outputs[k], self._indices(self.split + k)))
        for _ in self.dims[: self.carry_from]:
            self.out.close_loop()

    # Values ---------------------------------------------------------------------------------------------------

    def _indices(self, k: int) -> list[Value]:
        """Where operand `k` is accessed. What intervals cannot show to lie in the memref, though the op's verifier
        has tried it, is clamped: the proof of bounds knows intervals only."""
        found: list[Value] = []
        for expr, extent in zip(self.maps[k].results, linalg.shape_of(self.op.operands[k]), strict=True):
            low, high = expr.interval(self.sizes)
            value = self._index(expr)
            if low < 0:
                value = self._compute("arith.maxsi", value, self._constant(0))
            if high >= extent:
                value = self._compute("arith.minsi", value, self._constant(extent - 1))
            found.append(value)
        return found

    def _index(self, expr: AffineExpr) -> Value:
        """The index that an affine expression stands for."""
        return expr.reduce(self._leaf, self._binary)

    def _leaf(self, expr: AffineExpr) -> Value:
        return self._constant(expr.value) if isinstance(expr, Const) else self.counters[expr]

    def _constant(self, value: int) -> Value:
        return self.out.constants.index(value)

    def _binary(self, expr: Binary, left: Value, right: Value) -> Value:
        natural = isinstance(expr.rhs, Const) and expr.rhs.value > 0 and expr.lhs.interval(self.sizes)[0] >= 0
        if natural and expr.kind in _DIVISIONS:
            return self._compute(_DIVISIONS[expr.kind], left, right)
        return Arithmetic.of_ops(self._constant, self._compute).apply(expr, left, right)

    def _compute(self, name: str, left: Value, right: Value) -> Value:
        """An arith op on indices."""
        return self.out.pure(operations()[name](left, right), "at")

    def _accumulator(self, k: int) -> Value | None:
        """The output's old element, if the body or a loop's carried value needs it."""
        arg = self.op.body.args[self.split + k]
        if not arg.users and self.carry_from == len(self.dims):
            return None
        load = memref.Load(self.op.outputs[k], self._indices(self.split + k))
        return self.out.emit(load, _telling(arg, "acc"))

    def _load(self, i: int, arg: Value) -> Value:
        value = self.op.inputs[i]
        if not isinstance(value.type, MemRefType):
            return value
        indices = self._indices(i)
        # What the op itself writes is loaded in the iteration that needs it.
        fixed = all(self.aliases.apart(value, out) for out in self.op.outputs)
        depth = self.out.depth_of(indices) if fixed else None
        return self.out.emit(memref.Load(value, indices), _telling(arg, value.name), depth)

    def _scalar(self, op: Op) -> None:
        """One op of the body, on the outermost level that has its operands."""
        if isinstance(op, linalg.IndexOp):
            dim = op.attr("dim")
            self.values[op.result] = self._index(Dim(dim) if dim in self.dims else Const(0))
            return
        fused = self._as_fma(op)
        if fused is not None:
            self.values[op.result] = self.out.emit(fused, op.result.name or "fma")
        elif not self._is_fused_away(op):
            copy = op.clone(self.values)
            depth = self.out.depth_of(copy.operands) if op.has("pure") else None
            self.out.add(copy, *[r.name for r in op.results], depth=depth)

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
