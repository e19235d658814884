"""Timing a small program lowered by several pipelines, for passes that choose by measurement (`Context.measure`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mdsl.bytecode.module import Module
from mdsl.compiler.entry import random_arrays
from mdsl.dialects.builtin import ModuleOp
from mdsl.passes.base import Measure
from mdsl.support import cache
from mdsl.syntax.printer import print_module
from mdsl.target.target import Target

_SECONDS = 0.02
"""What the calls of one candidate may take in a round."""


def measurer(lower: Callable[[ModuleOp, str], Module], target: Target) -> Measure:
    """What times programs for `target`, which `lower` makes of a module and the pipeline to begin with. What was
    measured is kept in the cache, by the program's text, the pipelines, the machine and the compiler.
    It raises TargetError where the target's code cannot run."""

    def measure(program: ModuleOp, pipelines: Sequence[str], rounds: int) -> list[float]:
        from mdsl.codegen.native import check_executable  # LLVM: only who measures needs it
        from mdsl.compiler.fingerprint import made_by

        key = cache.key("seconds", print_module(program), *pipelines, *made_by(target))
        known = cache.get_json(key)
        if known is not None:
            return known
        check_executable(target, "be timed")
        calls = [_call(lower(program.clone(), pipeline), target) for pipeline in pipelines]
        seconds = [_time(call) for call in calls]
        for _ in range(rounds - 1):
            seconds = [min(best, _time(call)) for best, call in zip(seconds, calls, strict=True)]
        cache.put_json(key, seconds)
        return seconds

    return measure


def _call(module: Module, target: Target) -> Callable[[], object]:
    """A call of the program, as code for the target, on random numbers."""
    from mdsl.vm.program import with_kernels

    program, kernels = with_kernels(module, target=target)
    arrays = random_arrays(program.inputs)
    return lambda kernels=kernels: program(*arrays)  # the kernels own the code that the program calls


def _time(call: Callable[[], object]) -> float:
    """The shortest of some calls, in seconds."""
    end = time.perf_counter() + _SECONDS
    best = float("inf")
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            return best
