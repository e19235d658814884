"""Micro-kernels that processes take part in together (`mdsl.across`): functions of Python in the place of copies."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Container, Sequence
from typing import Any, cast

import numpy as np

from mdsl.analysis.footprints import KernelArgument, KernelSignatures
from mdsl.bytecode.module import DTYPES, BytecodeError, Function, Kernel, Module
from mdsl.codegen.kernels import parse_kernel
from mdsl.support import across
from mdsl.support.across import ACROSS

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
    """Processes must meet in one order: no exchange is in a loop whose trips workers take as they come."""
    shared = 0
    for opcode, operands in function.code:
        shared += (opcode == "parallel_begin") - (opcode == "parallel_end")
        name = module.kernels[cast(int, operands[0])].name if shared and opcode == "dispatch" else ""
        if name in names:
            raise BytecodeError(
                f"a loop that workers share calls kernel '{name}', in which processes meet ({ACROSS})"
            )


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
    ):
        raise BytecodeError(
            f"kernel '{kernel.name}' has {ACROSS}, and does not copy neighbouring f32 or f64 numbers from one argument to the other"
        )
    return _native(DTYPES[str(first.element)], first.size, kind.value)


def _native(dtype: np.dtype, count: int, kind: str) -> Callable[..., None]:
    numbers = ctypes.c_byte * (count * dtype.itemsize)

    def call(arguments: Sequence[int]) -> None:
        source, target = (
            np.frombuffer(memoryview(numbers.from_address(arguments[k])), dtype) for k in range(2)
        )
        target[...] = source
        across.reduce_from_native(target, kind)

    return _NATIVE(call)
