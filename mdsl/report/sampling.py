"""Running large programs on the lower levels: the reference for a sample of each micro-kernel's calls, native code for the rest.

The reference takes a second for what a kernel of vectors does in a microsecond. So of a kernel that is called often the first
calls are run by the reference, the next by both, and, if they agree, the others by the kernel's machine code, which is made of
the same IR and proved to stay within its arguments. What is not a compiled kernel is run by the reference. A kernel that reads the
same as one that was judged so, in another program that a check runs, is that kernel (`Natives`).
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mdsl.codegen.kernels import Kernels, compile_kernels
from mdsl.dialects.builtin import ModuleOp
from mdsl.dialects.func import FunctionLike
from mdsl.dialects.linalg import LinalgOp
from mdsl.dialects.memref import Copy
from mdsl.dialects.ukernel import UkernelFunc
from mdsl.errors import MdslError
from mdsl.ir.core import Block, Op, Region, Value, VerifyError
from mdsl.ir.naming import names_under
from mdsl.ir.types import MemRefType, dtype_of
from mdsl.passes.base import Context
from mdsl.passes.buffers.vectorize import Vectorize
from mdsl.reference.evaluator import Evaluator, Scope
from mdsl.support.progress import tell
from mdsl.syntax.printer import print_op
from mdsl.target.target import Target

SAMPLES = 2
"""Calls of a kernel that the reference alone runs."""
TOLERANCE = {"f64": 1e-9, "f32": 1e-4, "f16": 2e-2, "bf16": 1e-1}
"""Difference allowed to reordered arithmetic, relative to the output's largest number (at least 1)."""

Natives = dict[str, "_Native | None"]
"""The machine code of kernels by their text; None for one that has none, or other code than the reference says."""


class Sampling(Evaluator):
    """Runs a module as the reference does, most calls of its kernels natively; tells how far it is.

    `known` are kernels judged in other programs, to which those of this one are added."""

    def __init__(self, module: ModuleOp, what: str = "", known: Natives | None = None) -> None:
        super().__init__(module)
        self.what = what
        self.calls: Counter[Op] = Counter()
        self.known = {} if known is None else known
        self.texts: dict[Op, str] = {}
        self.natives: dict[Op, _Native | None] = {}
        self.running = False

    def call(self, function: FunctionLike, arguments: Sequence[Any]) -> list[Any]:
        if isinstance(function, UkernelFunc):
            return self._kernel(function, arguments)
        if self.running:
            return super().call(function, arguments)
        self.running = True
        return self._entry(function.body, arguments)

    def done(self, op: Op, scope: Scope) -> None:
        """Called when an op of the entry function has run."""

    def ready(self, op: Op, scope: Scope) -> None:
        """Called before an op of the entry function runs."""

    def _entry(self, block: Block, arguments: Sequence[Any]) -> list[Any]:
        scope = Scope(self, dict(zip(block.args, arguments, strict=True)))
        steps = self.steps(block)
        for number, step in enumerate(steps):
            if self.what:
                tell(f"{self.what}: {number} of {len(steps)} ops")
            self.ready(step.op, scope)
            scope.execute(step)
            self.done(step.op, scope)
        return [scope.values[v] for v in block.terminator.operands]

    def _kernel(self, kernel: UkernelFunc, arguments: Sequence[Any]) -> list[Any]:
        self.calls[kernel] += 1
        if self.calls[kernel] == 1:
            self.texts[kernel] = print_op(kernel)
        if self.texts[kernel] in self.known:
            self.natives[kernel] = self.known[self.texts[kernel]]
        elif self.calls[kernel] <= SAMPLES:
            return super().call(kernel, arguments)
        else:
            self.natives[kernel] = _native(kernel)
            self._compare(kernel, arguments)
            self.known[self.texts[kernel]] = self.natives[kernel]
        native = self.natives[kernel]
        if native is None or not native.fits(arguments):
            return super().call(kernel, arguments)
        native.run(arguments)
        return []

    def _compare(self, kernel: UkernelFunc, arguments: Sequence[Any]) -> None:
        """Forgets the machine code if it does not compute what the reference does."""
        native = self.natives[kernel]
        if native is None or not native.fits(arguments):
            return
        copies = [_copy(a) for a in arguments]
        super().call(kernel, copies)
        kept = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        native.run(arguments)
        pairs = [(a, c) for a, c in zip(arguments, copies, strict=True) if isinstance(a, np.ndarray)]
        if any(worst(c, a, str(t)) for (a, c), t in zip(pairs, native.elements, strict=True)):
            self.natives[kernel] = None
        for argument, old in zip(arguments, kept, strict=True):
            if isinstance(argument, np.ndarray) and argument.flags.writeable:
                argument[...] = old


