"""lower-vm: functions on memrefs become functions of registers, counted loops and dispatches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import AliasAnalysis
from mdsl.dialects import arith, linalg, memref, mvm, scf, ukernel
from mdsl.dialects.affine import Apply
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FuncOp
from mdsl.ir.affine import Arithmetic
from mdsl.ir.attributes import ArrayAttr, SymbolRefAttr, TypeAttr
from mdsl.ir.core import Block, Builder, Op, Region, Value
from mdsl.ir.registry import operations
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, IndexType, MemRefType, ShapedType, dtype_of
from mdsl.passes.any.canonicalize import drop_unused
from mdsl.passes.base import Context, Pass, functions
from mdsl.passes.buffers.lower_linalg_to_loops import lower_op
from mdsl.passes.buffers.plan_memory import make_sequential
from mdsl.passes.kernels.lower_vm.address import Address, Affine, Registers, combined
from mdsl.passes.kernels.lower_vm.fuse import fuse_dots
from mdsl.passes.kernels.lower_vm.workers import is_for_one, is_shared, shared_loop, writes
from mdsl.rewriting.overlaps import put_inputs_aside


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

    Views become buffers with affine offsets. All workers run the function: what stands outside a parallel
    loop and writes is done by one of them (`mvm.single`), and a barrier separates writers from readers.
    Of a nest of parallel loops the outermost with enough trips is shared.
    """

    name: ClassVar[str] = "lower-vm"
    level: ClassVar[str | None] = "kernels"
    leads_to: ClassVar[str | None] = "vm"

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        for func in functions(module):
            put_inputs_aside(func, aliases)
            make_sequential(func)
            for op in func.walk():
                if isinstance(op, linalg.LinalgOp) and not isinstance(op, linalg.Fill | linalg.Copy):
                    lower_op(op, Builder.before(op), aliases)
                    if op.block is not None:
                        op.erase()
            lowering = _Lowering(func)
            lowered = lowering.function()
            fuse_dots(lowered, lowering.registers)
            module.body.insert(lowered, func)
            func.erase()
            drop_unused(lowered)


