"""bufferize: the buffer of each tensor, and whether an op may write to it in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from mdsl.analysis.alias import VIEWS, AliasAnalysis, root
from mdsl.analysis.slices import same_slice
from mdsl.dialects import memref, scf, tensor
from mdsl.dialects.func import FuncOp
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.typed import memref_of, tensor_of
from mdsl.ir.types import MemRefType, TensorType
from mdsl.rewriting import remarks

LOOPS = (scf.For, scf.Forall)


@dataclass(eq=False)
class Storage:
    """Memory that several tensors may share: an alias class.

    `scope` is the innermost loop that the memory belongs to: a loop inside it would overwrite in one
    iteration what the next one reads, so that it may write only to what it carries.
    """

    writable: bool
    scope: Op | None = None
    members: list[Value] = field(default_factory=list)


def is_tensor(value: Value) -> bool:
    return isinstance(value.type, TensorType)


def loop_of(op: Op) -> Op | None:
    """The innermost loop around `op`."""
    return next((a for a in op.ancestors() if isinstance(a, LOOPS)), None)


def is_told(op: Op) -> bool:
    """True if somebody wants to know where `op` writes, and it is not in a kernel: of each there may be many."""
    return remarks.wanted() and any(isinstance(a, FuncOp) for a in op.ancestors())


class StorageMap:
    """Tensors of one function -> memory. `order` numbers the ops as they stood before rewriting."""

    def __init__(self, function: Op, aliases: AliasAnalysis) -> None:
        self.aliases = aliases
        self.order = {op: i for i, op in enumerate(function.walk())}
        self.memory: dict[Value, Value] = {}
        self.storage: dict[Value, Storage] = {}
        self.undefined: set[Value] = set()
        """Tensors that nobody has written: each destination made of one gets memory of its own."""

    def bind(self, value: Value, memory: Value, storage: Storage) -> None:
        """From now on `value` lies in `memory`."""
        self.memory[value] = memory
        self.storage[value] = storage
        storage.members.append(value)

    def fresh(self, type: TensorType, builder: Builder, name: str | None) -> Value:
        """New memory for a tensor of `type`."""
        return self.allocate(MemRefType.dense(type), builder, name)

    def allocate(self, type: MemRefType, builder: Builder, name: str | None) -> Value:
        if not type.is_static:
            raise (builder.point or builder.block.terminator).error(
                f"{type} has no static shape: bind its dimensions first"
            )
        return builder.value(memref.Alloc.of(type), name)

    def read(self, value: Value, builder: Builder) -> Value:
        """The memory to read `value` from."""
        if value not in self.memory:
            assert value in self.undefined, f"%{value.name} has no memory"
            return self.fresh(tensor_of(value), builder, value.name)
        return self.memory[value]

    def destination(
        self, op: Op, dest: Value, *, reads: bool, others: Sequence[Value], name: str | None
    ) -> tuple[Value, Storage]:
        """The memory in which `op` makes its new version of `dest`: that of `dest` if nobody needs the old one.

        `reads` tells that the op looks at the old content; `others` are its further operands.
        """
        if dest not in self.undefined and self.can_write(op, dest, others):
            # That a tile of a result is written into the result is what loops over tiles are.
            is_tile = isinstance(dest.owner, tensor.ExtractSlice)
            if dest.name != name and not is_tile and is_told(op):
                remarks.applied(
                    op, f"is written over {remarks.value_name(dest)}, which nobody reads any more"
                )
            return self.memory[dest], self.storage[dest]
        builder = Builder.before(op)
        memory = self.fresh(tensor_of(dest), builder, name or dest.name)
        if reads and dest not in self.undefined:
            old = remarks.value_name(dest)
            remarks.missed(op, f"copies {old} first: the old content is read later, or is not its own")
            builder.add(memref.Copy(self.memory[dest], memory))
        elif is_told(op):
            remarks.applied(op, f"has memory of its own: {memory.type}")
        return memory, Storage(True, loop_of(op))

    def can_write(self, op: Op, dest: Value, others: Sequence[Value]) -> bool:
        """True if `op` may overwrite the memory of `dest`: it is writable, belongs to the loop around `op`,
        and nobody reads a tensor that shares it afterwards, `op` itself neither (by one of `others`)."""
        storage, target = self.storage[dest], self.memory[dest]
        if not storage.writable or storage.scope is not loop_of(op):
            return False
        if any(
            self.storage.get(v) is storage and not self.aliases.apart(self.memory[v], target) for v in others
        ):
            return False
        now = self.order[op]
        later = {m: [u for u in m.users if self.order.get(u, -1) > now] for m in storage.members}
        # Ops are asked about in program order: what nobody reads after this one stays so.
        storage.members = [member for member in storage.members if later[member]]
        return all(
            self.aliases.apart(self.memory[member], target)
            or all(self._overwrites(u, member, target) for u in later[member])
            for member in storage.members
        )

    def _overwrites(self, user: Op, member: Value, target: Value) -> bool:
        """True if `user` replaces the part of `member` in which `target` lies: it does not read that part."""
        if not isinstance(user, tensor.InsertSlice | tensor.ParallelInsertSlice):
            return False
        source, dest = user.operands[:2]
        if dest is not member or source is member:
            return False
        whole = self.memory[member]
        while isinstance(target.owner, VIEWS):
            cut = target.owner
            target = cut.operands[0]
            if isinstance(cut, memref.SubView) and target is whole and same_slice(cut, user):
                return True
        return False


def copy_all(pairs: Sequence[tuple[Value, Value]], storage: StorageMap, builder: Builder) -> None:
    """Copies each source to its target as if all at once: a source is read before it is overwritten."""
    pending = dict(enumerate(p for p in pairs if p[0] is not p[1]))
    readers: defaultdict[Value, list[int]] = defaultdict(list)
    writers: defaultdict[Value, list[int]] = defaultdict(list)
    for number, (source, target) in pending.items():
        readers[root(source)].append(number)
        writers[root(target)].append(number)

    def is_free(number: int) -> bool:
        """True if no other copy is still to read what this one overwrites."""
        own, target = pending[number]
        others = (pending[other][0] for other in readers[root(target)] if other in pending)
        return not any(source is not own and overlap(source, target) for source in others)

    def overlap(left: Value, right: Value) -> bool:
        return root(left) is root(right) and not storage.aliases.apart(left, right)

    free = [number for number in pending if is_free(number)]
    while pending:
        is_next = bool(free)
        number = heappop(free) if free else next(iter(pending))
        source, target = pending.pop(number)
        memory = root(source)
        if not is_next or overlap(source, target):
            kept = memref_of(source)
            aside = storage.allocate(MemRefType(kept.shape, kept.element), builder, f"{source.name}_kept")
            builder.add(memref.Copy(source, aside))
            source = aside
        if is_next:
            builder.add(memref.Copy(source, target))
        else:
            number += len(pairs)
            pending[number] = source, target
            writers[root(target)].append(number)
        for other in writers[memory]:
            if other in pending and other not in free and is_free(other):
                heappush(free, other)
