"""bufferize: loops and branches, whose tensor results become buffers that they write to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdsl.analysis.slices import same_slice
from mdsl.dialects import memref, scf, tensor
from mdsl.ir.core import Block, Builder, Op, Region, Value
from mdsl.ir.typed import tensor_of
from mdsl.passes.dispatch.bufferize.storage import Storage, copy_all, is_tensor, loop_of

if TYPE_CHECKING:
    from mdsl.passes.dispatch.bufferize.ops import OpBufferizer


def for_loop(ops: OpBufferizer, op: scf.For) -> None:
    """The memory of a carried tensor is that of its initial value, if nobody needs that any more."""
    map, inits = ops.map, op.operands[3:]
    bound: dict[int, tuple[Value, Storage]] = {}
    for k, init in enumerate(inits):
        if is_tensor(init):
            others = [v for j, v in enumerate(inits) if j != k]
            bound[k] = map.destination(op, init, reads=True, others=others, name=op.carried[k].name)
    scalars = [k for k in range(len(inits)) if k not in bound]
    lower, upper, step = op.operands[:3]
    new = scf.For.make(lower, upper, step, [inits[k] for k in scalars])
    new.attributes.update({k: v for k, v in op.attributes.items() if k != "operandSegmentSizes"})
    Builder.before(op).add(new)
    _hand_over([op.iv, *(op.carried[k] for k in scalars)], new.body.args)
    _move_ops(op.body, new.body)
    for k, (memory, _) in bound.items():
        map.bind(op.carried[k], memory, Storage(True, new))
    ops.block(new.body)
    _yield(ops, new.body, {k: memory for k, (memory, _) in bound.items()})
    for k, (memory, storage) in bound.items():
        map.bind(op.results[k], memory, storage)
    _hand_over([op.results[k] for k in scalars], new.results)


def _yield(ops: OpBufferizer, block: Block, targets: dict[int, Value]) -> None:
    """Puts the tensors that the terminator hands on into their memory; scalars remain."""
    end = block.terminator
    values = end.operands
    pairs = [
        (ops.map.memory[values[k]], target) for k, target in targets.items() if values[k] in ops.map.memory
    ]
    copy_all(pairs, ops.map, Builder.before(end))
    end.operands = [v for k, v in enumerate(values) if k not in targets]


def if_else(ops: OpBufferizer, op: scf.If) -> None:
    """A result lies where both branches left it, or else in memory to which each copies its own."""
    tensors = [k for k, r in enumerate(op.results) if is_tensor(r)]
    scalars = [k for k in range(len(op.results)) if k not in tensors]
    new = scf.If(op.operands[0], results=[op.results[k].type for k in scalars], regions=[Region(), Region()])
    new.attributes.update(op.attributes)
    Builder.before(op).add(new)
    for old_block, block in zip(op.branches, new.branches, strict=True):
        _move_ops(old_block, block)
        ops.block(block)
    yields = [b.terminator.operands for b in new.branches]
    fresh = {
        k: memory
        for k in tensors
        if (memory := _bind_choice(ops, op, k, [y[k] for y in yields], new)) is not None
    }
    for block, values in zip(new.branches, yields, strict=True):
        _yield(ops, block, {k: fresh[k] if k in fresh else ops.map.memory[values[k]] for k in tensors})
    _hand_over([op.results[k] for k in scalars], new.results)


def _bind_choice(ops: OpBufferizer, op: scf.If, k: int, values: Sequence[Value], new: scf.If) -> Value | None:
    """Binds result k; new memory if the branches left it in different places."""
    result, map = op.results[k], ops.map
    memories = [map.memory.get(v) for v in values]
    if (
        memories[0] is not None
        and memories[0] is memories[1]
        and map.storage[values[0]] is map.storage[values[1]]
    ):
        map.bind(result, memories[0], map.storage[values[0]])
        return None
    memory = map.fresh(tensor_of(result), Builder.before(new), result.name)
    map.bind(result, memory, Storage(True, loop_of(op)))
    return memory


# Parallel loops -----------------------------------------------------------------------------------------------


def forall(ops: OpBufferizer, op: scf.Forall) -> None:
    """Iterations write their parts of the shared outputs in place, which is sound for they write separate parts."""
    map = ops.map
    bounds = op.bounds()
    new = scf.Forall.make([b[0] for b in bounds], [b[1] for b in bounds], [b[2] for b in bounds])
    new.attributes.update({k: v for k, v in op.attributes.items() if k == "mapping"})
    bound = [_shared_memory(ops, op, k) for k in range(len(op.shared))]
    Builder.before(op).add(new)
    _hand_over(op.ivs, new.ivs)
    _move_ops(op.body, new.body)
    for shared, init, (memory, _) in zip(op.shared, op.outputs, bound, strict=True):
        if _reads_elsewhere(shared) and init in map.memory:
            map.bind(shared, map.memory[init], Storage(False))
        else:
            map.bind(shared, memory, Storage(True, new))
    ops.block(new.body)
    _parallel_inserts(
        ops,
        new.body.terminator,
        {shared: memory for shared, (memory, _) in zip(op.shared, bound, strict=True)},
    )
    for result, (memory, storage) in zip(op.results, bound, strict=True):
        map.bind(result, memory, storage)


def _shared_memory(ops: OpBufferizer, op: scf.Forall, k: int) -> tuple[Value, Storage]:
    init, shared = op.outputs[k], op.shared[k]
    if _reads_elsewhere(shared) and init in ops.map.memory:
        # One iteration reads what another one writes: it must see the content from before the loop.
        builder = Builder.before(op)
        memory = ops.map.fresh(tensor_of(init), builder, shared.name)
        builder.add(memref.Copy(ops.map.memory[init], memory))
        return memory, Storage(True, loop_of(op))
    others = [v for j, v in enumerate(op.outputs) if j != k]
    return ops.map.destination(op, init, reads=True, others=others, name=shared.name)


def _parallel_inserts(ops: OpBufferizer, end: Op, targets: dict[Value, Value]) -> None:
    """Copies each part that was not computed in place; the terminator remains, empty."""
    builder = Builder.before(end)
    pairs: list[tuple[Value, Value]] = []
    for op in end.body.ops:
        if not isinstance(op, tensor.ParallelInsertSlice):
            raise op.error("only tensor.parallel_insert_slice may stand here")
        source, dest = op.operands[:2]
        target = targets[dest]
        if source in ops.map.memory and not ops.lies_in(source, target, op):
            view = ops.subview(
                op, target, tensor_of(source), builder, f"{target.name}_part" if target.name else None
            )
            pairs.append((ops.map.memory[source], view))
    copy_all(pairs, ops.map, builder)
    for op in end.body.ops:
        op.erase()


def _reads_elsewhere(shared: Value) -> bool:
    """True if an iteration reads another part of a shared output than the one that it writes."""
    inserts = [
        u for u in shared.users if isinstance(u, tensor.ParallelInsertSlice) and u.operands[1] is shared
    ]
    return not all(_keeps_to_its_part(user, shared, inserts) for user in shared.users)


def _keeps_to_its_part(user: Op, shared: Value, inserts: Sequence[tensor.ParallelInsertSlice]) -> bool:
    if user in inserts:
        return user.operands[0] is not shared
    if isinstance(user, tensor.ExtractSlice):
        return any(same_slice(user, i) for i in inserts)
    return isinstance(user, tensor.DimOp)


# Moving code --------------------------------------------------------------------------------------------------


def _hand_over(old: Sequence[Value], new: Sequence[Value]) -> None:
    """Users of the old values read the new ones, which take over the names."""
    for before, after in zip(old, new, strict=True):
        before.replace_by(after)
        after.name, after.serial = before.name, before.serial


def _move_ops(source: Block, target: Block) -> None:
    for op in source.ops:
        target.append(op.detach())