class _Lowering:
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
        self.func = mvm.Func.make(func.symbol, [v.type for v in func.args], [], [v.name for v in func.args])
        self.func.set_arg_attributes(func.arg_attributes())
        self.func.location = func.location
        self.registers = Registers(self.func.body)
        self.values: dict[Value, Value] = {}
        self.indices: dict[Value, Affine] = {}
        self.addresses: dict[Value, Address] = {}
        for old, new in zip(func.args, self.func.args, strict=True):
            self.addresses[old] = Address(new, Affine())
        self.builder = Builder(self.func.body)
        self.written = self.read = False  # memory that other workers may not have finished with
        self.together = False  # some of that was done by all workers, not by the first alone
        # If writing and computing cannot be told apart, one worker does everything.
        self.alone = any(map(is_for_one, func.body.ops))

    def function(self) -> mvm.Func:
        """The lowered function."""
        if self.alone:
            with_single = self._single()
            self._sequence(self.source.body, self._sequential)
            self._leave(with_single)
        else:
            self._sequence(self.source.body, self._shared)
        self.builder.add(mvm.Return([]))
        return self.func

    # Sequences: what all workers run, and what one runs -----------------------------------------------------

    def _sequence(self, block: Block, lower: Callable[[Op], None]) -> None:
        for op in block.ops:
            if not op.has("terminator"):
                lower(op)
        self._close_single()

    def _shared(self, op: Op) -> None:
        """An op that all workers come to."""
        if is_shared(op):
            self._close_single()
            self._barrier()
            if isinstance(op, scf.Forall):
                self._forall(op, shared=True)
                self.written = self.together = True
            else:
                self._structure(op, self._shared)
        elif writes(op):
            self._open_single()
            self._sequential(op)
        else:
            reads = any(inner.has("reads") for inner in op.walk())
            if reads:
                self._close_single()
                if self.written:
                    self._barrier()
            self._outside(op)
            self.read |= reads
            self.together |= reads

    def _outside(self, op: Op) -> None:
        """A pure op: its registers must be set for all workers, so it stands outside of `mvm.single`. Views and
        constants stand at the function's entry or nowhere."""
        if isinstance(self.builder.block.parent_op, mvm.Single) and not isinstance(op, _ELSEWHERE):
            self._close_single()
        self._sequential(op)

    def _barrier(self) -> None:
        """Stands between what is written and what was read or written before; reads wait for writes only."""
        if self.written or self.read:
            self.builder.add(mvm.Barrier())
            self.written = self.read = self.together = False

    def _single(self) -> Builder:
        single = self.builder.add(mvm.Single(results=[], regions=[Region()]))
        outer, self.builder = self.builder, Builder(single.body)
        return outer

    def _leave(self, outer: Builder) -> None:
        self.builder = outer

    def _open_single(self) -> None:
        if not isinstance(self.builder.block.parent_op, mvm.Single):
            if self.together:  # what one worker did before needs no waiting: it is the same worker
                self._barrier()
            self._single()

    def _close_single(self) -> None:
        parent = self.builder.block.parent_op
        if isinstance(parent, mvm.Single) and not self.alone:
            assert parent.block is not None
            self.builder = Builder(parent.block)
            self.written = True

    # Ops ----------------------------------------------------------------------------------------------------

    def _sequential(self, op: Op) -> None:
        """Any op, on whatever worker is here."""
        self.builder.location = op.location
        if isinstance(op, scf.Forall):
            self._forall(op, shared=False)
        elif isinstance(op, scf.For | scf.If):
            self._structure(op, self._sequential)
        elif type(op) in _HANDLERS:
            _HANDLERS[type(op)](self, op)
        elif isinstance(op, memref.Alloc | memref.Alloca):
            self._buffer(op)
        elif op.has("elementwise") or isinstance(op, arith.Constant):
            self._compute(op)
        else:
            raise op.error("cannot be lowered to the VM")

    def _structure(self, op: Op, lower: Callable[[Op], None]) -> None:
        _check_places(op)
        if isinstance(op, scf.For):
            self._for(op, lower)
        elif isinstance(op, scf.If):
            self._if(op, lower)
        else:
            raise op.error("cannot be lowered to the VM")

    def _for(self, op: scf.For, lower: Callable[[Op], None]) -> None:
        step = self._index(op.operands[2])
        if step.terms or step.constant < 1:
            raise op.error("the step must be a positive constant")
        if _never_runs(self._index(op.operands[0]), self._index(op.operands[1])):
            for result, init in zip(op.results, op.operands[3:], strict=True):
                self._alias(result, init)
            return
        bounds = [self.registers.get(self._index(v)) for v in op.operands[:3]]
        inits = [self._register(v) for v in op.operands[3:]]
        lower_bound, upper_bound, stride = bounds
        names = [a.name for a in op.carried]
        loop = self.builder.add(mvm.Loop.make(lower_bound, upper_bound, stride, inits, op.iv.name, names))
        self._learn(op.iv, loop.iv)
        for old, new in zip(op.carried, loop.carried, strict=True):
            self._learn(old, new)
        self._into(loop.body, op.body, lower)
        for old, new in zip(op.results, loop.results, strict=True):
            new.name = old.name
            self._learn(old, new)

    def _into(self, block: Block, body: Block, lower: Callable[[Op], None]) -> None:
        """Lowers `body` into `block`, with its yield."""
        outer, self.builder = self.builder, Builder(block)
        self._sequence(body, lower)
        if lower == self._shared:
            self._barrier()
        values = [self._register(v) for v in (body.terminator.operands if body.last else [])]
        self.builder.add(mvm.Yield(values))
        self.builder = outer

    def _if(self, op: scf.If, lower: Callable[[Op], None]) -> None:
        condition = self._register(op.operands[0])
        regions = [Region(), Region()]
        branch = self.builder.add(mvm.If(condition, results=[r.type for r in op.results], regions=regions))
        for region, body in zip(regions, op.branches, strict=True):
            if body.last is not None:
                self._into(region.block, body, lower)
        for old, new in zip(op.results, branch.results, strict=True):
            new.name = old.name
            self._learn(old, new)

    def _forall(self, op: scf.Forall, shared: bool) -> None:
        if op.results:
            raise op.error("works on tensors; bufferize it first")
        loops = list(zip(op.ivs, op.bounds(), strict=True))
        if any(_never_runs(*(self._form(b) for b in bounds[:2])) for _, bounds in loops):
            return
        if shared:
            chosen = shared_loop([b for _, b in loops])
            loops.insert(0, loops.pop(chosen))
        outer = self.builder
        for depth, (iv, bounds) in enumerate(loops):
            start, stop, step = (self.registers.get(self._form(b)) for b in bounds)
            kind = mvm.Parallel if shared and depth == 0 else mvm.Loop
            loop = self.builder.add(kind.make(start, stop, step, iv=iv.name))
            self._learn(iv, loop.iv)
            loop.body.append(mvm.Yield([]))
            self.builder = Builder(loop.body, loop.body.terminator)
        for inner in op.body.ops:
            if not isinstance(inner, scf.InParallel):
                self._sequential(inner)
        self.builder = outer

    def _learn(self, old: Value, new: Value) -> None:
        if isinstance(old.type, IndexType):
            self.indices[old] = Affine(0, ((new, 1),))
        else:
            self.values[old] = new

    def _alias(self, new: Value, old: Value) -> None:
        """`new` is the number that `old` is."""
        if isinstance(old.type, IndexType):
            self.indices[new] = self.indices[old]
        else:
            self.values[new] = self.values[old]

    def _index(self, value: Value) -> Affine:
        return self.indices[value]

    def _form(self, bound: int | Value) -> Affine:
        return Affine(bound) if isinstance(bound, int) else self._index(bound)

    def _register(self, value: Value) -> Value:
        return (
            self.registers.get(self._index(value))
            if isinstance(value.type, IndexType)
            else self.values[value]
        )

    def _compute(self, op: Op) -> None:
        """Scalar arithmetic; index arithmetic stays symbolic while it is affine."""
        _check_places(op)
        if isinstance(op.results[0].type, ShapedType):
            raise op.error("vectors live in micro-kernels only")
        result = op.results[0]
        affine = self._affine(op) if isinstance(result.type, IndexType) else None
        if affine is not None:
            self.indices[result] = affine
            return
        copy = type(op).from_parts([self._register(v) for v in op.operands], [result.type], op.attributes)
        entry = Builder(self.func.body, self.func.body.first, op.location)
        builder = entry if isinstance(op, arith.Constant) else self.builder
        self._learn(result, builder.value(copy, result.name))

    def _affine(self, op: Op) -> Affine | None:
        if isinstance(op, arith.Constant):
            return Affine(int(arith.constant_of(op.result) or 0))
        if not all(isinstance(v.type, IndexType) for v in op.operands):
            return None
        return combined(op.name, *(self._index(v) for v in op.operands)) if len(op.operands) == 2 else None

    def _apply(self, op: Apply) -> None:
        forms = [self._index(v) for v in op.operands]
        arithmetic = Arithmetic.of_ops(Affine, self._combine)
        self.indices[op.result] = op.attr("map").apply(forms, arithmetic)[0]

    def _combine(self, name: str, left: Affine, right: Affine) -> Affine:
        """An op on indices: symbolic where it is affine, else in a register."""
        found = combined(name, left, right)
        if found is not None:
            return found
        op = operations()[name](self.registers.get(left), self.registers.get(right))
        return Affine(0, ((self.builder.value(op, "at"), 1),))

    # Memory -------------------------------------------------------------------------------------------------

    def _buffer(self, op: Op) -> None:
        """A constant or the arena: the op stays, at the function's entry."""
        if op.operands:
            raise op.error("must have a static shape")
        copy = _place(op)
        copy.location, copy.result.name = op.location, op.result.name
        self.func.body.insert(copy, self.func.body.first)
        self.addresses[op.result] = Address(copy.result, Affine())

    def _view(self, op: Op) -> None:
        source = self.addresses[op.operands[0]]
        shift = self._index(op.operands[1])
        type = memref_of(op.result)
        self.addresses[op.result] = Address(
            source.buffer, (source.offset + shift).exactly_divided(_bytes(type))
        )

    def _subview(self, op: memref.SubView) -> None:
        source = self.addresses[op.operands[0]]
        offset = source.offset
        for entry, stride in zip(op.mixed("offsets"), memref_of(op.operands[0]).layout, strict=True):
            offset += (Affine(entry) if isinstance(entry, int) else self._index(entry)) * stride
        self.addresses[op.result] = Address(source.buffer, offset)

    def _same(self, op: Op) -> None:
        self.addresses[op.results[0]] = self.addresses[op.operands[0]]

    def _element(self, memory: Value, indices: Sequence[Value]) -> Address:
        """The address of one element."""
        type, base = memref_of(memory), self.addresses[memory]
        if DYNAMIC in type.layout:
            raise AssertionError("dynamic strides")
        offset = base.offset
        for value, stride in zip(indices, type.layout, strict=True):
            offset += self._index(value) * stride
        return Address(base.buffer, offset)

    def _load(self, op: Op) -> None:
        address = self._element(op.operands[0], op.operands[1:])
        base, leaf, stride = self.registers.split(address.offset)
        load = mvm.Load(
            address.buffer, base, leaf, stride=None if stride == 1 else stride, results=[op.results[0].type]
        )
        self._learn(op.results[0], self.builder.value(load, op.results[0].name))

    def _store(self, op: Op) -> None:
        address = self._element(op.operands[1], op.operands[2:])
        base, leaf, stride = self.registers.split(address.offset)
        value = self._register(op.operands[0])
        self.builder.add(mvm.Store(value, address.buffer, base, leaf, stride=None if stride == 1 else stride))

    def _copy(self, op: Op) -> None:
        source, target = op.operands
        element = memref_of(source).element

        def innermost(offsets: Sequence[Affine], count: int) -> None:
            places = [self.registers.get(o) for o in offsets]
            buffers = [self.addresses[v].buffer for v in (target, source)]
            self.builder.add(
                mvm.Copy(buffers[0], places[0], buffers[1], places[1], count=count, element=TypeAttr(element))
            )

        self._rows([target, source], innermost)

    def _fill(self, op: Op) -> None:
        value, target = op.operands

        def innermost(offsets: Sequence[Affine], count: int) -> None:
            place = self.registers.get(offsets[0])
            self.builder.add(
                mvm.Fill(self._register(value), self.addresses[target].buffer, place, count=count)
            )

        self._rows([target], innermost)

    def _rows(self, memories: Sequence[Value], innermost: Callable[[Sequence[Affine], int], None]) -> None:
        """Loops over the dimensions that are not laid out densely in all `memories`; `innermost` does a run."""
        types = [memref_of(v) for v in memories]
        shape = types[0].shape
        if 0 in shape:
            return
        rank, count = len(shape), 1
        while rank and all(t.layout[rank - 1] == count or shape[rank - 1] == 1 for t in types):
            count *= shape[rank - 1]
            rank -= 1
        offsets = [self.addresses[v].offset for v in memories]
        outer = self.builder
        for dim in range(rank):
            if shape[dim] == 1:
                continue
            start, stop, step = (self.registers.constant(n) for n in (0, shape[dim], 1))
            loop = self.builder.add(mvm.Loop.make(start, stop, step, iv="row"))
            loop.body.append(mvm.Yield([]))
            self.builder = Builder(loop.body, loop.body.terminator)
            offsets = [
                o + Affine(0, ((loop.iv, t.layout[dim]),)) for o, t in zip(offsets, types, strict=True)
            ]
        innermost(offsets, count)
        self.builder = outer

    def _dispatch(self, op: ukernel.Dispatch) -> None:
        operands: list[Value] = []
        rows: list[tuple[int, int, int, int]] = []
        for value in op.operands:
            if not isinstance(value.type, MemRefType):
                operands.append(self._register(value))
                rows.append((0, 1, 0, 0))
                continue
            address, size = self.addresses[value], _bytes(value.type)
            operands.append(address.buffer)
            terms, constant = address.offset.terms, address.offset.constant * size
            if not terms:
                rows.append((1, 0, 0, constant))
                continue
            if len(terms) == 1:
                register, stride = terms[0][0], terms[0][1] * size
            else:
                register, stride = self.registers.get(Affine(0, terms)), size
            operands.append(register)
            rows.append((1, 1, stride, constant))
        layout = ArrayAttr(tuple(mvm.layout_row(*row) for row in rows))
        batch = op.attr("batch")
        dispatch = mvm.Dispatch(
            operands, callee=SymbolRefAttr(op.symbol), layout=layout, batch=None if batch == 1 else batch
        )
        self.builder.add(dispatch)

    def _nothing(self, op: Op) -> None:
        """Liveness was planned: there is nothing to free."""


