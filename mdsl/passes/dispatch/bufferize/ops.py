"""bufferize: the rewrite of each kind of op from tensors to memrefs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdsl.analysis.alias import RESHAPES, is_view_of
from mdsl.analysis.slices import is_whole
from mdsl.dialects import arith, func, linalg, memref, scf, tensor, ukernel
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.linalg_ext import WinogradTransform
from mdsl.ir.attributes import Attribute, DenseResourceAttr, SymbolRefAttr, UnitAttr
from mdsl.ir.core import Block, Builder, Op, Region, Value
from mdsl.ir.typed import memref_of, tensor_of
from mdsl.ir.types import MemRefType, TensorType, index
from mdsl.passes.dispatch.bufferize import control
from mdsl.passes.dispatch.bufferize.storage import Storage, StorageMap, copy_all, is_tensor, loop_of
from mdsl.support.across import ACROSS


class Globals:
    """The module's constants: one `memref.global` for each distinct tensor."""

    def __init__(self, module: ModuleOp) -> None:
        self.module = module
        self.names: dict[Attribute, str] = {}
        self.point = next((op for op in module.body.ops if not isinstance(op, memref.Global)), None)

    def get(self, op: arith.Constant) -> memref.GetGlobal:
        """What reads the constant's memory."""
        data = op.attributes["value"]
        type = MemRefType.dense(op.result.type)
        if data not in self.names:
            base = data.name if isinstance(data, DenseResourceAttr) else op.result.name or "constant"
            name = self.names[data] = self.module.fresh_symbol(base)
            glob = memref.Global(
                results=[],
                sym_name=name,
                sym_visibility="private",
                type=type,
                initial_value=data,
                constant=UnitAttr(),
            )
            glob.location = op.location
            self.module.body.insert(glob, self.point)
        return memref.GetGlobal(results=[type], attributes={"name": SymbolRefAttr(self.names[data])})


