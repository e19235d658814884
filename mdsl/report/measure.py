"""Measuring a program: the time of a call, what it does in it, and the ablations of the paper's table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdsl import api
from mdsl.bytecode.module import DTYPES
from mdsl.dialects.builtin import ModuleOp
from mdsl.executable import Executable, VmExecutable
from mdsl.vm.executable import Profile

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


@dataclass(frozen=True)
class Row:
    """One variant of a program: its time, and the instructions and micro-kernel calls of one call.

    `instructions` is None where nothing is interpreted.
    """

    name: str
    timing: Timing
    instructions: int | None
    kernel_calls: int
    speedup: float = 1.0


def time_calls(call: Callable[[], object], runs: int, budget: float = BUDGET) -> Timing:
    """Times `call`, once warmed up, `runs` times, or fewer (at least 3) if the budget is spent."""
    begin = time.perf_counter()
    call()
    slow = time.perf_counter() - begin > budget
    seconds: list[float] = []
    while len(seconds) < (1 if slow else runs):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        seconds.append(now - start)
        if now - begin > budget and len(seconds) >= 3:
            break
    lower, median, upper = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    return Timing(len(seconds), median, min(seconds), lower, upper)


def empty_outputs(executable: Executable) -> list[np.ndarray]:
    return [np.empty(spec.shape, DTYPES[spec.dtype]) for spec in executable.outputs]


def measure(executable: Executable, arrays: Sequence[np.ndarray], runs: int) -> Timing:
    """The time of a call. The outputs of a program on the VM are written in place, as in a service that
    keeps its buffers."""
    if isinstance(executable, VmExecutable):
        outputs = empty_outputs(executable)
        return time_calls(lambda: executable.program.run(arrays, outputs), runs)
    return time_calls(lambda: executable(*arrays), runs)


def profile(executable: VmExecutable, arrays: Sequence[np.ndarray]) -> Profile:
    """One profiled call, after one that warms up."""
    outputs = empty_outputs(executable)
    executable.program.profile(arrays, outputs)
    return executable.program.profile(arrays, outputs)


def ablation(
    module: ModuleOp, arrays: Sequence[np.ndarray], runs: int, threads: int, factor: int, pipeline: str | None
) -> Iterator[Row]:
    """The paper's four rows, from the interpreter without micro-kernels to native code, as they are measured."""
    unroll = f"+ unroll-dispatch={factor}"
    variants: list[tuple[str, str, dict[str, Any]]] = [
        ("interpreted", "vm", {"ukernels": False}),
        ("+ micro-kernels", "vm", {"pipeline": pipeline}),
        (unroll, "vm", {"pipeline": pipeline, "unroll_dispatch": factor}),
        ("jit", "jit", {"pipeline": pipeline, "unroll_dispatch": factor}),
    ]
    first: float | None = None
    for name, engine, settings in variants:
        executable = api.compile(module, engine=engine, threads=threads, **settings)
        assert isinstance(executable, VmExecutable)
        timing = measure(executable, arrays, runs)
        counts = executable.program.profile(arrays, empty_outputs(executable))
        first = first or timing.median
        instructions = None if engine == "jit" else counts.instructions
        yield Row(name, timing, instructions, sum(k.calls for k in counts.kernels), first / timing.median)
