"""unroll-dispatch: several micro-kernels an instruction, fused to one where their registers fit together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from mdsl.dialects import arith, scf, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.ir.attributes import SymbolRefAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.passes.any.canonicalize import merge_equal
from mdsl.passes.base import Context, Pass, option
from mdsl.passes.kernels.unroll import clone_body
from mdsl.passes.kernels.unroll_dispatch.jam import jam, jam_width, loads
from mdsl.rewriting import remarks
from mdsl.rewriting.kernel_builder import Constants
from mdsl.target.target import Target


@dataclass(frozen=True)
class UnrollDispatch(Pass):
    """Make a loop of dispatches a loop of blocks of N dispatches, and a loop for what is left.

    Before, with factor = 2:

        scf.forall (%i) = (0) to (80) step (16) {
          %x_tile = memref.subview %x[%i] [16] [1] : memref<80xf32> to memref<16xf32, strided<[1], offset: ?>>
          ukernel.dispatch @k(%x_tile) : (memref<16xf32, strided<[1], offset: ?>>)
        }

    After:

        scf.forall (%i) = (0) to (64) step (32) {
          %x_tile = memref.subview %x[%i] [16] [1] : ...
          %i_1 = arith.addi %i, %c16 : index
          %x_tile_1 = memref.subview %x[%i_1] [16] [1] : ...
          ukernel.dispatch @k(%x_tile), (%x_tile_1) : (memref<16xf32, strided<[1], offset: ?>>)
        }
        scf.forall (%i) = (64) to (80) step (16) {
          ...
        }

    Where the iterations are independent (`scf.forall`) and the accumulators of the N calls fit the registers
    together, the block is jammed: it becomes one dispatch of a kernel `@k_x2` that holds N accumulator sets
    and loads what the calls share once. The idea of a block of dispatches is that of "Multiple Dispatch
    Micro-Kernels for IREE" (2024).
    """

    name = "unroll-dispatch"
    level = "kernels"
    subject = "loop of dispatches"

    factor: int = option(4, "micro-kernels in a block", least=1)
    jam: bool = option(True, "fuse the kernels of a block where their accumulators fit the registers")

    def run(self, module: ModuleOp, context: Context) -> None:
        if self.factor < 2:
            return
        unroller = _Unroller(module, context.target, self)
        for op in list(module.walk()):
            if isinstance(op, scf.Forall | scf.For) and op.block is not None:
                unroller.loop(op)
        unroller.drop_unused()


@dataclass
class _Span:
    """The counter that is unrolled: its dimension and constant bounds."""

    dim: int
    lower: int
    step: int
    trips: int


def _dispatch_of(loop: Op) -> ukernel.Dispatch | None:
    """The one dispatch in the loop's body, if all else there is pure."""
    ops = [op for op in loop.body.ops if not op.has("pure") and not op.has("terminator")]
    if len(ops) != 1 or not isinstance(ops[0], ukernel.Dispatch):
        return None
    dispatch = ops[0]
    return dispatch if dispatch.attr("batch") == 1 and not dispatch.results else None


def _obstacle(dispatch: ukernel.Dispatch | None, spans: Sequence[_Span]) -> str:
    if dispatch is None:
        return "its body is more than one dispatch"
    return "it carries values" if spans else "it runs once, or nobody knows how often"


def _bounds(loop: scf.For | scf.Forall) -> list[tuple[int | None, int | None, int | None]]:
    """(lower, upper, step) of each counter; None for a number that is not known."""
    if isinstance(loop, scf.Forall):
        return [tuple(_number(v) for v in b) for b in loop.bounds()]  # type: ignore[misc]
    return [tuple(_number(v) for v in loop.operands[:3])]  # type: ignore[list-item]


def _number(value: Value | int) -> int | None:
    found = value if isinstance(value, int) else arith.constant_of(value)
    return found if isinstance(found, int) else None


