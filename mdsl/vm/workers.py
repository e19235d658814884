"""Teams of worker threads that run a job together: the same code, each with its own registers.

Workers are Python threads that live in native code with the GIL released. One that has had nothing to do
for a while returns to Python and blocks on a lock, until the thread that submits the next job frees it.
A team runs one job at a time; there is one team for each number of threads in a process.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

import numpy as np

from mdsl.vm import runtime as native
from mdsl.vm.memory import LINE_WORDS, aligned
from mdsl.vm.runtime import runtime

_IDLE_SECONDS = 150e-6
"""How long an idle worker looks for the next job before it sleeps: longer than Python needs between calls,
short enough not to take the processor from others."""


class Team:
    """`size` workers: the thread that submits a job is worker 0, the others are threads of the team."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._runtime = runtime()
        self._memory = aligned(8 * (native.WORKERS + LINE_WORDS * size)).view(np.int64)
        self._memory[native.SPINS] = _idle_spins()
        self._memory[native.YIELD] = self._runtime.yield_address
        self._memory[native.SIZE] = size
        self._block: int = self._memory.ctypes.data
        self._wakers = [threading.Lock() for _ in range(size)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"mdsl-worker-{worker}", daemon=True)
            for worker in range(1, size)
        ]
        for waker in self._wakers:
            waker.acquire()
        for thread in self._threads:
            thread.start()

    def run(self, job: int) -> None:
        """Run the job at an address with all of the team. Other callers wait for their turn."""
        with self._lock:
            sleepers = self._runtime.submit(self._block, job)
            if sleepers:
                self._wake(sleepers)
                self._runtime.take_part(self._block)

    def close(self) -> None:
        """End the team's threads."""
        with self._lock:
            self._wake(self._runtime.halt(self._block))
            for thread in self._threads:
                thread.join()

    def _serve(self, worker: int) -> None:
        while not self._runtime.serve(self._block, worker):
            self._wakers[worker].acquire()

    def _wake(self, sleepers: int) -> None:
        for worker, waker in enumerate(self._wakers):
            if sleepers >> worker & 1:
                waker.release()


_teams: dict[int, Team] = {}
_lock = threading.Lock()


def team(size: int) -> Team:
    """The process's team of that size, started when it is first asked for."""
    found = _teams.get(size)
    if found is None:
        with _lock:
            found = _teams.get(size) or _teams.setdefault(size, Team(size))
    return found


def _idle_spins() -> int:
    """How many pauses take `_IDLE_SECONDS`; a pause is from 4 to 140 cycles long."""
    pauses, best = 1000, float("inf")
    for _ in range(3):
        start = time.perf_counter()
        runtime().pause(pauses)
        best = min(best, time.perf_counter() - start)
    return max(1, int(pauses * _IDLE_SECONDS / best))


def _close_teams() -> None:
    while _teams:
        _teams.popitem()[1].close()


def _forget_teams() -> None:
    """A forked child has none of its parent's threads, and a lock that one of them held stays locked."""
    global _lock
    _lock = threading.Lock()
    _teams.clear()


atexit.register(_close_teams)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_teams)
