"""Measuring a program: the time of a call, and counts of instructions, dispatches and kernel calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdsl.bytecode.module import DTYPES
from mdsl.compiler.entry import closed
from mdsl.runtime.executable import Executable, VmExecutable
from mdsl.vm.program import Profile

BUDGET = 2.0
"""Seconds that the runs of one measurement may take in all, three runs apart."""


@dataclass(frozen=True)
class Timing:
    """Seconds a call over `runs` calls: the median, the fastest, and the quartiles."""

    runs: int
    median: float
    fastest: float
    lower: float
    upper: float


def deadline() -> float:
    """When a measurement that begins now has spent its budget, on `time.perf_counter`."""
    return time.perf_counter() + BUDGET


def time_calls(call: Callable[[], object], runs: int, budget: float | None = None) -> Timing:
    """Times `call`, once warmed up, `runs` times, or fewer (at least 3) if the budget is spent; one that spends it
    all by itself is not called again."""
    budget = BUDGET if budget is None else budget
    begin = time.perf_counter()
    call()
    now = time.perf_counter()
    seconds = [now - begin] if now - begin > budget else []
    while not seconds or (len(seconds) < runs and now - begin <= budget) or 1 < len(seconds) < 3:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        seconds.append(now - start)
    lower, median, upper = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return Timing(len(seconds), median, min(seconds), lower, upper)


def buffers(
    executable: Executable, arrays: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and outputs for many calls: a donated input lies, as a copy of the array, where its output does."""
    inputs = list(arrays)
    outputs = [np.empty(spec.shape, DTYPES[spec.dtype]) for spec in closed(executable.outputs)]
    if isinstance(executable, VmExecutable):
        for given, made in executable.program.function.donations:
            outputs[made] = inputs[given] = np.array(inputs[given])
    return inputs, outputs


def measure(executable: Executable, arrays: Sequence[np.ndarray], runs: int) -> Timing:
    """The time of a call. The outputs of a program on the VM are written in place, as in a service that
    keeps its buffers."""
    if isinstance(executable, VmExecutable):
        inputs, outputs = buffers(executable, arrays)
        return time_calls(lambda: executable.program.run(inputs, outputs), runs)
    return time_calls(lambda: executable(*arrays), runs)


def profile(executable: VmExecutable, arrays: Sequence[np.ndarray]) -> Profile:
    """One profiled call, after one that warms up."""
    inputs, outputs = buffers(executable, arrays)
    executable.program.profile(inputs, outputs)
    return executable.program.profile(inputs, outputs)
