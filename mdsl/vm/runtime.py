"""The native code that workers wait, meet and are given work in.

It is portable LLVM IR: atomics, the processor's pause instruction, and the system's yield by its address.

A team's block of 64-bit words, each group on cache lines of its own (see `Team` for who writes what):

    sequence   the number of the last job
    job        the address of the last job
    done       how many workers have finished it
    settings   how often an idle worker looks for a job; the address of the yield function; whether to stop
    worker w   whether it is asleep, the sequence that it has seen
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

from mdsl.bytecode.machine import Context
from mdsl.codegen import native
from mdsl.support import cache as object_cache
from mdsl.target.target import Target
from mdsl.vm.memory import LINE_WORDS, Job

SEQUENCE, JOB, DONE, SETTINGS, WORKERS = (LINE_WORDS * line for line in range(5))
SPINS, YIELD, STOP, SIZE = SETTINGS, SETTINGS + 1, SETTINGS + 2, SETTINGS + 3
MAX_THREADS = 64
"""Workers of a team; `submit` reports the sleeping ones as the bits of a word."""

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

_IR = """
%PAUSE_DECLARATION%
declare i64 @%CLOCK%()

define void @pause(i64 %count) {
  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %next, %loop ]
  %PAUSE%
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %end
end:
  ret void
}

define i64 @clock() {
  %now = call i64 @%CLOCK%()
  ret i64 %now
}

; Returns when the word is no longer `value`. The others may not be running, so in the end it yields.
define internal void @await_change(ptr %word, i64 %value, ptr %yield) {
  br label %look
look:
  %i = phi i64 [ 0, %0 ], [ %next, %wait ], [ %next, %give_way ]
  %now = load atomic i64, ptr %word acquire, align 8
  %same = icmp eq i64 %now, %value
  %next = add i64 %i, 1
  %impatient = icmp ugt i64 %i, 4096
  br i1 %same, label %choose, label %end
choose:
  br i1 %impatient, label %give_way, label %wait
wait:
  %PAUSE%
  br label %look
give_way:
  call i32 %yield()
  br label %look
end:
  ret void
}

; The last worker to come starts a new generation, which the others wait for.
define void @barrier(ptr %context) {
  %workers.p = getelementptr i64, ptr %context, i64 %WORKERS%
  %workers = load i64, ptr %workers.p
  %alone = icmp eq i64 %workers, 1
  br i1 %alone, label %end, label %arrive
arrive:
  %count.pp = getelementptr i64, ptr %context, i64 %BARRIER%
  %count.p = load ptr, ptr %count.pp
  %yield.p = getelementptr i64, ptr %context, i64 %CONTEXT_YIELD%
  %yield = load ptr, ptr %yield.p
  %generation.p = getelementptr i64, ptr %count.p, i64 %LINE_WORDS%
  %generation = load atomic i64, ptr %generation.p monotonic, align 8
  %others = atomicrmw add ptr %count.p, i64 1 acq_rel
  %arrived = add i64 %others, 1
  %last = icmp eq i64 %arrived, %workers
  br i1 %last, label %release, label %wait
release:
  store atomic i64 0, ptr %count.p monotonic, align 8
  %following = add i64 %generation, 1
  store atomic i64 %following, ptr %generation.p release, align 8
  ret void
wait:
  call void @await_change(ptr %generation.p, i64 %generation, ptr %yield)
  br label %end
end:
  ret void
}

define void @run(ptr %job, i64 %worker) {
  %entry = load ptr, ptr %job
  %code.p = getelementptr i64, ptr %job, i64 %JOB_CODE%
  %code = load ptr, ptr %code.p
  %buffers.p = getelementptr i64, ptr %job, i64 %JOB_BUFFERS%
  %buffers = load ptr, ptr %buffers.p
  %pairs = getelementptr i64, ptr %job, i64 %JOB_WORKERS%
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %worker
  %registers = load ptr, ptr %pair
  %context.p = getelementptr i64, ptr %pair, i64 1
  %context = load ptr, ptr %context.p
  call void %entry(ptr %code, ptr %registers, ptr %buffers, ptr %context)
  ret void
}