def _spans(loop: scf.For | scf.Forall) -> list[_Span]:
    """The counters that run more than once between constants, the innermost first."""
    found: list[_Span] = []
    for dim, (lower, upper, step) in reversed(list(enumerate(_bounds(loop)))):
        if lower is None or upper is None or step is None or step < 1:
            continue
        trips = -(-(upper - lower) // step)
        if trips > 1:
            found.append(_Span(dim, lower, step, trips))
    return found


def _saved_loads(kernel: ukernel.UkernelFunc, shared: Sequence[bool], target: Target) -> int:
    """Loads in the kernel's loops that several calls do once: those of shared arguments."""
    same = {arg for arg, common in zip(kernel.args, shared, strict=True) if common}
    reads = [
        op for loop in kernel.body.ops if isinstance(loop, scf.For) for op in loop.walk() if op.has("reads")
    ]
    return sum(loads(op, target) for op in reads if op.operands[0] in same)


def _depends(value: Value, counter: Value) -> bool:
    """True if `value` is computed from `counter`."""
    owner = value.owner
    return value is counter or (isinstance(owner, Op) and any(_depends(v, counter) for v in owner.operands))


@dataclass
class _Unroller:
    module: ModuleOp
    target: Target
    options: UnrollDispatch
    jammed: dict[tuple[str, tuple[bool, ...], int], ukernel.UkernelFunc] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)

    def loop(self, loop: scf.For | scf.Forall) -> None:
        """Unrolls one loop, if its body is one dispatch."""
        dispatch, spans = _dispatch_of(loop), _spans(loop)
        carries = loop.operands[3:] if isinstance(loop, scf.For) else loop.shared
        if dispatch is None or not spans or carries:
            if any(isinstance(op, ukernel.Dispatch) for op in loop.body.ops):
                remarks.missed(loop, f"stays a loop of single dispatches: {_obstacle(dispatch, spans)}")
            return
        span = self._choose(loop, dispatch, spans)
        with rewriting(loop, "unroll"):
            self._unroll(loop, span)

    def _unroll(self, loop: scf.For | scf.Forall, span: _Span) -> None:
        factor = min(self.options.factor, span.trips)
        blocks, rest = divmod(span.trips, factor)
        middle = span.lower + blocks * factor * span.step
        builder = Builder.before(loop)
        block_loop = self._like(loop, builder, span, span.lower, middle, factor * span.step)
        self._fill(loop, block_loop, span, factor)
        if rest:
            end = middle + rest * span.step
            rest_loop = self._like(loop, builder, span, middle, end, span.step)
            self._fill(loop, rest_loop, span, 1)
        loop.erase()

    def _choose(self, loop: Op, dispatch: ukernel.Dispatch, spans: Sequence[_Span]) -> _Span:
        """The counter to unroll: the innermost, unless calls along another can be jammed with fewer loads."""
        kernel = self.module.lookup(dispatch.symbol)
        if len(spans) == 1 or not self.options.jam or not isinstance(kernel, ukernel.UkernelFunc):
            return spans[0]
        inputs = len(dispatch.operands) - dispatch.attr("outs")

        def gain(span: _Span) -> int:
            counter, copies = loop.body.args[span.dim], min(self.options.factor, span.trips)
            shared = [p < inputs and not _depends(v, counter) for p, v in enumerate(dispatch.operands)]
            width = jam_width(kernel, shared, copies, self.target)
            return (width - 1) * _saved_loads(kernel, shared, self.target)

        return max(spans, key=gain)

    def _like(
        self, loop: scf.For | scf.Forall, builder: Builder, span: _Span, lower: int, upper: int, step: int
    ) -> scf.For | scf.Forall:
        """An empty loop with other bounds for the unrolled counter."""
        if isinstance(loop, scf.For):
            number = self._constants(loop).index
            return builder.add(scf.For.counted(range(lower, upper, step), number, iv=loop.iv.name or "i"))
        all_bounds = [*loop.bounds()]
        all_bounds[span.dim] = (lower, upper, step)
        lowers, uppers, steps = (list(group) for group in zip(*all_bounds, strict=True))
        new = scf.Forall.make(lowers, uppers, steps, ivs=[iv.name or "i" for iv in loop.ivs])
        if "mapping" in loop.attributes:
            new.attributes["mapping"] = loop.attributes["mapping"]
        return builder.add(new)

    def _constants(self, op: Op) -> Constants:
        return Constants(next(a for a in op.ancestors() if a.has("isolated")).body)

    def _fill(self, old: scf.For | scf.Forall, new: scf.For | scf.Forall, span: _Span, factor: int) -> None:
        """Clones the body `factor` times and makes one dispatch of the clones'."""
        builder = Builder(new.body, None, old.location)
        constants = self._constants(new)
        counter = new.body.args[span.dim]
        for copy in range(factor):
            mapping: dict[Value, Value] = dict(zip(old.body.args, new.body.args, strict=True))
            if copy:
                offset = constants.index(copy * span.step)
                mapping[old.body.args[span.dim]] = builder.value(arith.AddI(counter, offset), counter.name)
            clone_body(old, builder, mapping)
        end = scf.Yield([]) if isinstance(new, scf.For) else old.body.terminator.clone()
        builder.add(end)
        merge_equal(new.body, {})  # the views that all copies share
        calls = [op for op in new.body.ops if isinstance(op, ukernel.Dispatch)]
        if len(calls) > 1:
            self._combine(calls, isinstance(new, scf.Forall))

    def _combine(self, calls: Sequence[ukernel.Dispatch], independent: bool) -> None:
        """One dispatch instead of several: of a jammed kernel, or of all the calls."""
        first = calls[0]
        kernel = self.module.lookup(first.symbol)
        assert isinstance(kernel, ukernel.UkernelFunc)
        outs, inputs = first.attr("outs"), len(first.operands) - first.attr("outs")
        # A destination is never shared: calls that write the same place follow one another.
        shared = [p < inputs and all(c.operands[p] is v for c in calls) for p, v in enumerate(first.operands)]
        width = jam_width(kernel, shared, len(calls), self.target) if independent and self.options.jam else 1
        many = f"{len(calls)} calls of @{kernel.symbol}"
        if width > 1:
            message = f"is one of {many}, {width} fused in one kernel: their accumulators fit the registers"
            remarks.applied(first, message, kernel=kernel.symbol, calls=len(calls), width=width)
        else:
            message = f"is one of {many} in an instruction"
            remarks.applied(first, message, kernel=kernel.symbol, calls=len(calls), width=1)
        if width > 1:
            kernel = self._jammed(kernel, shared, width)
            parts = [_jam_operands(calls[i : i + width], shared) for i in range(0, len(calls), width)]
        else:
            parts = [call.operands for call in calls]
        merged = ukernel.Dispatch(
            [v for part in parts for v in part],
            results=[],
            callee=SymbolRefAttr(kernel.symbol),
            outs=outs * width if outs * width != 1 else None,
            batch=len(parts) if len(parts) > 1 else None,
        )
        Builder.before(calls[-1]).add(merged)
        for call in calls:
            call.erase()

    def _jammed(self, kernel: ukernel.UkernelFunc, shared: Sequence[bool], width: int) -> ukernel.UkernelFunc:
        """The jammed kernel, made when it is first asked for and put behind the one it is made of."""
        key = (kernel.symbol, tuple(shared), width)
        if key not in self.jammed:
            names = (f"{kernel.symbol}_x{width}" + (f"_{n}" if n else "") for n in count())
            name = next(n for n in names if self.module.lookup(n) is None)
            self.jammed[key] = jam(kernel, shared, width, name)
            Builder.after(kernel).add(self.jammed[key])
            self.replaced.add(kernel.symbol)
        return self.jammed[key]

    def drop_unused(self) -> None:
        """Erases the kernels that jammed ones have replaced everywhere."""
        used = {op.symbol for op in self.module.walk() if isinstance(op, ukernel.Dispatch)}
        for name in self.replaced - used:
            kernel = self.module.lookup(name)
            if kernel is not None:
                kernel.erase()


def _jam_operands(calls: Sequence[ukernel.Dispatch], shared: Sequence[bool]) -> list[Value]:
    """The arguments in the jammed kernel's order: position by position, a shared one once."""
    found: list[Value] = []
    for position, same in enumerate(shared):
        found += [call.operands[position] for call in (calls[:1] if same else calls)]
    return found