class OpBufferizer:
    """Rewrites the ops of one function; `map` knows where its tensors lie.

    Ops on tensors stay, dead, until `finish`: their users tell which tensors are still needed.
    """

    def __init__(self, map: StorageMap, module: ModuleOp, globals: Globals) -> None:
        self.map = map
        self.module = module
        self.globals = globals
        self.dead: list[Op] = []

    def block(self, block: Block) -> None:
        """Every op of a block but its terminator, which belongs to the op around it."""
        for op in block.ops:
            if not op.has("terminator"):
                self.op(op)

    def op(self, op: Op) -> None:
        on_tensors = any(is_tensor(v) for v in (*op.operands, *op.results))
        handler = _handler(op) if on_tensors else None
        if handler is not None:
            handler(self, op)
            self.dead.append(op)
        elif on_tensors:
            raise op.error("works on tensors and cannot be bufferized: lower it to linalg first")
        elif not isinstance(op, linalg.LinalgOp):
            for region in op.regions:
                self.block(region.block)

    def finish(self) -> None:
        """Erases the ops on tensors, users first."""
        for op in reversed(self.dead):
            op.erase()

    # Plain ops ------------------------------------------------------------------------------------------------

    def constant(self, op: arith.Constant) -> None:
        if op.result.users:
            memory = Builder.before(op).value(self.globals.get(op), op.result.name)
            self.map.bind(op.result, memory, Storage(False))

    def empty(self, op: tensor.Empty) -> None:
        self.map.undefined.add(op.result)

    def linalg(self, op: linalg.LinalgOp) -> None:
        builder = Builder.before(op)
        bound = [self._linalg_destination(op, k) for k in range(len(op.outputs))]
        inputs = [self.map.read(v, builder) if is_tensor(v) else v for v in op.inputs]
        nest = type(op).from_parts(
            [*inputs, *(memory for memory, _ in bound)], [], op.attributes, take_regions(op)
        )
        builder.add(nest)
        for inner in nest.body.ops:
            if isinstance(inner, tensor.Extract):
                memory = self.map.read(inner.operands[0], builder)
                inner.replace_by(
                    Builder.before(inner).value(memref.Load(memory, inner.operands[1:]), inner.result.name)
                )
        for result, (memory, storage) in zip(op.results, bound, strict=True):
            self.map.bind(result, memory, storage)

    def transform(self, op: WinogradTransform) -> None:
        builder, dest = Builder.before(op), op.outputs[0]
        memory, storage = self.map.destination(
            op, dest, reads=False, others=op.inputs, name=op.results[0].name
        )
        inputs = [self.map.read(v, builder) for v in op.inputs]
        builder.add(type(op).from_parts([*inputs, memory], [], op.attributes, take_regions(op)))
        self.map.bind(op.results[0], memory, storage)

    def _linalg_destination(self, op: linalg.LinalgOp, k: int) -> tuple[Value, Storage]:
        dest = op.outputs[k]
        others = self._other_reads(op, len(op.inputs) + k)
        # An output that the loops do not cover keeps its old elements elsewhere.
        position = len(op.inputs) + k
        reads = bool(op.body.args[position].users) or not op.maps[position].is_projected_permutation
        if not reads and (dest in self.map.undefined or not self.map.can_write(op, dest, others)):
            for i, value in enumerate(op.inputs):
                if self._can_take_over(op, i, k):
                    return self.map.memory[value], self.map.storage[value]
        return self.map.destination(op, dest, reads=reads, others=others, name=op.results[k].name)

    def _other_reads(self, op: linalg.LinalgOp, position: int) -> list[Value]:
        """Operands that must not lie in the memory of the output at `position`.

        An input that is read exactly where the output is written, element by element, may.
        """
        maps, operands = op.maps, op.operands
        dest = operands[position]
        pointwise = not op.reduction_dims and maps[position].is_permutation
        return [
            v
            for i, v in enumerate(operands)
            if i != position
            and not (
                pointwise
                and i < len(op.inputs)
                and maps[i] == maps[position]
                and self.map.memory.get(v, v) is self.map.memory.get(dest, dest)
            )
        ]

    def _can_take_over(self, op: linalg.LinalgOp, i: int, k: int) -> bool:
        """True if output k may replace input i, element by element, in its memory: nobody needs it any more."""
        position = len(op.inputs) + k
        value, dest = op.operands[i], op.operands[position]
        if (
            value not in self.map.memory
            or value.type != dest.type
            or len(op.outputs) > 1
            or op.reduction_dims
        ):
            return False
        maps = op.maps
        if maps[i] != maps[position] or not maps[i].is_permutation:
            return False
        rest = [
            v
            for j, v in enumerate(op.operands)
            if j not in (i, position) and not (v is value and maps[j] == maps[i])
        ]
        return self.map.can_write(op, value, rest)

    def dispatch(self, op: ukernel.Dispatch) -> None:
        builder = Builder.before(op)
        kernel = self.module.lookup(op.symbol)
        outs = op.attr("outs")
        count = len(op.operands) // op.attr("batch")
        operands: list[Value] = list(op.operands)
        bound: list[tuple[Value, Storage]] = []
        for i, dest in enumerate(op.operands):
            if i % count >= count - outs and is_tensor(dest):
                others = [v for j, v in enumerate(op.operands) if j != i]
                reads = not isinstance(kernel, ukernel.UkernelFunc) or reads_old(kernel.args[i % count])
                name = op.results[len(bound)].name
                bound.append(self.map.destination(op, dest, reads=reads, others=others, name=name))
                operands[i] = bound[-1][0]
        without_gaps = kernel is not None and ACROSS in kernel.attributes
        for i, value in enumerate(operands):
            if is_tensor(value):
                operands[i] = (
                    self._dense(value, builder)[0] if without_gaps else self.map.read(value, builder)
                )
        builder.add(ukernel.Dispatch.from_parts(operands, [], op.attributes))
        for result, (memory, storage) in zip(op.results, bound, strict=True):
            self.map.bind(result, memory, storage)

    def call(self, op: func.Call) -> None:
        builder = Builder.before(op)
        operands = [self._dense(v, builder, exact=True)[0] if is_tensor(v) else v for v in op.operands]
        outs: list[Value] = []
        for result in op.results:
            if is_tensor(result):
                memory = self.map.fresh(tensor_of(result), builder, result.name)
                self.map.bind(result, memory, Storage(True, loop_of(op)))
                outs.append(memory)
        scalars = [r for r in op.results if not is_tensor(r)]
        new = builder.add(func.Call.from_parts([*operands, *outs], [r.type for r in scalars], op.attributes))
        for old, value in zip(scalars, new.results, strict=True):
            old.replace_by(value)

    # Parts and shapes -----------------------------------------------------------------------------------------

    def extract_slice(self, op: tensor.ExtractSlice) -> None:
        source = op.operands[0]
        if source not in self.map.memory:
            self.map.undefined.add(op.result)
            return
        memory = self.subview(
            op, self.map.memory[source], tensor_of(op.result), Builder.before(op), op.result.name
        )
        self.map.bind(op.result, memory, self.map.storage[source])

    def subview(
        self, op: tensor.SliceLike, whole: Value, part: TensorType, builder: Builder, name: str | None
    ) -> Value:
        """The part of `whole` that the slice names; `whole` itself where that is all of it."""
        if part.shape == memref_of(whole).shape and is_whole(op, part.shape):
            return whole
        numbers = [
            [v if isinstance(v, int) else arith.constant_of(v) for v in op.mixed(w)]
            for w in ("sizes", "strides")
        ]
        sizes, strides = ([int(v) for v in found if v is not None] for found in numbers)
        if len(sizes) != len(numbers[0]) or len(strides) != len(numbers[1]):
            raise op.error("sizes and strides must be numbers to be bufferized")
        if min(strides, default=1) < 1:
            raise op.error(f"strides must be positive, got {min(strides)}")
        return builder.value(memref.SubView.of(whole, op.mixed("offsets"), sizes, strides, part.shape), name)

    def insert_slice(self, op: tensor.InsertSlice) -> None:
        source, dest = op.operands[:2]
        part = tensor_of(source)
        builder = Builder.before(op)
        if dest in self.map.memory and self.lies_in(source, self.map.memory[dest], op):
            self.map.bind(op.result, self.map.memory[dest], self.map.storage[dest])
            return
        reads = not is_whole(op, tensor_of(dest).shape)
        memory, storage = self.map.destination(op, dest, reads=reads, others=[source], name=op.result.name)
        self._write_part(op, source, memory, part, builder)
        self.map.bind(op.result, memory, storage)

    def lies_in(self, source: Value, whole: Value, op: tensor.SliceLike) -> bool:
        """True if `source` was computed in place, in exactly the part of `whole` that the slice names."""
        return source in self.map.memory and is_view_of(self.map.memory[source], whole, op)

    def _write_part(
        self, op: tensor.SliceLike, source: Value, whole: Value, part: TensorType, builder: Builder
    ) -> None:
        if source in self.map.memory:
            view = self.subview(op, whole, part, builder, f"{whole.name}_part" if whole.name else None)
            copy_all([(self.map.memory[source], view)], self.map, builder)

    def reshape(self, op: tensor.CollapseShape | tensor.ExpandShape) -> None:
        source = op.operands[0]
        if source not in self.map.memory:
            self.map.undefined.add(op.result)
            return
        builder = Builder.before(op)
        memory, storage = self._reshaped(op, builder)
        self.map.bind(op.result, memory, storage)

    def _reshaped(self, op: tensor.Reassociation, builder: Builder) -> tuple[Value, Storage]:
        memory, shape = self.map.read(op.operands[0], builder), tensor_of(op.result).shape
        if memref.reshaped_type(memref_of(memory), op.groups, shape) is None:
            memory, storage = self._dense(op.operands[0], builder)
        else:
            storage = self.map.storage[op.operands[0]]
        back = memory.owner
        if isinstance(back, RESHAPES) and back.groups == op.groups:
            before = memref_of(back.operands[0])
            if before.shape == shape and len(shape) != memref_of(memory).rank:
                return back.operands[0], storage  # the memory that was reshaped for the op that wrote it
        kind = memref.CollapseShape if isinstance(op, tensor.CollapseShape) else memref.ExpandShape
        return builder.value(kind.of(memory, op.groups, shape), op.result.name), storage

    def _dense(self, value: Value, builder: Builder, exact: bool = False) -> tuple[Value, Storage]:
        """The memory of `value` if it has no gaps (`exact`: nor an offset), else a copy."""
        memory = self.map.read(value, builder)
        type, wanted = memref_of(memory), MemRefType.dense(value.type)
        if type == wanted or (type.is_dense and not exact):
            return memory, self.map.storage.get(value) or Storage(
                True, loop_of(builder.point or builder.block.terminator)
            )
        copy = self.map.allocate(wanted, builder, f"{value.name}_dense" if value.name else None)
        builder.add(memref.Copy(memory, copy))
        return copy, Storage(True, loop_of(builder.point or builder.block.terminator))

    def cast(self, op: tensor.CastOp) -> None:
        source = op.operands[0]
        if source.type != op.result.type:
            raise op.error("shapes must be static: bind the dimensions first")
        if source in self.map.memory:
            self.map.bind(op.result, self.map.memory[source], self.map.storage[source])
        else:
            self.map.undefined.add(op.result)

    def dim(self, op: tensor.DimOp) -> None:
        which = arith.constant_of(op.operands[1])
        if which is None:
            raise op.error("the dimension must be a constant")
        size = arith.Constant.of(tensor_of(op.operands[0]).shape[int(which)], index)
        op.result.replace_by(Builder.before(op).value(size))

    # Elements -------------------------------------------------------------------------------------------------

    def extract(self, op: tensor.Extract) -> None:
        builder = Builder.before(op)
        memory = self.map.read(op.operands[0], builder)
        op.result.replace_by(builder.value(memref.Load(memory, op.operands[1:])))

    def insert(self, op: tensor.Insert) -> None:
        scalar, dest, *indices = op.operands
        memory, storage = self.map.destination(op, dest, reads=True, others=[], name=op.result.name)
        Builder.before(op).add(memref.Store(scalar, memory, indices))
        self.map.bind(op.result, memory, storage)

    def from_elements(self, op: tensor.FromElements) -> None:
        builder = Builder.before(op)
        type = tensor_of(op.result)
        memory = self.map.fresh(type, builder, op.result.name)
        for at, element in enumerate(op.operands):
            indices: list[Value] = []
            for extent in reversed(type.shape):
                indices.insert(0, builder.value(arith.Constant.of(at % extent, index), f"c{at % extent}"))
                at //= extent
            builder.add(memref.Store(element, memory, indices))
        self.map.bind(op.result, memory, Storage(True, loop_of(op)))


