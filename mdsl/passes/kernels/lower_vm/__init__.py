"""lower-vm: functions on memrefs become functions of registers, counted loops and dispatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import AliasAnalysis
from mdsl.dialects import arith, linalg, memref, mvm, scf, ukernel
from mdsl.dialects.affine import Apply
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.dialects.indices import Index
from mdsl.ir.core import Block, Builder, Op, Region
from mdsl.ir.rewrites import rewriting
from mdsl.ir.types import MemRefType
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.buffers.lower_linalg_to_loops import lower_op
from mdsl.passes.buffers.plan_memory import make_sequential
from mdsl.passes.kernels.lower_vm.address import Affine
from mdsl.passes.kernels.lower_vm.fuse import fuse_dots
from mdsl.passes.kernels.lower_vm.memory import MemoryOps
from mdsl.passes.kernels.lower_vm.values import check_places
from mdsl.rewriting import remarks
from mdsl.rewriting.overlaps import put_inputs_aside
from mdsl.rewriting.winograd import expand_transforms
from mdsl.support.across import ACROSS
from mdsl.target.cost import shared_loop


@dataclass(frozen=True)
class LowerVm(Pass):
    """Turn functions on memrefs into mvm.func: registers, counted loops, dispatches.

    Before:

        scf.forall (%i) = (0) to (512) step (4) {
          %a_tile = memref.subview %a[%i, 0] [4, 64] [1, 1] : ...
          %c_tile = memref.subview %c[%i, 0] [4, 16] [1, 1] : ...
          ukernel.dispatch @matmul_4x16(%a_tile, %b, %c_tile) : ...
        }

    After:

        mvm.parallel %i = %c0 to %c512 step %c4 {
          mvm.dispatch %a, %i, %b, %c, %i {callee = @matmul_4x16, layout = [...]} : ...
        }

    Views become buffers with affine offsets. One worker runs the function; the trips of a parallel loop are shared
    among all, and done when the loop ends. Of a nest of parallel loops the outermost with enough trips is shared.
    """

    name: ClassVar[str] = "lower-vm"
    level: ClassVar[str | None] = "kernels"
    leads_to: ClassVar[str | None] = "vm"
    subject = "function on memory"

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        for func in functions(module):
            expand_transforms(func)
            put_inputs_aside(func, aliases)
            make_sequential(func)
            for op in func.walk():
                if isinstance(op, linalg.LinalgOp) and not isinstance(op, linalg.Fill | linalg.Copy):
                    with rewriting(op, "loops"):
                        lower_op(op, Builder.before(op), aliases)
                        if op.block is not None:
                            op.erase()
            with rewriting(func, "lower"):
                lowering = _Lowering(func)
                lowered = lowering.function()
                module.body.insert(lowered, func)
                func.erase()
            fuse_dots(lowered, lowering.registers)
            drop_unused(lowered)
            if remarks.wanted():
                remarks.applied(lowered, f"has {_counted(lowered)}")


class _Lowering(MemoryOps):
    """One function: what its values have become, and where code is being written."""

    def __init__(self, func: FuncOp) -> None:
        self.source = func
        if func.type.results:
            raise func.error("returns values; bufferize makes them arguments")
        for value in func.args:
            if not isinstance(value.type, MemRefType) or not value.type.is_static or not value.type.is_dense:
                raise func.error(
                    f"argument %{value.name} must be a dense memref of static shape, not {value.type}"
                )
        lowered = mvm.Func.make(func.symbol, [v.type for v in func.args], [], [v.name for v in func.args])
        lowered.set_arg_attributes(func.arg_attributes())
        lowered.location = func.location
        super().__init__(lowered, func.args)
        self.in_parallel = False  # what is being lowered is a trip of a parallel loop

    def function(self) -> mvm.Func:
        """The lowered function."""
        self._sequence(self.source.body)
        self.builder.add(mvm.Return([]))
        return self.func

    def _sequence(self, block: Block) -> None:
        for op in block.ops:
            if not op.has("terminator"):
                self._op(op)

    # Ops ----------------------------------------------------------------------------------------------------

    def _op(self, op: Op) -> None:
        self.builder.location = op.location
        if isinstance(op, scf.Forall):
            self._forall(op)
        elif isinstance(op, scf.For):
            check_places(op)
            self._for(op)
        elif isinstance(op, scf.If):
            check_places(op)
            self._if(op)
        elif type(op) in _HANDLERS:
            _HANDLERS[type(op)](self, op)
        elif isinstance(op, memref.Alloc | memref.Alloca):
            self.buffer(op)
        elif op.has("elementwise") or isinstance(op, arith.Constant):
            self.compute(op)
        else:
            raise op.error("cannot be lowered to the VM")

    def _for(self, op: scf.For) -> None:
        step = self.index(op.operands[2])
        if step.terms or step.constant < 1:
            raise op.error("the step must be a positive constant")
        if _never_runs(self.index(op.operands[0]), self.index(op.operands[1])):
            for result, init in zip(op.results, op.operands[3:], strict=True):
                self.alias(result, init)
            return
        bounds = [self.registers.get(self.index(v)) for v in op.operands[:3]]
        inits = [self.register(v) for v in op.operands[3:]]
        lower_bound, upper_bound, stride = bounds
        names = [a.name for a in op.carried]
        loop = self.builder.add(mvm.Loop.make(lower_bound, upper_bound, stride, inits, op.iv.name, names))
        self.learn(op.iv, loop.iv)
        for old, new in zip(op.carried, loop.carried, strict=True):
            self.learn(old, new)
        self._into(loop.body, op.body)
        for old, new in zip(op.results, loop.results, strict=True):
            new.name = old.name
            self.learn(old, new)

    def _into(self, block: Block, body: Block) -> None:
        """Lowers `body` into `block`, with its yield."""
        outer, self.builder = self.builder, Builder(block)
        self._sequence(body)
        values = [self.register(v) for v in (body.terminator.operands if body.last else [])]
        self.builder.add(mvm.Yield(values))
        self.builder = outer

    def _if(self, op: scf.If) -> None:
        condition = self.register(op.operands[0])
        regions = [Region(), Region()]
        branch = self.builder.add(mvm.If(condition, results=[r.type for r in op.results], regions=regions))
        for region, body in zip(regions, op.branches, strict=True):
            if body.last is not None:
                self._into(region.block, body)
        for old, new in zip(op.results, branch.results, strict=True):
            new.name = old.name
            self.learn(old, new)

    def _forall(self, op: scf.Forall) -> None:
        """Of parallel loops inside each other the outer one is shared; one in which processes exchange what they have is not, for
        they must meet in the same order, and only the caller's thread knows of them."""
        if op.results:
            raise op.error("works on tensors; bufferize it first")
        loops = list(zip(op.ivs, op.bounds(), strict=True))
        if any(_never_runs(*(self.form(b) for b in bounds[:2])) for _, bounds in loops):
            return
        around = self.in_parallel
        alone = not around and _exchanges(op)
        shared = not around and not alone
        if shared:
            chosen = shared_loop([_trips(*b) for _, b in loops])
            loops.insert(0, loops.pop(chosen))
            remarks.applied(op, f"hands the trips of %{loops[0][0].name or 'i'} out to the workers")
        elif alone:
            remarks.missed(op, "is run by one worker: processes exchange in it what they have")
        else:
            remarks.missed(op, "is run by one worker: a loop around it is shared among them")
        outer = self.builder
        for depth, (iv, bounds) in enumerate(loops):
            start, stop, step = (self.registers.get(self.form(b)) for b in bounds)
            kind = mvm.Parallel if shared and depth == 0 else mvm.Loop
            loop = self.builder.add(kind.make(start, stop, step, iv=iv.name))
            self.learn(iv, loop.iv)
            loop.body.append(mvm.Yield([]))
            self.builder = Builder(loop.body, loop.body.terminator)
        self.in_parallel = around or shared
        for inner in op.body.ops:
            if not isinstance(inner, scf.InParallel):
                self._op(inner)
        self.in_parallel = around
        self.builder = outer


