"""Teams of worker threads that help the calling thread with parallel loops.

Workers are Python threads that live in native code with the GIL released. One that has had nothing to do
for a while sleeps on a lock, until the thread that begins the next loop frees it. A team runs one job at a time;
there is one team for each number of threads in a process.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

import numpy as np

from mdsl.errors import MdslError
from mdsl.vm import calls
from mdsl.vm.calls import native_calls
from mdsl.vm.locks import NativeLock
from mdsl.vm.memory import LINE_WORDS, aligned

_IDLE_SECONDS = 50e-6
"""How long a worker looks for the next loop before it sleeps: longer than Python needs between calls, short enough not
to take the processor from others. Beside a busy process who looks for long spends its time there, and is put
aside when there is work: 150 us cost 1.5 times the time of a network."""

_LATE_SECONDS = 10e-6
"""How long the calling thread looks whether the others have finished their last chunks before it sleeps. One who takes
longer may have been put aside for others' sake: the sleeper's processor is free for it."""


class Team:
    """`size` workers: the thread that submits a job is worker 0, the others are threads of the team.

    `address` is that of the team's block, for native code (see `calls`). Raises MdslError where threads cannot be
    started.
    """

    def __init__(self, size: int) -> None:
        self._calls = native_calls()
        self._memory = aligned(8 * (calls.WORKERS + LINE_WORDS * size)).view(np.int64)
        self._locks = [NativeLock() for _ in range(size + 1)]
        self._memory[calls.SPINS] = _spins(_IDLE_SECONDS)
        self._memory[calls.LATE_SPINS] = _spins(_LATE_SECONDS)
        self._memory[calls.SIZE] = size
        self._memory[calls.LOCK] = self._locks[size].address
        for worker, lock in enumerate(self._locks[:size]):
            lock.take()
            self._memory[calls.WORKERS + LINE_WORDS * worker + calls.WAKER] = lock.address
        self.address: int = self._memory.ctypes.data
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"mdsl-worker-{worker}", daemon=True)
            for worker in range(1, size)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException as error:
            self._calls.halt(self.address)
            if isinstance(error, RuntimeError):
                raise MdslError(f"error: {size} threads cannot be started: {error}") from None
            raise

    def close(self) -> None:
        """End the team's threads."""
        self._calls.halt(self.address)
        for thread in self._threads:
            thread.join()

    def _serve(self, worker: int) -> None:
        self._calls.serve(self.address, worker)


_teams: dict[int, Team] = {}
_closing = False


def team(size: int) -> Team:
    """The process's team of that size, started when it is first asked for. Raises MdslError."""
    if _closing:
        raise MdslError("error: no threads can be started: Python is about to end")
    found = _teams.get(size)
    if found is None:  # no lock: whoever interrupts this thread may ask for a team, too
        made = Team(size)
        found = _teams.setdefault(size, made)
        if found is not made:
            made.close()
    return found


def _spins(seconds: float) -> int:
    """How many pauses take so long; a pause is from 4 to 140 cycles long."""
    pauses, best = 1000, float("inf")
    for _ in range(3):
        start = time.perf_counter()
        native_calls().pause(pauses)
        best = min(best, time.perf_counter() - start)
    return max(1, int(pauses * seconds / best))


def _close_teams() -> None:
    global _closing
    _closing = True
    while _teams:
        _teams.popitem()[1].close()


atexit.register(_close_teams)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_teams.clear)
