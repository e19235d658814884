"""Calls in native code: making a call, and the loops that workers share in it.

A call is one native function: it takes a frame, hands it the addresses of the arrays, gives the job to the team, takes
part in it and gives the frame back. No Python instruction lies between these, so that a signal's handler, a finalizer
or an exception finds either nothing begun or all of it done, and may itself call.

It is portable LLVM IR, in `calls.ll` and `sharing.ll`: atomics, the processor's pause instruction, and functions of the system and of
Python by their addresses. What it reads are 64-bit words. A program's table of frames (see `frames`):

    era         how often this process had been forked when the table was made
    team        the address of the team's block, 0 for a call on one thread
    arguments   how many addresses of arrays a call brings
    full        whether a caller that finds no frame waits for one, as no more are made
    turn        how many have waited
    count       the number of frames; the address of each one's job follows

Worker 0, the thread that calls, runs the program; the others of its team help with the trips of its parallel loops.
These are divided into units, at most `UNITS` of them, and each worker has a share: a run of neighbouring units. It takes
half of what is left of its share, again and again, from the front; then half of what is left of another's, from the
back. So undisturbed workers do the same part of a loop each time, whose data is in their processor's cache, and
who has been kept from its part, or has not even woken, is waited for no longer than for the chunk that it has in
hand. A loop has ended when all of its units are done, whoever did them.

A worker touches a loop, and the memory of its call, only with a chunk that it has claimed and not reported: these are
what keeps the loop from ending. A share is one word, so that a claim is one atomic exchange, which fails if anything has
changed meanwhile: from the lowest bit, the first unit left, the one after the last, whether the worker is asleep until
the word is written again, and the number of the loop.

Who waits looks at a word for a while, then marks it and sleeps; who writes the word next takes off the mark and wakes
the sleeper. So none is woken for nothing, and no wake-up gets lost.

A team's block, each group on cache lines of its own (see `Team` for who writes what):

    loop       what to run (entry and code); the registers that the body reads, where they are and which; the bounds; trips of a unit, and how many units have one more; fuel; the job
    done       how many units the others have done, with the mark of a worker 0 that sleeps; the fuel they have spent
    settings   how often a worker looks for a loop before it sleeps, and worker 0 for the end of one; whether to stop;
               the number of workers; the team's lock; the number of the last loop
    worker w   its share; the lock on which it sleeps
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mdsl.bytecode.worker_context import WorkerContext
from mdsl.codegen import native
from mdsl.support import cache as object_cache
from mdsl.target.target import Target
from mdsl.vm.locks import function_address
from mdsl.vm.memory import LINE_WORDS, Job, buffer_slot

LOOP, DONE, SETTINGS, WORKERS = (LINE_WORDS * line for line in range(4))
SPENT = DONE + 1
SPINS, LATE_SPINS, STOP, SIZE, LOCK, NUMBER = range(SETTINGS, SETTINGS + 6)
SHARE, WAKER = range(2)
ERA, TEAM, ARGUMENTS, FULL, TURN, COUNT, FRAMES = range(7)

SUCCESS, BUSY, STALE, EXHAUSTED = range(4)
"""What a call answers: it is done; there is no free frame, and another may be made; the process has been forked, or
the team has ended, since the table of frames was made; a worker has run out of fuel, and nothing is finished."""

MAX_THREADS = 64
"""Workers of a team."""

_UNIT_BITS = 12
UNITS = (1 << _UNIT_BITS) - 1
"""Units that a loop is divided into: enough for a fair division among that many workers."""
ASLEEP = 1 << 2 * _UNIT_BITS
"""The mark of a word whose next writer wakes a sleeper."""

_LOOP_FIELDS = ("ENTRY", "CODE", "REGISTERS", "LIVE", "LOWER", "STEP", "PART", "REST", "FUEL", "JOB")

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

_SYMBOLS = ("set_up", "forked", "era", "pause", "clock", "share", "call", "halt", "serve")


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
        self.share = code.address("share")
        locking = map(function_address, ("PyThread_acquire_lock", "PyThread_release_lock"))
        make("set_up", None, word, word)(*locking)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forked)


@cache
def native_calls() -> NativeCalls:
    """Those of this process."""
    with native.alone():
        return _native_calls()


@cache
def _native_calls() -> NativeCalls:
    target = Target.host()
    text = _text(target.architecture)
    key = object_cache.key("calls", text)
    return NativeCalls(native.load_object(key, _SYMBOLS, lambda: native.to_object(text, target), target))


def _text(architecture: str) -> str:
    declaration, pause = _PAUSE.get(architecture, ("", 'fence syncscope("singlethread") seq_cst'))
    names = {
        "CLOCK": clock_intrinsic(architecture), "PAUSE_DECLARATION": declaration, "PAUSE": pause,
        "LINE_WORDS": LINE_WORDS, "CONTEXT_TEAM": WorkerContext.TEAM, "CONTEXT_JOB": WorkerContext.JOB,
        "CONTEXT_STOP": WorkerContext.STOP, "CONTEXT_FUEL": WorkerContext.FUEL, "JOB_CODE": Job.CODE, "JOB_BUFFERS": Job.BUFFERS,
        "JOB_LOCK": Job.LOCK, "JOB_FUEL": Job.FUEL, "JOB_WORKERS": Job.WORKERS, "EXHAUSTED": EXHAUSTED,
        "FIRST_SLOT": buffer_slot(0), "TEAM_WORKERS": WORKERS, "UNIT_BITS": _UNIT_BITS, "UNITS": UNITS,
        "ASLEEP": ASLEEP, "ONE_LOOP": 2 * ASLEEP, "LOOP": LOOP, "DONE": DONE, "SPENT": SPENT, "SPINS": SPINS, "LATE_SPINS": LATE_SPINS,
        "STOP": STOP, "SIZE": SIZE, "LOCK": LOCK, "NUMBER": NUMBER, "WAKER": WAKER, "TEAM": TEAM,
        "ARGUMENTS": ARGUMENTS, "FULL": FULL, "TURN": TURN, "COUNT": COUNT, "FRAMES": FRAMES, "SUCCESS": SUCCESS,
        "BUSY": BUSY, "STALE": STALE, **{f"LOOP_{name}": place for place, name in enumerate(_LOOP_FIELDS)},
    }  # fmt: skip
    parts = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("calls.ll", "sharing.ll")
    )
    text = "\n".join(parts)
    for name, value in names.items():
        text = text.replace(f"%{name}%", str(value))
    return text


def clock_intrinsic(architecture: str) -> str:
    """The processor's clock that every program may read. On AArch64 LLVM's cycle counter is the virtual timer, and its
    steady counter is always 0."""
    return "llvm.readcyclecounter" if architecture in ("x86_64", "aarch64") else "llvm.readsteadycounter"