; Gives the team's workers a job. Returns a bit for each one that is asleep, which the caller must wake.
define internal i64 @post(ptr %team) {
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  store atomic i64 0, ptr %done.p monotonic, align 8
  %before = atomicrmw add ptr %team, i64 1 seq_cst
  br label %look
look:
  %w = phi i64 [ 1, %0 ], [ %next, %look.end ]
  %sleepers = phi i64 [ 0, %0 ], [ %sleepers.next, %look.end ]
  %more = icmp ult i64 %w, %size
  br i1 %more, label %look.one, label %end
look.one:
  %line = mul i64 %w, %LINE_WORDS%
  %place = add i64 %line, %TEAM_WORKERS%
  %asleep.p = getelementptr i64, ptr %team, i64 %place
  %asleep = load atomic i64, ptr %asleep.p seq_cst, align 8
  %is.asleep = icmp ne i64 %asleep, 0
  br i1 %is.asleep, label %look.asleep, label %look.end
look.asleep:
  %was = atomicrmw xchg ptr %asleep.p, i64 0 seq_cst
  %bit = shl i64 %was, %w
  br label %look.end
look.end:
  %found = phi i64 [ 0, %look.one ], [ %bit, %look.asleep ]
  %sleepers.next = or i64 %sleepers, %found
  %next = add i64 %w, 1
  br label %look
end:
  ret i64 %sleepers
}

define void @take_part(ptr %team) {
  %job.p = getelementptr i64, ptr %team, i64 %JOB%
  %job = load ptr, ptr %job.p
  %size.p = getelementptr i64, ptr %team, i64 %SIZE%
  %size = load i64, ptr %size.p
  %yield.p = getelementptr i64, ptr %team, i64 %YIELD%
  %yield = load ptr, ptr %yield.p
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  %others = sub i64 %size, 1
  call void @run(ptr %job, i64 0)
  br label %look
look:
  %done = load atomic i64, ptr %done.p acquire, align 8
  %finished = icmp eq i64 %done, %others
  br i1 %finished, label %end, label %wait
wait:
  call void @await_change(ptr %done.p, i64 %done, ptr %yield)
  br label %look
end:
  ret void
}

; Runs a job with the team if all of it is awake; else returns the sleepers to wake before `take_part`.
define i64 @submit(ptr %team, ptr %job) {
  %job.p = getelementptr i64, ptr %team, i64 %JOB%
  store ptr %job, ptr %job.p
  %sleepers = call i64 @post(ptr %team)
  %ready = icmp eq i64 %sleepers, 0
  br i1 %ready, label %go, label %end
go:
  call void @take_part(ptr %team)
  br label %end
end:
  ret i64 %sleepers
}

; Tells the workers to stop. Returns the sleepers, who must be woken to see it.
define i64 @halt(ptr %team) {
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  store i64 1, ptr %stop.p
  %sleepers = call i64 @post(ptr %team)
  ret i64 %sleepers
}