def take_regions(op: Op) -> list[Region]:
    """Frees the op's regions for another op; names and ages of the values in them survive."""
    regions, op.regions = op.regions, []
    for region in regions:
        region.parent = None
    return regions


def reads_old(argument: Value) -> bool:
    """True if a kernel may read what its destination held before."""
    for user in argument.users:
        if isinstance(user, tensor.ExtractSlice):
            if reads_old(user.result):
                return True
        elif not isinstance(user, linalg.LinalgOp | WinogradTransform):
            return True
        else:
            arguments = zip(user.operands, user.body.args, strict=True)
            if any(value is argument and inner.users for value, inner in arguments):
                return True
    return False


Handler = Callable[[OpBufferizer, Any], None]

_HANDLERS: dict[type[Op], Handler] = {
    arith.Constant: OpBufferizer.constant,
    tensor.Empty: OpBufferizer.empty,
    tensor.ExtractSlice: OpBufferizer.extract_slice,
    tensor.InsertSlice: OpBufferizer.insert_slice,
    tensor.CollapseShape: OpBufferizer.reshape,
    tensor.ExpandShape: OpBufferizer.reshape,
    tensor.CastOp: OpBufferizer.cast,
    tensor.DimOp: OpBufferizer.dim,
    tensor.Extract: OpBufferizer.extract,
    tensor.Insert: OpBufferizer.insert,
    tensor.FromElements: OpBufferizer.from_elements,
    linalg.LinalgOp: OpBufferizer.linalg,
    WinogradTransform: OpBufferizer.transform,
    ukernel.Dispatch: OpBufferizer.dispatch,
    func.Call: OpBufferizer.call,
    scf.For: control.for_loop,
    scf.If: control.if_else,
    scf.Forall: control.forall,
}


def _handler(op: Op) -> Handler | None:
    return next((h for kind, h in _HANDLERS.items() if isinstance(op, kind)), None)
