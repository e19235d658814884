"""LLVM IR text to native code in this process, through the on-disk object cache."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from ctypes import string_at
from functools import cache as memoize
from typing import TYPE_CHECKING, Any, NamedTuple

from mdsl.codegen import half, objects
from mdsl.codegen.llvm_target import host_name, machine_key, target_machine, triple_of, tuned
from mdsl.support import cache
from mdsl.target.target import Target, TargetError

if TYPE_CHECKING:  # LLVM is loaded when there is something to compile, or to link that only JITLink can
    import llvmlite.binding as llvm
    from llvmlite.binding.orcjit import LLJIT, ResourceTracker

_PIPELINE = "O3 -unroll -slp -cluster frozen"
"""Names the settings of `_optimise`, of the scheduler and of `tuned`, as a part of every object's key."""

_lock = threading.RLock()
_loaded: weakref.WeakValueDictionary[Wanted, NativeCode] = weakref.WeakValueDictionary()
_library_number = itertools.count()
_jit: LLJIT | None = None
_own = threading.local()
"""What a thread has for itself: `machines`, by target."""

_of_llvm: list[AbstractContextManager[object]] = []
"""The lock of llvmlite, while a fork holds it."""


def _before_fork() -> None:
    """A child must not wait for a thread that it does not have. Whoever drops what LLVM has made calls LLVM without being `alone`, as a
    thread does that ends, for its machines: so llvmlite's lock is taken, too."""
    _lock.acquire()
    found: Any = sys.modules.get("llvmlite.binding.ffi")
    lock = getattr(getattr(found, "lib", None), "_lock", None)
    if lock is not None:
        lock.__enter__()
        _of_llvm.append(lock)


def _after_fork() -> None:
    if _of_llvm:
        _of_llvm.pop().__exit__(None, None, None)
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


class NativeCode:
    """Machine code loaded into this process; its functions may be called while this object lives."""

    def __init__(self, linked: objects.Loaded | ResourceTracker) -> None:
        self._linked = linked

    def address(self, symbol: str) -> int:
        """The address of `symbol`, which must be among those named when the module was compiled."""
        return self._linked[symbol]


def compile_module(
    llvm_ir: str, symbols: Iterable[str], key_extra: str = "", target: Target | None = None
) -> NativeCode:
    """Compile a module of LLVM IR, or load its object from the cache, and link it into the process.

    `symbols` are the functions whose addresses will be asked for; `key_extra` is any further text that
    the result depends on. Functions that the module declares are looked up in the process (libc, libm).
    Raises TargetError when the host cannot run `target`'s code, RuntimeError when LLVM rejects the IR.
    """
    target = target or Target.host()
    return load_object(cache.key(llvm_ir, key_extra), symbols, lambda: to_object(llvm_ir, target), target)


def load_object(key: str, symbols: Iterable[str], produce: Callable[[], bytes], target: Target) -> NativeCode:
    """Link the object file cached under `key` (for this target), or the one that `produce()` returns.

    This is what a caller uses that can tell the key of an object without generating its LLVM IR.
    """
    wanted = Wanted.of(key, symbols, target)
    with alone():
        return wanted.found() or wanted.kept(produce())


def alone() -> AbstractContextManager[object]:
    """What loads objects does so alone in the process, and no fork comes between: a child has none of the threads that compile."""
    return _lock


class Wanted(NamedTuple):
    """An object file by its name in the cache, and the functions whose addresses will be asked for."""

    name: str
    exports: tuple[str, ...]
    target: Target

    @staticmethod
    def of(key: str, symbols: Iterable[str], target: Target) -> Wanted:
        """The object with this key for this target. Raises TargetError if this machine cannot execute it."""
        check_executable(target)
        return Wanted(
            cache.key("object", key, machine_key(target), _PIPELINE), tuple(sorted(set(symbols))), target
        )

    def found(self) -> NativeCode | None:
        """The object linked, if the process or the cache has it."""
        code = self.loaded()
        return code or self.accepted(cache.get(self.name))

    def loaded(self) -> NativeCode | None:
        """The object linked, if the process has it."""
        return _loaded.get(self)

    def accepted(self, image: bytes | None) -> NativeCode | None:
        """What was kept of the object, linked; None if it is not there, or LLVM does not accept it: then it is damaged."""
        with suppress(RuntimeError):
            return None if image is None else self.linked(image)

    def kept(self, image: bytes) -> NativeCode:
        """The object that was made, linked; the cache keeps it."""
        code = self.linked(image)
        cache.put(self.name, image)
        return code

    def linked(self, image: bytes) -> NativeCode:
        """The object that was made, linked."""
        library = _half_conversions(self.target).name if half.needed(self.target) else None
        found = objects.load(image, self.exports) if library is None else None
        code = _loaded[self] = NativeCode(found or _link(image, self.exports, library))
        return code


