"""unroll: loop unrolling of innermost counted loops with constant bounds."""

from __future__ import annotations

from dataclasses import dataclass

from mdsl.dialects import arith, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.passes.base import Context, Pass, option
from mdsl.rewriting.kernel_builder import Constants


@dataclass(frozen=True)
class Unroll(Pass):
    """Unroll innermost `scf.for` loops whose bounds are constants; what is left over is a loop of its own.

    Before, with factor = 2:

        %sum = scf.for %i = %c0 to %c4 step %c1 iter_args(%s = %zero) -> (f32) {
          %x_0 = memref.load %x[%i] : memref<4xf32>
          %t = arith.addf %s, %x_0 : f32
          scf.yield %t : f32
        }

    After:

        %sum = scf.for %i = %c0 to %c4 step %c2 iter_args(%s = %zero) -> (f32) {
          %x_0 = memref.load %x[%i] : memref<4xf32>
          %t = arith.addf %s, %x_0 : f32
          %i_1 = arith.addi %i, %c1 : index
          %x_0_1 = memref.load %x[%i_1] : memref<4xf32>
          %t_1 = arith.addf %t, %x_0_1 : f32
          scf.yield %t_1 : f32
        }
    """

    name = "unroll"
    level = "kernels"
    subject = "innermost loop with constant bounds"

    factor: int = option(4, "iterations that become one", least=1)
    full: int = option(0, "loops of at most this many iterations are unrolled entirely", least=0)

    def run(self, module: ModuleOp, context: Context) -> None:
        for op in list(module.walk()):
            if isinstance(op, scf.For) and op.block is not None and _is_innermost(op):
                self._unroll(op)

    def _unroll(self, loop: scf.For) -> None:
        bounds = [arith.constant_of(v) for v in loop.operands[:3]]
        if not all(isinstance(b, int) for b in bounds):
            return
        lower, upper, step = (int(b) for b in bounds if b is not None)
        trips = max(0, -(-(upper - lower) // step)) if step > 0 else 0
        if 0 < trips <= self.full:
            factor = trips
        elif 1 < self.factor <= trips:
            factor = self.factor
        else:
            return
        with rewriting(loop, "unroll"):
            unroll_loop(loop, lower, step, trips, factor)


def _is_innermost(loop: scf.For) -> bool:
    return not any(isinstance(op, scf.For | scf.Forall) for op in loop.walk() if op is not loop)


def unroll_loop(loop: scf.For, lower: int, step: int, trips: int, factor: int) -> None:
    """Replaces the loop by one of `trips // factor` rounds and what is left; either is straight-line code
    where it is a single iteration."""
    function = next(op for op in loop.ancestors() if op.has("isolated"))
    constants = Constants(function.body)
    builder = Builder.before(loop)
    values: list[Value] = list(loop.operands[3:])
    rounds, rest = divmod(trips, factor)
    end = lower + rounds * factor * step
    values = _repeat(loop, builder, constants, range(lower, end, factor * step), step, factor, values)
    if rest:
        values = _repeat(loop, builder, constants, range(end, end + rest * step, step), step, 1, values)
    for result, value in zip(loop.results, values, strict=True):
        result.replace_by(value)
    loop.erase()


def _repeat(
    loop: scf.For,
    builder: Builder,
    constants: Constants,
    span: range,
    step: int,
    copies: int,
    values: list[Value],
) -> list[Value]:
    """The loop over `span` with `copies` iterations in its body, or just the body if it runs once."""
    if len(span) == 1:
        return _copies(
            loop, builder, constants, constants.index(span.start), span.start, step, copies, values
        )
    names = [a.name for a in loop.carried]
    new = builder.add(
        scf.For.counted(span, constants.index, values, loop.iv.name or "i", names),
        *(r.name for r in loop.results),
    )
    inside = Builder(new.body, None, loop.location)
    inside.add(scf.Yield(_copies(loop, inside, constants, new.iv, None, step, copies, list(new.carried))))
    return list(new.results)


def _copies(
    loop: scf.For,
    builder: Builder,
    constants: Constants,
    counter: Value,
    known: int | None,
    step: int,
    copies: int,
    values: list[Value],
) -> list[Value]:
    """The body `copies` times; `known` is the counter's number if it is a constant."""
    for copy in range(copies):
        if known is not None:
            at = constants.index(known + copy * step)
        elif copy:
            at = builder.value(arith.AddI(counter, constants.index(copy * step)), loop.iv.name)
        else:
            at = counter
        mapping: dict[Value, Value] = {loop.iv: at, **dict(zip(loop.carried, values, strict=True))}
        values = clone_body(loop, builder, mapping)
    return values


def clone_body(loop: Op, builder: Builder, mapping: dict[Value, Value]) -> list[Value]:
    """A copy of the ops of a loop's body; the copies of what its terminator yields."""
    for op in loop.body.ops:
        if not op.has("terminator"):
            builder.add(op.clone(mapping), *(r.name for r in op.results))
    return [mapping.get(v, v) for v in loop.body.terminator.operands]