_HANDLERS: dict[type[Op], Callable[[_Lowering, Op], None]] = {
    memref.GetGlobal: _Lowering.buffer,
    memref.View: _Lowering.view,
    memref.SubView: _Lowering.subview,  # type: ignore[dict-item]
    memref.CollapseShape: _Lowering.same,
    memref.ExpandShape: _Lowering.same,
    memref.Cast: _Lowering.same,
    memref.Load: _Lowering.load,
    memref.Store: _Lowering.store,
    memref.Copy: _Lowering.copy,
    memref.Dealloc: _Lowering.nothing,
    linalg.Fill: _Lowering.fill,
    linalg.Copy: _Lowering.copy,
    ukernel.Dispatch: _Lowering.dispatch,  # type: ignore[dict-item]
    Apply: _Lowering.apply,  # type: ignore[dict-item]
}


def _never_runs(lower: Affine, upper: Affine) -> bool:
    """True for bounds that are known to leave nothing between them: the loader proves no access in such a loop."""
    return not lower.terms and not upper.terms and lower.constant >= upper.constant


def _exchanges(op: Op) -> bool:
    """Whether one of the micro-kernels that are dispatched in it is for several processes."""
    module = next(around for around in op.ancestors() if isinstance(around, ModuleOp))
    names = {inner.symbol for inner in op.walk() if isinstance(inner, ukernel.Dispatch)}
    return any(kernel is not None and ACROSS in kernel.attributes for kernel in map(module.lookup, names))


def _trips(lower: Index, upper: Index, step: Index) -> int:
    """How often a loop's body runs; 1 where its bounds are computed."""
    if isinstance(lower, int) and isinstance(upper, int) and isinstance(step, int):
        return -(-(upper - lower) // step)
    return 1


def _counted(func: mvm.Func) -> str:
    """`36 ops, 4 loops of which 2 are shared among workers, 7 dispatches`."""
    ops = list(func.walk())[1:]
    loops, shared, dispatches = (
        sum(isinstance(op, kind) for op in ops) for kind in (mvm.Loop, mvm.Parallel, mvm.Dispatch)
    )
    return (
        f"{len(ops)} ops, {loops} loops of which {shared} are shared among workers, {dispatches} dispatches"
    )