; A worker's life: returns 0 when it has been idle for long and must sleep until woken, 1 when it must end.
; It says that it sleeps before it looks for a job for the last time, and `post` looks for sleepers after it
; gave the job, so one of the two sees the other.
define i64 @serve(ptr %team, i64 %worker) {
  %line = mul i64 %worker, %LINE_WORDS%
  %place = add i64 %line, %TEAM_WORKERS%
  %asleep.p = getelementptr i64, ptr %team, i64 %place
  %seen.p = getelementptr i64, ptr %asleep.p, i64 1
  %spins.p = getelementptr i64, ptr %team, i64 %SPINS%
  %spins = load i64, ptr %spins.p
  %stop.p = getelementptr i64, ptr %team, i64 %STOP%
  %job.p = getelementptr i64, ptr %team, i64 %JOB%
  %done.p = getelementptr i64, ptr %team, i64 %DONE%
  br label %idle
idle:
  %seen = load i64, ptr %seen.p
  br label %look
look:
  %i = phi i64 [ 0, %idle ], [ %next, %wait ]
  %sequence = load atomic i64, ptr %team acquire, align 8
  %same = icmp eq i64 %sequence, %seen
  br i1 %same, label %wait, label %work
wait:
  %PAUSE%
  %next = add i64 %i, 1
  %patient = icmp ult i64 %next, %spins
  br i1 %patient, label %look, label %tire
tire:
  %ignored = atomicrmw xchg ptr %asleep.p, i64 1 seq_cst
  %last.look = load atomic i64, ptr %team seq_cst, align 8
  %still = icmp eq i64 %last.look, %seen
  br i1 %still, label %sleep, label %get.up
get.up:
  %mine = atomicrmw xchg ptr %asleep.p, i64 0 seq_cst
  %not.woken = icmp eq i64 %mine, 1
  br i1 %not.woken, label %idle, label %sleep
sleep:
  ret i64 0
work:
  store i64 %sequence, ptr %seen.p
  %stop = load i64, ptr %stop.p
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %end, label %do
do:
  %job = load ptr, ptr %job.p
  call void @run(ptr %job, i64 %worker)
  %count = atomicrmw add ptr %done.p, i64 1 release
  br label %idle
end:
  ret i64 1
}
"""

_SYMBOLS = ("pause", "clock", "barrier", "run", "take_part", "submit", "halt", "serve")


class Runtime:
    """The native functions; calling one releases the GIL."""

    def __init__(self, code: native.NativeCode) -> None:
        self._code = code
        word = ctypes.c_int64

        def make(name: str, result: type | None, *arguments: type) -> Callable[..., int]:
            return ctypes.CFUNCTYPE(result, *arguments)(code.address(name))

        self.pause = make("pause", None, word)
        self.clock = make("clock", ctypes.c_uint64)
        self.run = make("run", None, word, word)
        self.take_part = make("take_part", None, word)
        self.submit = make("submit", ctypes.c_uint64, word, word)
        self.halt = make("halt", ctypes.c_uint64, word)
        self.serve = make("serve", word, word, word)
        self.barrier_address = code.address("barrier")
        self.yield_address = _yield_address()


@cache
def runtime() -> Runtime:
    """The runtime of this process."""
    target = Target.host()
    text = _text(target.architecture)
    key = object_cache.key("runtime", text)
    return Runtime(native.load_object(key, _SYMBOLS, lambda: native.to_object(text, target), target))


def _text(architecture: str) -> str:
    declaration, pause = _PAUSE.get(architecture, ("", 'fence syncscope("singlethread") seq_cst'))
    names = {
        "CLOCK": clock_intrinsic(architecture), "PAUSE_DECLARATION": declaration, "PAUSE": pause,
        "LINE_WORDS": LINE_WORDS,
        "WORKERS": Context.WORKERS, "BARRIER": Context.BARRIER, "CONTEXT_YIELD": Context.YIELD_FUNCTION,
        "JOB_CODE": Job.CODE, "JOB_BUFFERS": Job.BUFFERS, "JOB_WORKERS": Job.WORKERS,
        "SIZE": SIZE, "DONE": DONE, "JOB": JOB, "YIELD": YIELD, "STOP": STOP, "SPINS": SPINS,
        "TEAM_WORKERS": WORKERS,
    }  # fmt: skip
    text = _IR
    for name, value in names.items():
        text = text.replace(f"%{name}%", str(value))
    return text


def clock_intrinsic(architecture: str) -> str:
    """The processor's clock. Only x86 lets every program read its cycle counter."""
    return "llvm.readcyclecounter" if architecture == "x86_64" else "llvm.readsteadycounter"


def _yield_address() -> int:
    """The system's function that lets another thread run on this processor."""
    library, name = (None, "sched_yield") if os.name == "posix" else ("kernel32", "SwitchToThread")
    address = ctypes.cast(ctypes.CDLL(library)[name], ctypes.c_void_p).value
    assert address is not None, name
    return address
