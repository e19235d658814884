"""plan-memory: static memory planning: an offset in one arena for every buffer, by liveness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mdsl.analysis.alias import ALLOCATIONS, AliasAnalysis, accesses, ancestor_in, views
from mdsl.dialects import arith, func, memref, scf
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.indices import Index
from mdsl.ir.core import Builder, Op, Value
from mdsl.ir.rewrites import rewriting
from mdsl.ir.typed import memref_of
from mdsl.ir.types import MemRefType, i8, index
from mdsl.passes.base import Context, Pass, functions, option
from mdsl.rewriting import remarks
from mdsl.rewriting.overlaps import put_inputs_aside

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """An allocation: its size in bytes and the numbers of the function's ops between which it is in use."""

    op: Op
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class PlanMemory(Pass):
    """Place every buffer of a function in one arena; buffers that are never in use together share memory.

    Greedy by size (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"):
    from the largest buffer to the smallest, each goes into the smallest gap that it fits into between
    those placed before that are in use at the same time. A buffer is in use from the first to the last op of the block
    that allocates it which touches it or a view of it, or has an op inside that does. Offsets are multiples of 64 bytes.

    A buffer inside a loop is one buffer for all iterations, each of which begins without content. Iterations of
    `scf.forall` would share it at the same time, so that a forall that holds one becomes a sequential `scf.for`.

    Before:

        %a = memref.alloc() : memref<64xf32>
        linalg.fill ins(%x : f32) outs(%a : memref<64xf32>)
        %b = memref.alloc() : memref<64xf32>
        memref.copy %a, %b : memref<64xf32> to memref<64xf32>

    After:

        %arena = memref.alloc() {alignment = 64} : memref<512xi8>
        %a_at = arith.constant 0 : index
        %a = memref.view %arena[%a_at][] : memref<512xi8> to memref<64xf32>
        linalg.fill ins(%x : f32) outs(%a : memref<64xf32>)
        %b_at = arith.constant 256 : index
        %b = memref.view %arena[%b_at][] : memref<512xi8> to memref<64xf32>
        memref.copy %a, %b : memref<64xf32> to memref<64xf32>
    """

    name: ClassVar[str] = "plan-memory"
    level: ClassVar[str | None] = "buffers"
    subject = "buffer outside of an arena"

    reuse: bool = option(True, "let buffers that are not in use together share memory")

    def run(self, module: ModuleOp, context: Context) -> None:
        aliases = AliasAnalysis(module)
        for function in functions(module):
            put_inputs_aside(function, aliases)
            _plan(function, self.reuse)


def _plan(function: func.FuncOp, reuse: bool) -> None:
    allocations = [op for op in function.walk() if isinstance(op, ALLOCATIONS)]
    if not allocations or all(_is_arena(op) for op in allocations):
        return
    for op in allocations:
        if not memref_of(op.result).is_static:
            raise op.error("the size must be known at compile time")
        _check_stays(op)
    make_sequential(function)
    buffers = _live_ranges(function, allocations)
    for buffer in buffers:
        _hoist(buffer.op, function)
    offsets = place(buffers) if reuse else _one_after_another(buffers)
    total = max((offsets[b] + _aligned(b.size) for b in buffers), default=0)
    apart = sum(_aligned(b.size) for b in buffers)
    message = f"has an arena of {total} bytes for {len(buffers)} buffers of {apart} bytes together"
    remarks.applied(function, message, arena=total, buffers=len(buffers), apart=apart)
    memory = memref.Alloc([], [], results=[MemRefType((total,), i8)], alignment=ALIGNMENT)
    arena = Builder(function.body, function.body.first).value(memory, "arena")
    for buffer in buffers:
        _replace_by_view(buffer, arena, offsets[buffer])


def _is_arena(op: Op) -> bool:
    """True for memory that this pass made."""
    return memref_of(op.result).element == i8 and all(isinstance(u, memref.View) for u in op.result.users)


def _replace_by_view(buffer: Buffer, arena: Value, offset: int) -> None:
    op = buffer.op
    builder = Builder.before(op)
    shift = builder.value(arith.Constant.of(offset, index), f"at_{offset}")
    view = builder.value(memref.View(arena, shift, [], results=[op.result.type]))
    op.replace_by(view)


# Where buffers live -------------------------------------------------------------------------------------------


