"""The pool of a program's frames, each for one call at a time; native code takes and returns them (see `calls`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mdsl.vm import calls
from mdsl.vm.memory import Frame
from mdsl.vm.workers import team


class FramePool:
    """At most `most` frames, for a call beyond the number of processors would only take memory: who finds none waits
    for one. The first that is free is used, so that the memory of those before it is the warmest.

    Nothing of a call is kept here. A table of frames is never changed: another one takes its place, and a frame that
    gets lost when two threads do that at once is no more than garbage.
    """

    def __init__(self, make: Callable[[], Frame], most: int, arguments: int, threads: int) -> None:
        self._make, self._most, self._arguments, self._threads = make, most, arguments, threads
        self._call = calls.native_calls().call
        self._table = self._table_of(())

    def run(self, addresses: bytes) -> bool:
        """Make a call on arrays at these addresses, which are 64-bit words. False if it ran out of fuel."""
        while True:
            table = self._table
            status = self._call(table.address, addresses)
            if status in (calls.SUCCESS, calls.EXHAUSTED):
                return status == calls.SUCCESS
            kept = () if status == calls.STALE else table.frames
            self._table = self._table_of((*kept, self._make()))

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Those that have been made."""
        return self._table.frames

    def _table_of(self, frames: tuple[Frame, ...]) -> _Table:
        return _Table(frames, self._most, self._arguments, self._threads)


class _Table:
    """The words of a table of frames."""

    def __init__(self, frames: tuple[Frame, ...], most: int, arguments: int, threads: int) -> None:
        self.frames = frames
        # Before the team is asked for: a fork between the two makes this table a stale one.
        era = calls.native_calls().era()
        self._team = team(threads) if threads > 1 else None
        words: Sequence[int] = [0] * calls.FRAMES
        words[calls.ERA], words[calls.ARGUMENTS], words[calls.COUNT] = era, arguments, len(frames)
        words[calls.TEAM] = self._team.address if self._team else 0
        words[calls.FULL] = len(frames) >= most
        self._words = np.array([*words, *(frame.job for frame in frames)], np.int64)
        self.address: int = self._words.ctypes.data
