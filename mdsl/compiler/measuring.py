"""Timing a small program lowered by several pipelines, for passes that choose by measurement (`Context.measure`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from mdsl.bytecode.module import Module
from mdsl.compiler.entry import random_arrays
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Measure
from mdsl.support import cache
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

_SECONDS = 0.01
"""What the calls of one candidate may take in a round."""

_BEHIND = 1.05
"""A candidate that has taken so many times the fastest's time is out of the race."""

_TRIALS = 2
"""Rounds in which all take part: a processor that was at rest takes three times as long for what it does first."""

_OTHERS = 32 << 20
"""Bytes that other layers of a network touch in between, at most: a server's last cache of hundreds of megabytes keeps the
weights of all, and to write as much before each call leaves time for one call."""


def measurer(lower: Callable[[ModuleOp, str], Module], target: Target) -> Measure:
    """What times programs for `target`, which `lower` makes of a module and the pipeline to begin with. What was
    measured is kept in the cache, by the program's text, the pipelines, the machine and the compiler.
    It raises TargetError where the target's code cannot run."""

    def measure(program: ModuleOp, pipelines: Sequence[str], rounds: int) -> list[float]:
        from mdsl.codegen.native import check_executable  # LLVM: only who measures needs it
        from mdsl.compiler.fingerprint import made_by

        key = cache.key("seconds", print_module(program), *pipelines, *made_by(target))
        known = cache.get_json(key, lambda found: [float(seconds) for seconds in found])
        if known is not None and len(known) == len(pipelines):
            return known
        check_executable(target, "be timed")
        calls = _calls([lower(program.clone(), pipeline) for pipeline in pipelines], target)
        # In a network other layers run in between, and weights come from memory.
        others = np.zeros((target.core.l2_bytes + min(target.core.l3_bytes, _OTHERS)) // 8)
        for call in calls:
            call()  # touches its memory and code for the first time, which must not count against it
        seconds = [float("inf")] * len(calls)
        for number in range(rounds):
            limit = _BEHIND * min(seconds) if number >= _TRIALS else float("inf")
            seconds = [
                min(s, _time(call, others)) if s <= limit else s
                for s, call in zip(seconds, calls, strict=True)
            ]
        cache.put_json(key, seconds)
        return seconds

    return measure


def _calls(modules: Sequence[Module], target: Target) -> list[Callable[[], object]]:
    """Calls of one program as it was lowered in several ways, as code for the target, all on the same random numbers
    and into the same results: where arrays lie can decide as much as the code."""
    from mdsl.vm.program import with_kernels

    programs = [with_kernels(module, target=target) for module in modules]
    inputs, outputs = random_arrays(programs[0].inputs), random_arrays(programs[0].outputs)
    return [lambda program=program: program.run(inputs, outputs) for program in programs]


def _time(call: Callable[[], object], others: np.ndarray) -> float:
    """The shortest of some calls, in seconds; `others` is written before each."""
    end = time.perf_counter() + _SECONDS
    best = float("inf")
    while True:
        others += 1
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
