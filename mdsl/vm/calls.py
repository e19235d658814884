"""Calls in native code: making a call, and the workers' waiting and barriers.

A call is one native function: it takes a frame, hands it the addresses of the arrays, gives the job to the team, takes
part in it and gives the frame back. No Python instruction lies between these, so that a signal's handler, a finalizer
or an exception finds either nothing begun or all of it done, and may itself call.

It is portable LLVM IR, in `calls.ll`: atomics, the processor's pause instruction, and functions of the system and of
Python by their addresses. What it reads are 64-bit words. A program's table of frames (see `frames`):

    era         how often this process had been forked when the table was made
    team        the address of the team's block, 0 for a call on one thread
    arguments   how many addresses of arrays a call brings
    full        whether a caller that finds no frame waits for one, as no more are made
    turn        how many have waited
    count       the number of frames; the address of each one's job follows

A team's block, each group on cache lines of its own (see `Team` for who writes what):

    sequence   the number of the last job
    job        the address of the last job
    done       how many workers have finished it
    settings   how often an idle worker looks for a job; whether to stop; the number of workers; the team's lock
    worker w   whether it is asleep; the sequence that it has seen; the lock on which it sleeps
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mdsl.bytecode.machine import Context
from mdsl.codegen import native
from mdsl.support import cache as object_cache
from mdsl.target.target import Target
from mdsl.vm.locks import function_address
from mdsl.vm.memory import GENERATION, LINE_WORDS, STOPPED, Job, buffer_slot

SEQUENCE, JOB, DONE, SETTINGS, WORKERS = (LINE_WORDS * line for line in range(5))
SPINS, STOP, SIZE, LOCK = range(SETTINGS, SETTINGS + 4)
ASLEEP, SEEN, WAKER = range(3)
ERA, TEAM, ARGUMENTS, FULL, TURN, COUNT, FRAMES = range(7)

SUCCESS, BUSY, STALE, EXHAUSTED = range(4)
"""What a call answers: it is done; there is no free frame, and another may be made; the process has been forked, or
the team has ended, since the table of frames was made; a worker has run out of fuel, and nothing is finished."""

MAX_THREADS = 64
"""Workers of a team."""

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

_SYMBOLS = ("set_up", "forked", "era", "pause", "clock", "barrier", "stop", "call", "halt", "serve")


class NativeCalls:
    """The native functions that calls are made of; calling one releases the GIL."""

    def __init__(self, code: native.NativeCode) -> None:
        self._code = code
        word = ctypes.c_int64

        def make(name: str, result: type | None, *arguments: type) -> Callable[..., int]:
            return ctypes.CFUNCTYPE(result, *arguments)(code.address(name))

        self.forked = make("forked", None)
        self.era = make("era", word)
        self.pause = make("pause", None, word)
        self.clock = make("clock", ctypes.c_uint64)
        self.call = make("call", word, word, ctypes.c_char_p)
        self.halt = make("halt", None, word)
        self.serve = make("serve", None, word, word)
        self.meeting = code.address("barrier"), code.address("stop")
        locking = map(function_address, ("PyThread_acquire_lock", "PyThread_release_lock"))
        make("set_up", None, word, word, word)(*locking, _yield_address())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forked)


@cache
def native_calls() -> NativeCalls:
    """Those of this process."""
    target = Target.host()
    text = _text(target.architecture)
    key = object_cache.key("calls", text)
    return NativeCalls(native.load_object(key, _SYMBOLS, lambda: native.to_object(text, target), target))


def _text(architecture: str) -> str:
    declaration, pause = _PAUSE.get(architecture, ("", 'fence syncscope("singlethread") seq_cst'))
    names = {
        "CLOCK": clock_intrinsic(architecture), "PAUSE_DECLARATION": declaration, "PAUSE": pause,
        "LINE_WORDS": LINE_WORDS, "WORKERS": Context.WORKERS, "BARRIER": Context.BARRIER,
        "JOB_CODE": Job.CODE, "JOB_BUFFERS": Job.BUFFERS, "JOB_LOCK": Job.LOCK, "JOB_WORKERS": Job.WORKERS,
        "JOB_FUEL": Job.FUEL, "JOB_BARRIER": Job.BARRIER, "CONTEXT_FUEL": Context.FUEL, "STOPPED": STOPPED,
        "GENERATION": GENERATION, "EXHAUSTED": EXHAUSTED, "FIRST_SLOT": buffer_slot(0), "TEAM_WORKERS": WORKERS,
        "SIZE": SIZE, "DONE": DONE, "JOB": JOB, "STOP": STOP, "SPINS": SPINS, "LOCK": LOCK, "SEEN": SEEN,
        "WAKER": WAKER, "TEAM": TEAM, "ARGUMENTS": ARGUMENTS, "FULL": FULL, "TURN": TURN, "COUNT": COUNT, "FRAMES": FRAMES, "SUCCESS": SUCCESS, "BUSY": BUSY, "STALE": STALE,
    }  # fmt: skip
    text = Path(__file__).with_suffix(".ll").read_text(encoding="utf-8")
    for name, value in names.items():
        text = text.replace(f"%{name}%", str(value))
    return text


def clock_intrinsic(architecture: str) -> str:
    """The processor's clock that every program may read. On AArch64 LLVM's cycle counter is the virtual timer, and its
    steady counter is always 0."""
    return "llvm.readcyclecounter" if architecture in ("x86_64", "aarch64") else "llvm.readsteadycounter"


def _yield_address() -> int:
    """The system's function that lets another thread run on this processor."""
    library, name = (None, "sched_yield") if os.name == "posix" else ("kernel32", "SwitchToThread")
    address = ctypes.cast(ctypes.CDLL(library)[name], ctypes.c_void_p).value
    assert address is not None, name
    return address
