"""Jamming: several calls of a micro-kernel become one kernel, with their loops fused (unroll-and-jam)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import prod

from mdsl.analysis.alias import AliasAnalysis, root
from mdsl.dialects import scf, ukernel, vector
from mdsl.ir.core import Block, Builder, Op, Value
from mdsl.ir.types import MemRefType, VectorType
from mdsl.target import cost
from mdsl.target.target import ELEMENT_BYTES, Target


def jam_width(kernel: ukernel.UkernelFunc, shared: Sequence[bool], copies: int, target: Target) -> int:
    """How many of `copies` calls fit the registers together, a divisor of `copies`; 1 if jamming has no use.

    `shared` tells which arguments are the same in all calls. A kernel with enough accumulators to keep the
    multiply-add units busy gains nothing: it is bound by what it streams.
    """
    loops = [op for op in kernel.walk() if isinstance(op, scf.For)]
    busiest = max(loops, key=lambda loop: _accumulators(loop, target), default=None)
    if busiest is None or not 0 < _accumulators(busiest, target) < target.fma_chains:
        return 1
    widths = [n for n in range(copies, 1, -1) if copies % n == 0]
    return next((n for n in widths if _live(busiest, kernel, shared, n, target) <= target.isa.free), 1)


def _accumulators(loop: scf.For, target: Target) -> int:
    """Vector registers that hold the values which the loop carries."""
    return sum(_registers(value, target) for value in loop.carried)


def _registers(value: Value, target: Target) -> int:
    return _registers_of(value.type.shape, value.type, target) if isinstance(value.type, VectorType) else 0


def _registers_of(shape: Sequence[int], type: VectorType, target: Target) -> int:
    """Those of rows of elements as `type` has them."""
    *rows, last = shape
    return prod(rows) * -(-last * ELEMENT_BYTES[str(type.element)] // target.vector_bytes)


def loads(op: Op, target: Target) -> int:
    """How often an op that reads loads: each register, or each element that is broadcast, once."""
    type = op.result.type
    if not isinstance(type, VectorType):
        return 1
    read = _read(op, type)
    return prod(read) if _is_broadcast(op) else _registers_of(read, type, target)


def _read(op: Op, type: VectorType) -> list[int]:
    """The vector's shape without the dimensions that repeat."""
    places = op.places if isinstance(op, vector.TransferRead) else [0]
    return [size for place, size in zip(places, type.shape, strict=True) if place is not None]


def _is_broadcast(op: Op) -> bool:
    return isinstance(op, vector.TransferRead) and op.places[-1] is None


def _live(
    loop: scf.For, kernel: ukernel.UkernelFunc, shared: Sequence[bool], copies: int, target: Target
) -> int:
    """Registers in use at once with `copies` accumulator sets: operands of several FMAs wait in registers,
    the others pass through one."""
    common = {arg for arg, same in zip(kernel.args, shared, strict=True) if same}
    shared_vectors = 0
    for op in loop.walk():
        if op.has("reads"):
            shared_vectors += _held(op, target) * (1 if root(op.operands[0]) in common else copies)
    return cost.registers(copies * _accumulators(loop, target), shared_vectors)


def _held(op: Op, target: Target) -> int:
    """Registers that a read fills and several FMAs use; elements that are broadcast pass through one."""
    type = op.result.type
    if not isinstance(type, VectorType) or _is_broadcast(op):
        return 0
    used_again = len(op.result.users) > 1 or prod(_read(op, type)) < type.size
    return loads(op, target) if used_again else 0