def check_executable(target: Target, to: str = "run") -> None:
    """Raises TargetError if this machine cannot execute the target's code; `to` says what for."""
    if not target.runs_here:
        raise TargetError(f"code for target '{target.name}' cannot {to} on this machine ({host_name()})")


def to_llvm(llvm_ir: str, target: Target) -> str:
    """The optimised LLVM IR of a module."""
    return str(_optimise(llvm_ir, target)[0])


def to_assembly(llvm_ir: str, target: Target) -> str:
    """The assembly of a module, for any target that LLVM knows; once made it is in the cache."""
    name = cache.key("assembly", llvm_ir, machine_key(target), _PIPELINE)
    kept = cache.get(name)
    if kept is not None:
        return kept.decode()
    module, machine = _optimise(llvm_ir, target)
    text = machine.emit_assembly(module)
    cache.put(name, text.encode())
    return text


def to_object(llvm_ir: str, target: Target) -> bytes:
    """The object file of a module, for any target that LLVM knows; threads may compile at once."""
    from llvmlite.binding import ffi

    module, machine = _optimise(llvm_ir, target)
    emit = _beside_others("LLVMPY_TargetMachineEmitToMemory")
    with ffi.OutputString() as message:
        buffer = emit(machine, module, 1, message)
        if not buffer:
            raise RuntimeError(str(message))
    try:
        return string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _beside_others(name: str) -> Callable[..., Any]:
    """A function of llvmlite's library without the lock that lets one thread at a time into LLVM: it takes long, and LLVM asks
    of threads only to share neither a context nor a target machine. Where llvmlite is another, it is the locked one."""
    from llvmlite.binding import ffi

    function = getattr(ffi.lib, name)
    return getattr(function, "_cfn", function)


@memoize
def _half_conversions(target: Target) -> ResourceTracker:
    return _link(to_object(half.LLVM_IR, target), half.NAMES)


def _link(image: bytes, exports: Iterable[str], needed: str | None = None) -> ResourceTracker:
    """Load an object file, which may call the functions of the library `needed`. JITLink lays out its sections together, so that the small code model holds."""
    import llvmlite.binding as llvm

    global _jit
    if _jit is None:
        _jit = llvm.create_lljit_compiler(target_machine(Target.host()), use_jit_link=True)
    library = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    for symbol in exports:
        library.export_symbol(symbol)
    if needed is not None:
        library.add_jit_library(needed)
    return library.link(_jit, f"mdsl-{next(_library_number)}")


def _machine(target: Target) -> llvm.TargetMachine:
    """The thread's own: one that has compiled for a core knows what it can do."""
    machines: dict[Target, llvm.TargetMachine] = _own.__dict__.setdefault("machines", {})
    if target not in machines:
        machines[target] = target_machine(target)
    return machines[target]


def _optimise(llvm_ir: str, target: Target) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse and optimise a module for `target`.

    Loops stay rolled: the kernels' reduction loops are shaped by the passes, and LLVM, unrolling them,
    turns their broadcasts into shuffles (a half of the speed).
    """
    import llvmlite.binding as llvm

    machine = _machine(target)
    module = llvm.parse_assembly(tuned(llvm_ir, target), llvm.create_context())
    module.triple = triple_of(target)
    module.data_layout = str(machine.target_data)
    module.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_unrolling = False
    tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, tuning)
    _beside_others("LLVMPY_RunNewModulePassManager")(builder.getModulePassManager(), module, builder)
    return module, machine