def _check_stays(op: Op) -> None:
    """Raises for memory that a loop carries on from the iteration that allocates it: it would need a place for each."""
    held = set(views(op.result))
    loops = (a for a in op.ancestors() if isinstance(a, scf.For))
    if any(v in held for loop in loops for v in loop.carried):
        raise op.error(
            "must be allocated in front of the loop that carries it from one iteration to the next"
        )


def make_sequential(function: func.FuncOp) -> None:
    """Turns each `scf.forall` that holds an allocation into nested `scf.for`."""
    for op in list(function.walk()):
        if isinstance(op, scf.Forall) and any(isinstance(inner, ALLOCATIONS) for inner in op.walk()):
            _sequential(op)


def _sequential(forall: scf.Forall) -> None:
    with rewriting(forall, "sequential"):
        _to_loops(forall)


def _to_loops(forall: scf.Forall) -> None:
    builder = Builder.before(forall)
    block, loops = builder, []
    ranges = [[_value(b, builder) for b in bounds] for bounds in forall.bounds()]
    for counter, (lower, upper, step) in zip(forall.ivs, ranges, strict=True):
        loop = scf.For.make(lower, upper, step, iv=counter.name or "i")
        block.add(loop)
        block = Builder(loop.body, location=forall.location)
        counter.replace_by(loop.iv)
        loop.iv.serial = counter.serial
        loops.append(loop)
    for op in forall.body.ops:
        if op is not forall.body.terminator:
            loops[-1].body.append(op.detach())
    for loop in loops:
        loop.body.append(scf.Yield([], results=[]))
    forall.erase()


def _value(bound: Index, builder: Builder) -> Value:
    return bound if isinstance(bound, Value) else builder.value(arith.Constant.of(bound, index), f"c{bound}")


def _hoist(op: Op, function: func.FuncOp) -> None:
    """Moves an allocation in front of the loops around it."""
    outer = ancestor_in(function.body, op)
    assert outer is not None
    if outer is not op:
        function.body.insert(op.detach(), outer)


def _live_ranges(function: func.FuncOp, allocations: Sequence[Op]) -> list[Buffer]:
    """The allocations that something uses; the others are erased."""
    position = {op: i for i, op in enumerate(function.walk())}
    buffers: list[Buffer] = []
    for op in allocations:
        _drop_deallocations(op)
        used = _users_in_a_block(op)
        if not used and not op.result.users:
            op.erase()
            continue
        # An op ends where the last of those inside it does.
        ends = [position[inner] for user in used for inner in user.walk()] or [position[op]]
        buffers.append(Buffer(op, memref_of(op.result).nbytes, min(ends), max(ends)))
    return buffers


def _users_in_a_block(op: Op) -> set[Op]:
    """The ops that touch an allocation or have one inside that does, all of the innermost block that holds them: its own,
    or one around it, where a branch hands it on."""
    users, block = [user for user, _ in accesses(op.result)], op.block
    while block is not None:
        found = {ancestor_in(block, user) for user in users}
        if None not in found:
            return {user for user in found if user is not None}
        block = block.parent_op.block if block.parent_op else None
    return set()


def _drop_deallocations(op: Op) -> None:
    for view in list(views(op.result)):
        for user in list(view.users):
            if isinstance(user, memref.Dealloc):
                user.erase()


# Offsets ------------------------------------------------------------------------------------------------------


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def place(buffers: Sequence[Buffer]) -> dict[Buffer, int]:
    """An offset in bytes for each buffer: greedy by size, best fit."""
    placed: dict[Buffer, int] = {}
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        neighbours = [p for p in placed if p.first <= buffer.last and buffer.first <= p.last]
        placed[buffer] = _best_gap(
            _aligned(buffer.size), sorted((placed[p], placed[p] + _aligned(p.size)) for p in neighbours)
        )
    return placed


def _best_gap(size: int, taken: Sequence[tuple[int, int]]) -> int:
    """Start of the smallest gap of at least `size` bytes between the taken spans, else their end."""
    best: tuple[int, int] | None = None
    end = 0
    for start, stop in taken:
        gap = start - end
        if gap >= size and (best is None or gap < best[0]):
            best = gap, end
        end = max(end, stop)
    return end if best is None else best[1]


def _one_after_another(buffers: Sequence[Buffer]) -> dict[Buffer, int]:
    offsets: dict[Buffer, int] = {}
    end = 0
    for buffer in buffers:
        offsets[buffer] = end
        end += _aligned(buffer.size)
    return offsets
