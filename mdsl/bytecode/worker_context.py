"""What native code knows of the worker that runs it."""

from __future__ import annotations


class WorkerContext:
    """The 64-bit fields of a worker's context, which native code reads."""

    JOB = 0
    TEAM = 1
    SHARE_FUNCTION = 2
    STOP = 3
    """The counter at which a chunk of a parallel loop ends."""
    PROFILE = 4
    FUEL = 5
    WORDS = 8
