"""The process that a runtime lives in: it prepares the model, then times calls whenever it is told to.

Its environment is set when it starts: libraries read it when they load.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import numpy as np

    from mdsl.benchmarking.peers import Prepared


@dataclass(frozen=True)
class Task:
    """What to run, on how many threads, and where the process may write what the runtime says. `module` is the
    adapter's; `settings` are for `mdsl.compile` and None for the other runtimes."""

    name: str
    module: str
    model: str
    inputs: dict[str, np.ndarray]
    threads: int
    log: str
    settings: dict[str, Any] | None


@dataclass(frozen=True)
class Ready:
    """The first answer: the runtime's version and way, the outputs, and how long preparing and one call took."""

    version: str
    how: str
    outputs: list[np.ndarray]
    prepare: float
    call: float


@dataclass(frozen=True)
class Failed:
    """The first answer of a runtime that is not installed or cannot run the model."""

    reason: str


@dataclass(frozen=True)
class Turn:
    """Calls to time: one at least, then as many as start within `seconds`, after calls that warm up for `warm`
    seconds, one at least: what ran before on the machine has filled its caches with other data."""

    seconds: float
    warm: float


def serve(pipe: Connection) -> None:
    """Answers a `Task` with `Ready` or `Failed`, then each `Turn` with the seconds of its calls, until the pipe is
    closed."""
    task: Task = pipe.recv()
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _confine(task.threads)
    try:
        start = time.perf_counter()
        prepared = _prepare(task)
        between = time.perf_counter()
        outputs = prepared.arrays(prepared.call())
        end = time.perf_counter()
    except Exception as error:
        pipe.send(_failure(task, error))
        return
    pipe.send(Ready(prepared.version, prepared.how, outputs, between - start, end - between))
    while True:
        try:
            turn: Turn = pipe.recv()
        except EOFError:
            return
        pipe.send(_timed(prepared, turn))


def _confine(threads: int) -> None:
    """Some runtimes start a thread a processor whatever they are told; so the process gets only so many."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-threads:])


def _prepare(task: Task) -> Prepared:
    from importlib import import_module

    prepare = import_module(task.module).prepare
    own = () if task.settings is None else (task.settings,)
    return prepare(task.model, task.inputs, task.threads, *own)


def _failure(task: Task, error: Exception) -> Failed:
    from mdsl.benchmarking.peers import PEERS, Refused

    if isinstance(error, ImportError) and task.name in PEERS:
        return Failed(f"not installed (pip install {PEERS[task.name]}): {error}")
    from mdsl.errors import MdslError

    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return Failed(line if isinstance(error, MdslError | Refused) else f"{type(error).__name__}: {line}")


def _timed(prepared: Prepared, turn: Turn) -> list[float]:
    call, clock = prepared.call, time.perf_counter
    end = clock() + turn.warm
    while True:
        call()
        if clock() >= end:
            break
    seconds: list[float] = []
    end = clock() + turn.seconds
    while True:
        start = clock()
        call()
        now = clock()
        seconds.append(now - start)
        if now >= end:
            return seconds