def jam(kernel: ukernel.UkernelFunc, shared: Sequence[bool], copies: int, name: str) -> ukernel.UkernelFunc:
    """The kernel `name` that does `copies` calls of `kernel`. Where an argument is the same in all calls it
    is taken once, and what is loaded from it is loaded once; the others follow each other call by call.

        ukernel.func @k(%a: A, %b: B, %c: C)   shared: %a
        ukernel.func @k_x2(%a: A, %b_x0: B, %b_x1: B, %c_x0: C, %c_x1: C)
    """
    positions = range(len(kernel.args))
    number = [1 if shared[p] else copies for p in positions]
    types = [kernel.args[p].type for p in positions for _ in range(number[p])]
    names = [
        _copy_name(kernel.args[p], c if number[p] > 1 else None) for p in positions for c in range(number[p])
    ]
    jammed = ukernel.UkernelFunc.make(name, types, [], names)
    attributes = kernel.arg_attributes()
    jammed.set_arg_attributes([attributes[p] for p in positions for _ in range(number[p])])
    jammed.location = kernel.location
    mappings: list[dict[Value, Value]] = [{} for _ in range(copies)]
    following = count()
    for p in positions:
        new = [jammed.args[next(following)] for _ in range(number[p])]
        for c, mapping in enumerate(mappings):
            mapping[kernel.args[p]] = new[c % number[p]]
    effects = [op for op in kernel.walk() if not op.has("pure") and not op.has("reads")]
    written = [v for op in effects for v in op.operands if isinstance(v.type, MemRefType)]
    aliases = AliasAnalysis(kernel.parent or kernel)
    read_only = {arg for arg in kernel.args if all(aliases.apart(arg, v) for v in written)}
    _Jammer(mappings, read_only).block(kernel.body, Builder(jammed.body))
    jammed.body.append(ukernel.Return([]))
    return jammed


def _copy_name(value: Value, copy: int | None) -> str | None:
    """The value's name in that copy; as it is for what the copies share."""
    return value.name if copy is None or not value.name else f"{value.name}_x{copy}"


class _Jammer:
    """Clones a kernel's ops in lockstep, once for each mapping; loops with the same bounds become one."""

    def __init__(self, mappings: list[dict[Value, Value]], read_only: set[Value]) -> None:
        self.mappings = mappings
        self.read_only = read_only

    def block(self, block: Block, builder: Builder) -> None:
        """All ops of the block but its terminator."""
        for op in block.ops:
            if op.has("terminator"):
                continue
            if isinstance(op, scf.For) and self._same(op.operands[:3]):
                self._loop(op, builder)
            else:
                self._copies(op, builder)

    def _same(self, values: Sequence[Value]) -> bool:
        first = self.mappings[0]
        return all(m.get(v, v) is first.get(v, v) for m in self.mappings for v in values)

    def _copies(self, op: Op, builder: Builder) -> None:
        """A copy for each mapping; one copy serves all mappings that give equal operands to an op which has
        no effect and reads nothing that changes."""
        sharable = op.has("pure") or (op.has("reads") and root(op.operands[0]) in self.read_only)
        made: dict[tuple[Value | int, ...], list[int]] = {}
        for copy, mapping in enumerate(self.mappings):
            key = (*(mapping.get(v, v) for v in op.operands), *(() if sharable else (copy,)))
            made.setdefault(key, []).append(copy)
        for copies in made.values():
            first = self.mappings[copies[0]]
            label = copies[0] if len(made) > 1 else None
            clone = builder.add(op.clone(first), *(_copy_name(r, label) for r in op.results))
            for copy in copies:
                self.mappings[copy].update(zip(op.results, clone.results, strict=True))

    def _loop(self, loop: scf.For, builder: Builder) -> None:
        """One loop that carries the values of all copies."""
        inits = [m.get(v, v) for m in self.mappings for v in loop.operands[3:]]
        lower, upper, step = (self.mappings[0].get(v, v) for v in loop.operands[:3])
        copies = range(len(self.mappings))
        names = [_copy_name(a, c) for c in copies for a in loop.carried]
        fused = scf.For.make(lower, upper, step, inits, loop.iv.name or "i", names)
        builder.add(fused, *(_copy_name(r, c) for c in copies for r in loop.results))
        width = len(loop.carried)
        for number, mapping in enumerate(self.mappings):
            part = slice(number * width, (number + 1) * width)
            mapping[loop.iv] = fused.iv
            mapping.update(zip(loop.carried, fused.carried[part], strict=True))
            mapping.update(zip(loop.results, fused.results[part], strict=True))
        inside = Builder(fused.body, None, loop.location)
        self.block(loop.body, inside)
        inside.add(scf.Yield([m.get(v, v) for m in self.mappings for v in loop.body.terminator.operands]))