def _check_places(op: Op) -> None:
    """Raises for memory that is chosen while the program runs."""
    if any(isinstance(r.type, MemRefType) for r in op.results):
        raise op.error("the VM has no pointers: which memory is meant must be known at compile time")


_ELSEWHERE = (
    arith.Constant,
    memref.GetGlobal,
    memref.Alloc,
    memref.View,
    memref.SubView,
    memref.CollapseShape,
    memref.ExpandShape,
    memref.Cast,
    Apply,
)
"""Ops that leave nothing where they stood."""


def _place(op: Op) -> Op:
    """What stands for the buffer that `op` gives."""
    if isinstance(op, memref.GetGlobal):
        return mvm.Constant(symbol=SymbolRefAttr(op.symbol), results=[op.result.type])
    return memref.Alloc.from_parts([], [op.result.type], op.attributes)


_HANDLERS: dict[type[Op], Callable[[_Lowering, Op], None]] = {
    memref.GetGlobal: _Lowering._buffer,
    memref.View: _Lowering._view,
    memref.SubView: _Lowering._subview,  # type: ignore[dict-item]
    memref.CollapseShape: _Lowering._same,
    memref.ExpandShape: _Lowering._same,
    memref.Cast: _Lowering._same,
    memref.Load: _Lowering._load,
    memref.Store: _Lowering._store,
    memref.Copy: _Lowering._copy,
    memref.Dealloc: _Lowering._nothing,
    linalg.Fill: _Lowering._fill,
    linalg.Copy: _Lowering._copy,
    ukernel.Dispatch: _Lowering._dispatch,  # type: ignore[dict-item]
    Apply: _Lowering._apply,  # type: ignore[dict-item]
}


def _bytes(type: MemRefType) -> int:
    return dtype_of(type.element).itemsize


def _never_runs(lower: Affine, upper: Affine) -> bool:
    """True for bounds that are known to leave nothing between them: the loader proves no access in such a loop."""
    return not lower.terms and not upper.terms and lower.constant >= upper.constant
