"""lower-vm: views become affine offsets, and what reads and writes memory names a buffer and an offset in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mdsl.dialects import memref, mvm, ukernel
from mdsl.ir.attributes import ArrayAttr, SymbolRefAttr, TypeAttr
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import memref_of
from mdsl.ir.types import DYNAMIC, MemRefType, dtype_of
from mdsl.passes.kernels.lower_vm.address import Address, Affine
from mdsl.passes.kernels.lower_vm.values import Values


class MemoryOps(Values):
    """The ops on memory."""

    def buffer(self, op: Op) -> None:
        """A constant or the arena: the op stays, at the function's entry."""
        if op.operands:
            raise op.error("must have a static shape")
        copy = _place(op)
        copy.location, copy.result.name = op.location, op.result.name
        self.func.body.insert(copy, self.func.body.first)
        self.addresses[op.result] = Address(copy.result, Affine())

    def view(self, op: Op) -> None:
        source = self.addresses[op.operands[0]]
        shift = self.index(op.operands[1])
        type = memref_of(op.result)
        self.addresses[op.result] = Address(
            source.buffer, (source.offset + shift).exactly_divided(_bytes(type))
        )

    def subview(self, op: memref.SubView) -> None:
        source = self.addresses[op.operands[0]]
        offset = source.offset
        for entry, stride in zip(op.mixed("offsets"), memref_of(op.operands[0]).layout, strict=True):
            offset += (Affine(entry) if isinstance(entry, int) else self.index(entry)) * stride
        self.addresses[op.result] = Address(source.buffer, offset)

    def same(self, op: Op) -> None:
        self.addresses[op.results[0]] = self.addresses[op.operands[0]]

    def element(self, memory: Value, indices: Sequence[Value]) -> Address:
        """The address of one element."""
        type, base = memref_of(memory), self.addresses[memory]
        if DYNAMIC in type.layout:
            raise AssertionError("dynamic strides")
        offset = base.offset
        for value, stride in zip(indices, type.layout, strict=True):
            offset += self.index(value) * stride
        return Address(base.buffer, offset)

    def load(self, op: Op) -> None:
        address = self.element(op.operands[0], op.operands[1:])
        base, leaf, stride = self.registers.split(address.offset)
        load = mvm.Load(
            address.buffer, base, leaf, stride=None if stride == 1 else stride, results=[op.results[0].type]
        )
        self.learn(op.results[0], self.builder.value(load, op.results[0].name))

    def store(self, op: Op) -> None:
        address = self.element(op.operands[1], op.operands[2:])
        base, leaf, stride = self.registers.split(address.offset)
        value = self.register(op.operands[0])
        self.builder.add(mvm.Store(value, address.buffer, base, leaf, stride=None if stride == 1 else stride))

    def copy(self, op: Op) -> None:
        source, target = op.operands
        element = memref_of(source).element

        def innermost(offsets: Sequence[Affine], count: int) -> None:
            places = [self.registers.get(o) for o in offsets]
            buffers = [self.addresses[v].buffer for v in (target, source)]
            self.builder.add(
                mvm.Copy(buffers[0], places[0], buffers[1], places[1], count=count, element=TypeAttr(element))
            )

        self.rows([target, source], innermost)

    def fill(self, op: Op) -> None:
        value, target = op.operands

        def innermost(offsets: Sequence[Affine], count: int) -> None:
            place = self.registers.get(offsets[0])
            self.builder.add(
                mvm.Fill(self.register(value), self.addresses[target].buffer, place, count=count)
            )

        self.rows([target], innermost)

    def rows(self, memories: Sequence[Value], innermost: Callable[[Sequence[Affine], int], None]) -> None:
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

    def dispatch(self, op: ukernel.Dispatch) -> None:
        operands: list[Value] = []
        rows: list[tuple[int, int, int, int]] = []
        for value in op.operands:
            if not isinstance(value.type, MemRefType):
                operands.append(self.register(value))
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

    def nothing(self, op: Op) -> None:
        """Liveness was planned: there is nothing to free."""


def _place(op: Op) -> Op:
    """What stands for the buffer that `op` gives."""
    if isinstance(op, memref.GetGlobal):
        return mvm.Constant(symbol=SymbolRefAttr(op.symbol), results=[op.result.type])
    return memref.Alloc.from_parts([], [op.result.type], op.attributes)


def _bytes(type: MemRefType) -> int:
    return dtype_of(type.element).itemsize