def _copy(value: Any) -> Any:
    """Memory of the same strides with the same elements."""
    if not isinstance(value, np.ndarray):
        return value
    copy = np.empty_like(value, subok=False)
    copy[...] = value
    return copy


def _share(left: np.ndarray, right: np.ndarray) -> bool:
    """True if the two may have an element in common."""
    try:
        return np.shares_memory(left, right, max_work=1000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


class _Native:
    """A kernel's machine code."""

    def __init__(self, kernel: UkernelFunc, code: Kernels, apart: bool) -> None:
        """With `apart` the code is right only where no argument shares memory with one that is written."""
        self.code, self.apart = code, apart
        self.types = [a.type for a in kernel.args]
        self.elements = [t.element for t in self.types if isinstance(t, MemRefType)]
        self.signature = code.signatures[kernel.symbol]
        self.entry: Callable[[Any], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
            code.addresses[kernel.symbol]
        )

    def fits(self, arguments: Sequence[Any]) -> bool:
        """True if the arguments are what the proof of the kernel takes them to be."""
        for value, type, use in zip(arguments, self.types, self.signature, strict=True):
            if not isinstance(type, MemRefType):
                if not use.interval[0] <= int(value) <= use.interval[1]:
                    return False
                continue
            dtype = dtype_of(type.element)
            strides = tuple(s * dtype.itemsize for s in type.layout)
            if value.dtype != dtype or value.shape != tuple(type.shape):
                return False
            moves = [
                (a, b) for a, b, size in zip(value.strides, strides, type.shape, strict=True) if size > 1
            ]
            if any(a != b for a, b in moves) or (use.kind == "write" and not value.flags.writeable):
                return False
        return not self.apart or self._are_apart(arguments)

    def _are_apart(self, arguments: Sequence[Any]) -> bool:
        arrays = [(a, u.kind) for a, u in zip(arguments, self.signature, strict=True) if u.kind != "index"]
        return not any(
            kind == "write" and other is not array and _share(array, other)
            for array, kind in arrays
            for other, _ in arrays
        )

    def run(self, arguments: Sequence[Any]) -> None:
        slots = [a.ctypes.data if isinstance(a, np.ndarray) else int(a) for a in arguments]
        self.entry((ctypes.c_int64 * max(1, len(slots)))(*slots))


def _native(kernel: UkernelFunc) -> _Native | None:
    """The kernel's machine code; None where it cannot be made or cannot run here. What still has structured ops is
    vectorized first: the comparison with the reference is to tell whether that is right."""
    host = Target.host()
    if not host.runs_here or kernel.type.results:
        return None
    try:
        structured = any(isinstance(op, LinalgOp | Copy) for op in kernel.walk())
        if structured:
            kernel = kernel.clone()
            around = ModuleOp(regions=[Region(Block())])
            around.body.append(kernel)
            Vectorize().run(around, Context(host))
        return _Native(kernel, compile_kernels([kernel], host), structured)
    except (VerifyError, MdslError):
        return None


class Recording(Sampling):
    """Keeps what each named value of the entry function is once an op has computed or written it."""

    def __init__(self, module: ModuleOp, entry: FunctionLike, known: Natives | None = None) -> None:
        super().__init__(module, known=known)
        self.names = names_under(entry)
        self.found: dict[str, tuple[Op, np.ndarray]] = {}
        self.before: dict[Value, np.ndarray] = {}

    def ready(self, op: Op, scope: Scope) -> None:
        used = {v for inner in op.walk() for v in inner.operands if isinstance(v.type, MemRefType)}
        self.before = {v: np.array(scope.values[v]) for v in used if v in self.names and v in scope.values}

    def done(self, op: Op, scope: Scope) -> None:
        written = [
            v for v, old in self.before.items() if old.tobytes() != np.array(scope.values[v]).tobytes()
        ]
        for value in (*op.results, *written):
            array = scope.values.get(value)
            if isinstance(array, np.ndarray) and (value in written or not isinstance(value.type, MemRefType)):
                self.found[self.names[value]] = op, np.array(array)


def worst(old: np.ndarray, new: np.ndarray, dtype: str) -> tuple[int, ...] | None:
    """The index of the largest difference, if it is beyond the tolerance."""
    if old.size == 0:
        return None
    if dtype not in TOLERANCE:
        wrong = old != new
        return tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
    a, b = old.astype(np.float64), new.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(a - b))
    difference = np.where(np.isnan(difference), np.inf, difference)
    finite = np.abs(a[np.isfinite(a)])
    limit = TOLERANCE[dtype] * max(1.0, float(finite.max(initial=0.0)))
    place = np.unravel_index(int(difference.argmax()), difference.shape)
    return tuple(int(i) for i in place) if difference[place] > limit else None
