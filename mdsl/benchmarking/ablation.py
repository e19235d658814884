"""`--ablation`: the time of a program with each optimisation added in turn, from scalar interpretation to the JIT; or
without each pass of its pipeline, the others being there."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from mdsl import api
from mdsl.benchmarking.measure import Timing, buffers, deadline, measure
from mdsl.benchmarking.profile import count
from mdsl.bytecode.encode import encode
from mdsl.compiler.driver import lowering
from mdsl.compiler.levels import has_micro_kernels, level_of, standard_passes
from mdsl.compiler.settings import DEFAULT, Settings
from mdsl.dialects.builtin import ModuleOp
from mdsl.errors import MdslError
from mdsl.runtime.executable import Executable, VmExecutable

FACTORS = (2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One variant of a program: its time, and the instructions, the dispatches and the micro-kernel calls of one
    call. Of native code, instructions and dispatches are None: nothing is interpreted."""

    name: str
    timing: Timing
    instructions: int | None
    dispatches: int | None
    kernel_calls: int
    speedup: float


def can_ablate(module: ModuleOp) -> bool:
    """False for a program that is lowered so far that it has micro-kernels already, or cannot get any."""
    level = level_of(module)
    loops = standard_passes(Settings(ukernels=False), level)
    return not has_micro_kernels(module) and loops != standard_passes(DEFAULT, level)


def ablation(
    module: ModuleOp, arrays: Sequence[np.ndarray], runs: int, threads: int, settings: Settings
) -> Iterator[Row]:
    """The rows, as they are measured: interpreted without micro-kernels, with them singly, several in an
    instruction, and native code, which has as many in one as the settings say, else 4. Raises MdslError, for a
    module that `can_ablate` refuses too."""
    single = replace(settings, unroll_dispatch=None)
    variants = [
        ("interpreted", "vm", replace(single, ukernels=False)),
        ("+ micro-kernels", "vm", single),
        *((f"+ unroll-dispatch={n}", "vm", replace(settings, unroll_dispatch=n)) for n in FACTORS),
        ("jit", "jit", replace(settings, unroll_dispatch=settings.unroll_dispatch or 4)),
    ]
    first: float | None = None
    for name, engine, chosen in variants:
        executable = api.build(module, chosen, engine, threads)
        assert isinstance(executable, VmExecutable)
        timing = measure(executable, arrays, runs)
        counted = count(executable, arrays)
        first = first or timing.median
        interpreted = engine == "vm"
        yield Row(
            name,
            timing,
            counted.instructions if interpreted else None,
            counted.dispatches if interpreted else None,
            counted.kernel_calls,
            first / timing.median,
        )


# Without each pass ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Without:
    """What is lost without a pass: the part of the whole pipeline's time that the program takes longer, with its quartiles.

    The median seconds of a call are those of the program without the pass, and, in turn with it, of the whole pipeline's.
    `why` there are none: the pass does nothing to this program, so that nothing is lost, or there is no program without it.
    """

    name: str
    seconds: float | None = None
    whole: float | None = None
    lost: float | None = None
    spread: tuple[float, float] | None = None
    why: str = ""

    @property
    def is_noise(self) -> bool:
        """True if a call without the pass was sometimes slower and sometimes faster."""
        return self.spread is not None and self.spread[0] < 0 < self.spread[1]


def pass_ablation(
    module: ModuleOp, arrays: Sequence[np.ndarray], runs: int, threads: int, settings: Settings
) -> Iterator[Without]:
    """For each pass that the standard pipeline has for `module`, in its order. Raises MdslError."""
    steps = lowering(module.clone(), settings)
    executable = api.build(module, settings, "vm", threads)
    known, whole = _said(executable), _run_of(executable, arrays)
    for name in dict.fromkeys(step.name for step in steps):
        rest = [str(step) for step in steps if step.name != name]
        chosen = replace(settings, pipeline=",".join(rest))
        if name in {step.name for step in lowering(module.clone(), chosen)}:
            yield Without(name, why="the way down leads through it")
            continue
        try:
            executable = api.build(module, chosen, "vm", threads)
        except MdslError as error:
            yield Without(name, why=f"another cannot do without it: {_message(error)}")
            continue
        if _said(executable) == known:
            yield Without(name, lost=0.0, why="it changes nothing here")
        else:
            yield _in_turn(name, _run_of(executable, arrays), whole, runs)


def _message(error: MdslError) -> str:
    """What it says, without its place."""
    line = str(error).splitlines()[0]
    return line.partition("error: ")[2] or line


def _said(executable: Executable) -> bytes:
    """A digest of all that a program does."""
    assert isinstance(executable, VmExecutable)
    return sha256(encode(replace(executable.module, provenance={}))).digest()


def _run_of(executable: Executable, arrays: Sequence[np.ndarray]) -> Callable[[], object]:
    assert isinstance(executable, VmExecutable)
    inputs, outputs = buffers(executable, arrays)
    return lambda: executable.program.run(inputs, outputs)


def _in_turn(name: str, without: Callable[[], object], whole: Callable[[], object], runs: int) -> Without:
    """Calls both in turn, after a call that warms up: what else the machine does meets both alike."""
    calls = (without, whole)
    seconds: tuple[list[float], list[float]] = ([], [])
    end = 0.0
    for turn in range(runs + 1):
        for call, found in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        end = end or deadline()
        if turn > 2 and time.perf_counter() > end:
            break
    losses = [long / short - 1 for long, short in zip(seconds[0][1:], seconds[1][1:], strict=True)]
    lower, median, upper = np.quantile(losses, (0.25, 0.5, 0.75), method="weibull").tolist()
    alone, both = (statistics.median(found[1:]) for found in seconds)
    return Without(name, alone, both, median, (lower, upper))
