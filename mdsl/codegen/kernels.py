"""Compiling the micro-kernels of a program, each to an object file of its own in the cache.

A kernel that two programs share is compiled once; a warm start parses, proves and generates nothing, and reads the kernels of a
program in one piece. LLVM compiles kernels on all
processors, while the next ones are proved and written as LLVM IR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache as memoize
from typing import TYPE_CHECKING, Any, NamedTuple

from mdsl.analysis.footprints import KernelArgument
from mdsl.analysis.intervals import Interval
from mdsl.codegen import half, objects
from mdsl.codegen.llvm_target import target_machine
from mdsl.codegen.native import NativeCode, Wanted, alone, to_object
from mdsl.ir.errors import VerifyError
from mdsl.support import cache
from mdsl.support.processors import processors
from mdsl.support.source_digest import source_digest
from mdsl.target.target import Target

if TYPE_CHECKING:  # threads are there when there is something to compile
    from concurrent.futures import ThreadPoolExecutor

    from mdsl.dialects.ukernel import UkernelFunc
    from mdsl.ir.location import Location

_SYMBOL = "kernel"

Signature = tuple[KernelArgument, ...]
"""What a kernel does with its arguments."""

_MANY = 8
"""Kernels from which on the cache has those of a program together, too: one image to read and to place in memory instead of one a kernel."""

_SWITCH = 2e-4
"""Seconds after which Python lets another thread have the interpreter, while LLVM compiles beside it. A kernel takes a score of calls
of LLVM, each of which waits for that before the next: with Python's 5 ms compilation began in earnest when all kernels were written."""

ROOMS = ("grammar.lark", "ir", "dialects", "syntax", "target", "analysis", "reference", "rewriting", "passes", "arithmetic",
         "codegen")  # fmt: skip
"""What the machine code of a micro-kernel follows from, and the proof that it is safe."""


@dataclass(frozen=True)
class Kernels:
    """Kernels by name: their addresses, valid while this object lives, and what they do with their
    arguments, which `bytecode.verify` needs."""

    addresses: dict[str, int] = field(default_factory=dict)
    signatures: dict[str, Signature] = field(default_factory=dict)
    code: dict[str, NativeCode] = field(default_factory=dict, repr=False)


def compile_kernels(funcs: Iterable[UkernelFunc], target: Target | None = None) -> Kernels:
    """Prove and compile micro-kernels on memrefs, lowered to scf, arith, math, vector and memref.

    Raises VerifyError where a kernel cannot be compiled or is not provably within its arguments.
    """
    from mdsl.syntax.printer import print_op

    with _Loading(target or Target.host()) as loading:
        for func in funcs:
            loading.add(func.symbol, print_op(func), lambda func=func: func)
    return loading.kernels


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
    target = target or Target.host()
    together = _Together(sources, target, fuelled) if len(sources) >= _MANY else None
    found = together and together.found()
    if found:
        return found
    with _Loading(target, fuelled) as loading:
        for name, source in sources.items():
            known = (parsed or {}).get(name)
            loading.add(
                name,
                source,
                lambda name=name, source=source, known=known: known or parse_kernel(name, source),
            )
            if known is not None and known.block is None:
                known.erase()  # the memory of its ops is LLVM's for the next
    if together:
        together.keep(loading.kernels, loading.images)
    return loading.kernels


def parse_kernel(name: str, source: str) -> UkernelFunc:
    """The op that is the text of a micro-kernel. Raises MdslError, VerifyError."""
    from mdsl.dialects.ukernel import UkernelFunc
    from mdsl.syntax.parser import parse

    module = parse(source, f"micro-kernel {name}")
    ops = module.body.ops
    if len(ops) != 1 or not isinstance(ops[0], UkernelFunc) or ops[0].symbol != name:
        raise VerifyError(f"must hold just the ukernel.func @{name}", module)
    return ops[0]


class _Waiting(NamedTuple):
    """A kernel that is being compiled; with its text and its place, should LLVM refuse it."""

    name: str
    source: str
    location: Location | None
    wanted: Wanted
    signature: Signature


