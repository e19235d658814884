"""Micro-kernels that processes take part in together (`mdsl.across`): functions of Python in the place of copies."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mdsl.analysis.footprints import KernelArgument, KernelSignatures
from mdsl.bytecode.module import DTYPES, BytecodeError, Function, Kernel, Module
from mdsl.codegen.kernels import parse_kernel
from mdsl.support import across
from mdsl.support.across import ACROSS

if TYPE_CHECKING:
    from mdsl.bytecode.structure import Step
    from mdsl.dialects import scf
    from mdsl.dialects.ukernel import UkernelFunc
    from mdsl.ir.core import Op, Value

_NATIVE = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_size_t))
"""What a dispatch calls with the addresses of a kernel's arguments."""


def exchanges(
    module: Module, function: Function, signatures: KernelSignatures
) -> dict[str, Callable[..., None]]:
    """The native functions for the kernels that say `mdsl.across`, by their names. Raises BytecodeError."""
    asking = (kernel for kernel in module.kernels if ACROSS in kernel.ir and kernel.name in signatures)
    made = {kernel.name: _exchange(kernel, signatures[kernel.name]) for kernel in asking}
    found = {name: native for name, native in made.items() if native is not None}
    if found:
        _check_order(module, function, found)
    return found


def _check_order(module: Module, function: Function, names: Container[str]) -> None:
    """Processes must meet equally often and in one order: no exchange is in a loop whose trips workers take as they come, and none in a
    loop or a branch whose bounds or condition follow from data, which may differ between them."""
    from mdsl.bytecode.structure import resolve  # few programs have exchanges

    steps = resolve(function)
    of_data = _blocks_of_data(steps)
    around: list[str] = []
    for index, step in enumerate(steps):
        if step.opcode.role == "open":
            shared = "that workers share " if step.opcode.block == "parallel" else ""
            found = shared or ("whose run depends on data " if index in of_data else "")
            around.append(f"a {'branch' if step.opcode.block == 'if' else 'loop'} {found}" if found else "")
        elif step.opcode.role == "close":
            around.pop()
        elif step.opcode.mnemonic == "dispatch" and any(around):
            name = module.kernels[step.number("kernel")].name
            if name in names:
                where = next(filter(None, around))
                raise BytecodeError(f"{where}calls kernel '{name}', in which processes meet ({ACROSS})")


def _blocks_of_data(steps: Sequence[Step]) -> set[int]:
    """The loops and branches, by the instructions that open them, whose run depends on what is read from memory: on a register with that,
    with what is computed of that, or with what is set only in such a block.

    Each instruction tells once what follows from what; then data goes where it leads. Code may be long and hostile, and in loops a
    register may follow from one that is set further down."""
    from mdsl.bytecode.structure import registers_read, registers_set

    follows: dict[int, list[int]] = {}
    """Of registers, by their numbers, and of blocks, by the complements of their instructions'."""
    waiting: list[int] = []
    inside: list[int] = []
    for index, step in enumerate(steps):
        opens = [~index] if step.opcode.role == "open" else []
        made = [*registers_set(step), *opens]
        for cause in (*registers_read(step), *inside[-1:]):
            follows.setdefault(cause, []).extend(made)
        if any(operand.kind == "buffer" for operand, _ in step.operands.values()):
            waiting += made
        inside += opens
        if step.opcode.role == "close":
            inside.pop()
    reached: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += follows.get(one, ())
    return {~one for one in reached if one < 0}


def address_of(function: Callable[..., None]) -> int:
    """Where a native function lies, valid while that lives."""
    return ctypes.cast(cast(Any, function), ctypes.c_void_p).value or 0


def _exchange(kernel: Kernel, signature: Sequence[KernelArgument]) -> Callable[..., None] | None:
    """It stays within what the kernel was proved to read and write."""
    from mdsl.ir.attributes import StringAttr  # what is loaded compiled has nothing to do with IR
    from mdsl.ir.types import MemRefType, f32, f64

    func = parse_kernel(kernel.name, kernel.ir)
    kind, types = func.attributes.get(ACROSS), [a.type for a in func.args]
    first = types[0] if types else None
    if kind is None:
        return None
    if (
        not isinstance(kind, StringAttr)
        or kind.value not in across.KINDS
        or not isinstance(first, MemRefType)
        or first.layout != (1,)
        or first.element not in (f32, f64)
        or [(a.kind, a.span) for a in signature] != [("read", first.nbytes), ("write", first.nbytes)]
        or not _copies(func, first.size)
    ):
        raise BytecodeError(
            f"kernel '{kernel.name}' has {ACROSS}, and does not copy neighbouring f32 or f64 numbers from one argument to the other"
        )
    return _native(DTYPES[str(first.element)], first.size, kind.value)


def _copies(func: UkernelFunc, size: int) -> bool:
    """True if the kernel does nothing but copy its first argument to its second, all `size` elements of it, each to its own place."""
    from mdsl.dialects import scf

    pieces: list[range] = []
    for op in func.body.ops:
        loop = op if isinstance(op, scf.For) and not op.results else None
        span = range(1) if loop is None else _span(loop)
        if span is None:
            return False
        for inner in [op] if loop is None else loop.body.ops:
            piece = _piece(inner, func.args, loop.iv if loop is not None else None, span)
            if piece is None:
                return False
            pieces.append(piece)
    end = 0
    for piece in sorted(pieces, key=lambda piece: piece.start):
        end = max(end, piece.stop) if piece.start <= end else end
    return end == size


def _piece(op: Op, args: Sequence[Value], counter: Value | None, span: range) -> range | None:
    """The neighbouring elements that the op copies in the trips of `span`, none if it writes nothing; None for what a copy has not."""
    from mdsl.dialects import arith, memref, scf, ukernel, vector
    from mdsl.ir.types import ShapedType

    if isinstance(op, arith.Constant | vector.Load | memref.Load | scf.Yield | ukernel.Return):
        return range(0)
    if not isinstance(op, vector.Store | memref.Store) or op.operands[1] is not args[1]:
        return None
    read, place = op.operands[0].owner, op.operands[2:]
    known = [arith.constant_of(v) for v in place]
    if not isinstance(read, vector.Load | memref.Load) or read.operands[0] is not args[0]:
        return None
    if [arith.constant_of(v) if v is not counter else v for v in read.operands[1:]] != [
        number if v is not counter else v for v, number in zip(place, known, strict=True)
    ]:
        return None
    type = op.operands[0].type
    length = type.size if isinstance(type, ShapedType) else 1
    if counter is not None and list(place) == [counter]:
        return range(span.start, span[-1] + length) if span and span.step <= length else range(0)
    return (
        range(int(known[0]), int(known[0]) + length)
        if len(known) == 1 and known[0] is not None and span
        else None
    )


def _span(loop: scf.For) -> range | None:
    """The trips of a loop between constants."""
    from mdsl.dialects import arith

    numbers = [arith.constant_of(v) for v in loop.operands[:3]]
    known = [int(n) for n in numbers if n is not None]
    return range(*known) if len(known) == 3 and known[2] > 0 else None


def _native(dtype: np.dtype, count: int, kind: str) -> Callable[..., None]:
    numbers = ctypes.c_byte * (count * dtype.itemsize)

    def call(arguments: Sequence[int]) -> None:
        source, target = (
            np.frombuffer(memoryview(numbers.from_address(arguments[k])), dtype) for k in range(2)
        )
        target[...] = source
        across.reduce_from_native(target, kind)

    return _NATIVE(call)
