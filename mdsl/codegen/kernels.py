"""Compiling the micro-kernels of a program, each to an object file of its own in the cache.

A kernel that two programs share is compiled once; a warm start parses, proves and generates nothing. (LLVM
calls are serialised by llvmlite's lock, so that kernels are compiled one after another.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache as memoize
from typing import TYPE_CHECKING

from mdsl.analysis.footprints import KernelArgument
from mdsl.analysis.intervals import Interval
from mdsl.codegen.native import NativeCode, load_object, to_object
from mdsl.ir.errors import VerifyError
from mdsl.support import cache
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target

if TYPE_CHECKING:
    from mdsl.dialects.ukernel import UkernelFunc

_SYMBOL = "kernel"

ROOMS = ("grammar.lark", "ir", "dialects", "syntax", "target", "analysis", "arithmetic", "codegen")
"""What the machine code of a micro-kernel follows from, and the proof that it is safe."""


@dataclass(frozen=True)
class Kernels:
    """Kernels by name: their addresses, valid while this object lives, and what they do with their
    arguments, which `bytecode.verify` needs."""

    addresses: dict[str, int] = field(default_factory=dict)
    signatures: dict[str, tuple[KernelArgument, ...]] = field(default_factory=dict)
    code: dict[str, NativeCode] = field(default_factory=dict, repr=False)


def compile_kernels(funcs: Iterable[UkernelFunc], target: Target | None = None) -> Kernels:
    """Prove and compile micro-kernels on memrefs, lowered to scf, arith, math, vector and memref.

    Raises VerifyError where a kernel cannot be compiled or is not provably within its arguments.
    """
    from mdsl.syntax.printer import print_op

    kernels = Kernels()
    for func in funcs:
        _add(kernels, func.symbol, print_op(func), lambda func=func: func, target or Target.host())
    return kernels


def load_kernels(
    sources: Mapping[str, str],
    target: Target | None = None,
    parsed: Mapping[str, UkernelFunc] | None = None,
    fuelled: bool = False,
) -> Kernels:
    """Like `compile_kernels`, from the text of each `ukernel.func` by name, which may be hostile: it is
    parsed and verified unless the cache knows it, or `parsed` has the op that it is the text of; one that stands in no
    module is taken apart.
    With `fuelled` they keep to a limit of steps (see `kernel.emit_kernel`). Raises MdslError or VerifyError."""
    kernels = Kernels()
    for name, source in sources.items():
        known = (parsed or {}).get(name)
        _add(
            kernels,
            name,
            source,
            lambda name=name, source=source, known=known: known or _parse(name, source),
            target or Target.host(),
            fuelled,
        )
        if known is not None and known.block is None:
            known.erase()  # the memory of its ops is LLVM's for the next
    return kernels


def _parse(name: str, source: str) -> UkernelFunc:
    from mdsl.dialects.ukernel import UkernelFunc
    from mdsl.syntax.parser import parse

    module = parse(source, f"micro-kernel {name}")
    ops = module.body.ops
    if len(ops) != 1 or not isinstance(ops[0], UkernelFunc) or ops[0].symbol != name:
        raise VerifyError(f"must hold just the ukernel.func @{name}", module)
    return ops[0]


def _add(
    kernels: Kernels,
    name: str,
    source: str,
    make: Callable[[], UkernelFunc],
    target: Target,
    fuelled: bool = False,
) -> None:
    """Compile one kernel, or take it from the cache. Its name is left out of the key: what it computes
    does not depend on it."""
    anonymous = source.replace(f"@{name}(", f"@{_SYMBOL}(", 1)
    key = cache.key("kernel", anonymous, source_digest(*ROOMS))
    make = memoize(make)  # a new kernel is parsed once, to be proved and then compiled
    kernels.signatures[name] = _signature(key, make)
    variant = cache.key(key, "fuelled") if fuelled else key
    code = load_object(variant, [_SYMBOL], lambda: _object(make(), target, fuelled), target)
    kernels.code[name] = code
    kernels.addresses[name] = code.address(_SYMBOL)


def _object(func: UkernelFunc, target: Target, fuelled: bool) -> bytes:
    from mdsl.codegen.kernel import to_llvm_ir

    try:
        return to_object(to_llvm_ir(func, _SYMBOL, fuelled), target)
    except RuntimeError as error:  # only a hostile kernel comes so far
        raise func.error(f"has no machine code: {str(error).strip().splitlines()[0]}") from None


def _signature(key: str, make: Callable[[], UkernelFunc]) -> tuple[KernelArgument, ...]:
    """The result of the proof, which the cache keeps beside the object."""
    name = cache.key("signature", key)
    known = cache.get_json(name)
    if known is not None:
        return tuple(_from_json(*row) for row in known)
    from mdsl.codegen.bounds import prove

    signature = prove(make())
    cache.put_json(name, signature)
    return signature


def _from_json(kind: str, span: int, interval: list[int], alignment: int) -> KernelArgument:
    return KernelArgument(kind, span, Interval(*interval), alignment)  # type: ignore[arg-type]