class _Loading:
    """Loads kernels one after another, and all that the cache lacks at the end of the block: until then they are compiled."""

    def __init__(self, target: Target, fuelled: bool = False) -> None:
        self.kernels = Kernels()
        self.target, self.fuelled = target, fuelled
        self.images: dict[str, bytes] = {}
        """The objects, but of those that the process had before."""
        self._compiling: dict[Wanted, Callable[[], bytes]] = {}
        """What gives the objects once they are compiled."""
        self._waiting: list[_Waiting] = []
        self._threads: ThreadPoolExecutor | None = None
        self._alone = alone()

    def __enter__(self) -> _Loading:
        self._alone.__enter__()
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            if kind is None:
                self._link()
        finally:
            sys.setswitchinterval(self._interval)
            if self._threads is not None:
                self._threads.shutdown(cancel_futures=True)
            self._alone.__exit__(None, None, None)

    def add(self, name: str, source: str, make: Callable[[], UkernelFunc]) -> None:
        """Takes one kernel from the cache, or has it compiled. Its name is left out of the key: what it computes
        does not depend on it."""
        anonymous = source.replace(f"@{name}(", f"@{_SYMBOL}(", 1)
        key = cache.key("kernel", anonymous, source_digest(*ROOMS))
        form = memoize(lambda: _with_arithmetic(make(), self.target))  # once, to be proved and compiled
        wanted = Wanted.of(cache.key(key, "fuelled") if self.fuelled else key, [_SYMBOL], self.target)
        kept = None if wanted in self._compiling else _Kept.under(wanted.name)
        code = wanted.loaded() or (kept and wanted.accepted(kept.image))
        if code is not None:
            signature = kept.signature if kept else _proved(form())
            self._add(name, code, signature, kept and kept.image)
            return
        func = form()
        signature = _proved(func)
        if wanted not in self._compiling:
            self._compiling[wanted] = self._compile(func)
        self._waiting.append(_Waiting(name, source, func.location, wanted, signature))

    def _compile(self, func: UkernelFunc) -> Callable[[], bytes]:
        from concurrent.futures import ThreadPoolExecutor

        from mdsl.codegen.kernel import to_llvm_ir

        if self._threads is None:
            target_machine(self.target)  # sets up LLVM, once
            self._threads = ThreadPoolExecutor(processors())
        text = to_llvm_ir(func, _SYMBOL, self.fuelled, self.target)
        try:
            return self._threads.submit(to_object, text, self.target).result
        except RuntimeError:  # no thread can be had
            return memoize(lambda: to_object(text, self.target))

    def _link(self) -> None:
        for name, source, location, wanted, signature in self._waiting:
            try:
                image = self._compiling[wanted]()
            except RuntimeError as error:  # only a hostile kernel comes so far
                func = parse_kernel(name, source)  # what was compiled may be taken apart
                func.location = location
                reason = next(iter(str(error).strip().splitlines()), "LLVM says nothing of why")
                raise func.error(f"has no machine code: {reason}") from None
            code = wanted.loaded()
            if code is None:
                code = wanted.linked(image)
                _Kept(signature, image).keep(wanted.name)
            self._add(name, code, signature, image)

    def _add(self, name: str, code: NativeCode, signature: Signature, image: bytes | None) -> None:
        self.kernels.code[name] = code
        self.kernels.signatures[name] = signature
        if image is not None:
            self.images[name] = image
        self.kernels.addresses[name] = code.address(_SYMBOL)


class _Together:
    """The kernels of a program in the cache, as one image, beside each by itself, which other programs may share."""

    def __init__(self, sources: Mapping[str, str], target: Target, fuelled: bool) -> None:
        self.names = list(sources)
        texts = (part for pair in sources.items() for part in pair)
        key = cache.key("kernels", str(fuelled), source_digest(*ROOMS), *texts)
        self.wanted = Wanted.of(key, self.names, target)
        self.signatures = cache.key("signatures", self.wanted.name)

    def found(self) -> Kernels | None:
        known = cache.get_json(self.signatures)
        with alone():
            code = self.wanted.found()
        if known is None or code is None:
            return None
        try:
            signatures = {name: _from_json(known[name]) for name in self.names}
        except _NO_PROOF:
            return None
        addresses = {name: code.address(name) for name in self.names}
        return Kernels(addresses, signatures, dict.fromkeys(self.names, code))

    def keep(self, kernels: Kernels, images: Mapping[str, bytes]) -> None:
        """Where some of the objects are not at hand, or cannot be joined, they are loaded one by one."""
        if half.needed(self.wanted.target):
            return  # they call functions of another object
        found = {name: images[name] for name in self.names if name in images}
        joined = objects.join(found, _SYMBOL) if len(found) == len(self.names) else None
        if joined is not None:
            cache.put(self.wanted.name, joined)
            cache.put_json(self.signatures, kernels.signatures)


def _with_arithmetic(func: UkernelFunc, target: Target) -> UkernelFunc:
    from mdsl.codegen.machine_form import with_arithmetic

    return with_arithmetic(func, target)


def _proved(func: UkernelFunc) -> Signature:
    from mdsl.codegen.bounds import prove

    return prove(func)


class _Kept(NamedTuple):
    """What the cache has of a kernel: the result of the proof, and the object."""

    signature: Signature
    image: bytes

    @staticmethod
    def under(name: str) -> _Kept | None:
        data = cache.get(name) or b""
        start = 8 + int.from_bytes(data[:8], "little")
        with suppress(*_NO_PROOF):
            return _Kept(_from_json(json.loads(data[8:start])), data[start:])

    def keep(self, name: str) -> None:
        head = json.dumps(self.signature).encode()
        cache.put(name, len(head).to_bytes(8, "little") + head + self.image)


_NO_PROOF = (ValueError, TypeError, LookupError, RecursionError)
"""What reading a proof raises of an entry that holds something else."""


def _from_json(rows: Any) -> Signature:
    """The proof that JSON made lists of. Raises one of `_NO_PROOF` for anything else: its numbers are calculated with."""
    found = tuple(KernelArgument(kind, span, Interval(*ends), unit) for kind, span, ends, unit in rows)
    numbers = [n for a in found for n in (a.span, *a.interval, a.alignment)]
    if any(type(n) is not int for n in numbers) or any(a.span < 0 or a.alignment < 1 for a in found):
        raise ValueError("no proof")
    if any(a.kind not in ("read", "write", "index") for a in found):
        raise ValueError("no proof")
    return found
